"""Folds keep clusters whole."""

from hypothesis import given
from hypothesis import strategies as st

from personavec.stats.folds import folds


@given(st.lists(st.integers(0, 12), min_size=1), st.integers(1, 5), st.integers(0, 3))
def test_a_cluster_is_in_one_fold_and_folds_are_alike(clusters: list[int], count: int, seed: int) -> None:
    found = folds(clusters, count, seed)
    of = dict(zip(clusters, found.tolist(), strict=True))
    assert [of[name] for name in clusters] == found.tolist()
    sizes = [list(of.values()).count(fold) for fold in range(count)]
    assert max(sizes) - min(sizes) <= 1
    assert (found == folds(clusters, count, seed)).all()
