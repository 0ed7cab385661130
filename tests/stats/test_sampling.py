"""The subset is random, the same after an interruption, and the same in any order of the data."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from personavec.stats.sampling import priorities, priority, smallest


def test_priorities_are_uniform_and_belong_to_the_seed() -> None:
    ids = [f"sample-{i}" for i in range(5000)]
    one, other = priorities(ids, 0), priorities(ids, 1)
    assert stats.kstest(one, "uniform").pvalue > 1e-3 and one.min() >= 0 and one.max() < 1
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.06
    assert np.array_equal(one, priorities(tuple(ids), 0))


def test_priorities_never_change() -> None:
    """Known values: another version of the program must go on with the same subset."""
    assert priorities(["a", "b", "a"], 0).tolist() == [priority("a", 0, 0), priority("b", 0, 0), priority("a", 1, 0)]
    assert [round(p, 6) for p in priorities(["a", "b", "a"], 0)] == [0.995747, 0.647203, 0.434708]


@given(st.lists(st.sampled_from("abcdef"), max_size=20), st.randoms())
def test_order_does_not_matter(ids: list[str], random: object) -> None:
    shuffled = list(ids)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    one = sorted(zip(ids, priorities(ids, 3), strict=True))
    assert one == sorted(zip(shuffled, priorities(shuffled, 3), strict=True))
    assert len({p for _, p in one}) == len(ids)


def test_a_smaller_subset_begins_a_larger_one() -> None:
    values = priorities([str(i) for i in range(1000)], 0)
    large = smallest(values, 300)
    assert np.array_equal(smallest(values, 100), large[:100])
    assert np.array_equal(np.sort(large), np.sort(np.argsort(values)[:300]))
    assert len(smallest(values, 0)) == 0 and len(smallest(values, 5000)) == 1000
    assert smallest(np.array([0.5, 0.1, 0.5]), 2).tolist() == [1, 0]


def test_every_text_has_a_priority() -> None:
    assert len(set(priorities(["", "\0", "\ud800", "1:", "0:1:"], 0))) == 5


def test_ties_are_taken_in_the_order_of_the_data() -> None:
    found = smallest(np.repeat([1.0, 0.0], [20, 100]), 50)
    assert found.tolist() == list(range(20, 70)) and found.dtype == np.intp
    mixed = np.random.default_rng(0).integers(0, 3, 1000).astype(float)
    assert smallest(mixed, 900).tolist() == sorted(range(1000), key=lambda at: (mixed[at], at))[:900]
