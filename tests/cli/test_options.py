"""What the values of shared options mean."""

import pytest

from personavec.cli.options import read_columns, word_or_number
from personavec.errors import UserError


def test_columns_are_read_by_part() -> None:
    assert read_columns(None) is None
    assert read_columns("prompt=q, response = a=b") == {"prompt": "q", "response": "a=b"}
    for wrong in ("prompt", "prompt=", "=q", "prompt=q,,response=a"):
        with pytest.raises(UserError, match="is not of the form PART=COLUMN"):
            read_columns(wrong)


def test_a_layer_is_a_number_or_one_of_the_words() -> None:
    assert word_or_number("--layer", "auto", ["auto"]) == "auto"
    assert word_or_number("--layer", "14", ["auto"]) == 14
    for wrong in ("best", "-1", "1.5", "", "²"):
        with pytest.raises(UserError, match=r"^--layer .* is not understood\. Choose auto, or a layer number"):
            word_or_number("--layer", wrong, ["auto"])
