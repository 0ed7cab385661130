"""Every way to keep traits from being learned, in one table."""

from dataclasses import replace

import pytest

from personavec.errors import UserError
from personavec.finetune import Prevention, Training, methods
from personavec.finetune.methods import METHODS, OperationMethod, StreamMethod, stream_method
from personavec.model.edits import Intervention
from personavec.operations import FLOOR, OPERATIONS


def test_what_makes_sense_in_training_is_a_method_and_nothing_else_is() -> None:
    for operation in OPERATIONS.values():
        assert (operation.option in METHODS) == operation.trains
        if operation.trains:
            method = stream_method(operation.option)
            assert (method.example is None) == (operation.takes == "nothing")
            assert Training(method=method.name, layers="all", positions="response").prevention is method
    assert list(METHODS) == ["steer", "ablate", "floor", "regularise", "prompt", "interleave", "none"]


def test_a_further_operation_needs_no_further_code(monkeypatch: pytest.MonkeyPatch) -> None:
    import by_hand

    vector = by_hand.vector()
    operation = replace(FLOOR, name="mirror", option="mirror", takes="nothing")
    monkeypatch.setattr(methods, "METHODS", {"mirror": OperationMethod.of(operation)})
    prevention = Prevention(vector, method="mirror", layers="all")
    assert prevention.describe().layers == (1, 2, 3) and prevention.describe().traits == {"kind": 1.0}
    (item,) = prevention.method.interventions([vector], [1.0], "best")
    assert isinstance(item, Intervention) and item.operation is operation and item.direction.equal(vector.unit(2))


def test_a_method_of_the_data_acts_on_no_forward() -> None:
    for name in ("prompt", "interleave", "none"):
        assert not isinstance(METHODS[name], StreamMethod)
        with pytest.raises(UserError, match="Choose steer, ablate, floor or regularise"):
            stream_method(name)


def test_a_method_says_where_an_option_belongs() -> None:
    with pytest.raises(UserError, match="prompt has no use for `positions`") as caught:
        Training(method="prompt", positions="response")
    assert caught.value.advice == "It is for `method` steer, ablate or floor."
