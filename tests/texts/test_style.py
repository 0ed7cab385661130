"""Style is counted, and what it tells can be taken out of a figure."""

import numpy as np
import pytest

from personavec.texts.style import Style, features, held_equal, table


def test_features_of_a_text() -> None:
    text = "Well! Is it 3.5 km?\n- one\n* two\n1. three\nNO 😀"
    assert tuple(features(text)) == pytest.approx((np.log(13), 3, 1, 1, 3, 4 / 23, 1))
    assert features("") == Style(0, 0, 0, 0, 0, 0, 0)
    assert features("– a dash is no list, nor is 1.5\nor 2 things").list_lines == 0


def test_what_style_tells_is_taken_out_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    styles = table(["word " * int(n) + "!" * int(m) for n, m in rng.integers(1, 30, (60, 2))])
    own = rng.standard_normal(60)
    rest = held_equal(own + 5 * styles[:, 2] - 3 * styles[:, 0], styles)
    assert np.abs(styles.T @ rest).max() < 1e-6
    assert np.corrcoef(rest, own)[0, 1] > 0.95
    assert held_equal(own, np.ones((60, 7))) == pytest.approx(own - own.mean()), "what does not vary tells nothing"
