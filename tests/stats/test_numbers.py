"""Numbers are float64 from here on; what is none is refused with its shape."""

from typing import Any

import numpy as np
import pytest

from personavec.stats.numbers import finite


def test_whole_numbers_become_floats() -> None:
    assert finite([1, 2]).dtype == np.float64 and finite([[1], [2]]).tolist() == [[1.0], [2.0]]


def test_other_shapes_and_values_are_refused_by_name() -> None:
    cases: list[Any] = [
        ([], None, "no values"), ([[]], 1, "no values"), ([[1.0]], 1, r"values of shape \(1, 1\)"),
        ([1.0], 2, r"values of shape \(1,\)"), (3.0, None, r"values of shape \(\)"),
        ([[[1.0]]], None, r"values of shape \(1, 1, 1\)"), ([np.inf], 1, "not finite"),
    ]  # fmt: skip
    for values, dimensions, said in cases:
        with pytest.raises(ValueError, match=said):
            finite(values, dimensions)
