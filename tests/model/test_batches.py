"""Batches hold what fits, the longest first, every sequence once."""

from hypothesis import given
from hypothesis import strategies as st

from personavec.model.batches import by_length


@given(st.lists(st.integers(0, 60), max_size=40), st.integers(0, 200))
def test_every_sequence_once_within_the_budget(lengths: list[int], budget: int) -> None:
    batches = by_length(lengths, budget)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or max(lengths[index] for index in batch) * len(batch) <= budget
    order = [lengths[index] for batch in batches for index in batch]
    assert order == sorted(lengths, reverse=True)


def test_a_batch_is_as_full_as_it_can_be() -> None:
    assert by_length([5, 9, 5, 4], 10) == [[1], [0, 2], [3]]
    assert by_length([3, 4], 0) == [[1], [0]]
    assert by_length([], 10) == []
