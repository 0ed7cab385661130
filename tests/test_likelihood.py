"""Losses of whole sequences equal those of a full forward each, also in batches, under steering and in pieces."""

from typing import Any

import pytest
import torch
from torch import Tensor

from personavec import likelihood
from personavec.interventions import steering
from personavec.likelihood import IGNORED, each_sequence, sequence_losses, token_logs
from personavec.model import ChatModel
from personavec.operations import Positions
from personavec.progress import progress
from tiny import chat_model, editing, plain_states, random_ids, vector

IDS = [random_ids(count, count) for count in (9, 4, 6)]
LABELS = [[IGNORED, *ids[1:]] for ids in IDS]
LABELS[0] = [IGNORED] * 4 + IDS[0][4:7] + [IGNORED, IDS[0][8]]  # a hole, as between two answers


def plain_loss(model: ChatModel, ids: list[int], labels: list[int]) -> float:
    """Mean of -log p of the labelled tokens, from one full forward."""
    logs = plain_states(model.model, model.blocks.layers, ids)[1].log_softmax(-1)
    return -sum(float(logs[at - 1, t]) for at, t in enumerate(labels) if t != IGNORED) / sum(
        t != IGNORED for t in labels
    )


def test_losses_are_those_of_a_full_forward_each_in_the_order_given(tiny: ChatModel) -> None:
    found = sequence_losses(tiny, IDS, LABELS, name="losses")
    assert found.tolist() == pytest.approx(
        [plain_loss(tiny, *each) for each in zip(IDS, LABELS, strict=True)], rel=1e-4
    )
    [alone] = sequence_losses(tiny, IDS[1:2], LABELS[1:2], name="losses")
    assert alone == pytest.approx(float(found[1]), rel=1e-5)


def test_a_first_token_with_a_label_bears_no_loss(tiny: ChatModel) -> None:
    labelled = sequence_losses(tiny, IDS[1:2], [IDS[1]], name="losses")
    assert labelled.tolist() == sequence_losses(tiny, IDS[1:2], LABELS[1:2], name="losses").tolist()


def test_a_label_beyond_the_end_is_predicted_only(tiny: ChatModel) -> None:
    ids, last = IDS[1], 77
    [found] = sequence_losses(tiny, [ids], [[IGNORED] * 4 + [last]], name="losses")
    logs = plain_states(tiny.model, tiny.blocks.layers, ids)[1].log_softmax(-1)
    assert found == pytest.approx(-float(logs[-1, last]), rel=1e-4)


@pytest.mark.parametrize(("positions", "moved"), [("all", range(6)), ("prompt", range(3)), ("response", range(2, 6))])
def test_steering_acts_where_the_start_says_and_on_everything_without_one(
    tiny: ChatModel, positions: Positions, moved: range
) -> None:
    """A response that starts at token 3 is predicted from token 2 on."""
    persona, ids = vector(tiny, scale=3), IDS[2]
    where = torch.zeros(6, 1)

    def with_it(model: ChatModel) -> float:
        handle = editing(model.blocks.layers[1], lambda hidden: hidden + where * persona.directions[2])
        try:
            return plain_loss(model, ids, LABELS[2])
        finally:
            handle.remove()

    where[list(moved)] = 1
    rows = steering(persona, 1.0, positions=positions)
    both = [ids, IDS[0]], [LABELS[2], LABELS[0]]
    found = sequence_losses(tiny, *both, rows, [3, 4], name="losses")
    assert found[0] == pytest.approx(with_it(tiny), rel=1e-4)
    where[:] = 1
    assert sequence_losses(tiny, *both, rows, name="losses")[0] == pytest.approx(with_it(tiny), rel=1e-4)


def test_token_logs_are_taken_in_pieces(tiny: ChatModel, monkeypatch: pytest.MonkeyPatch) -> None:
    states = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    wanted = tiny.head(states).log_softmax(-1)
    best = wanted.argmax(-1).tolist()
    tokens = [best[0], (best[1] + 1) % 320, best[2], best[3], (best[4] + 1) % 320]
    heads: list[int] = []
    head = tiny.head

    def counted(_: ChatModel, piece: Tensor) -> Tensor:
        heads.append(len(piece))
        return head(piece)

    monkeypatch.setattr(type(tiny), "head", counted)
    monkeypatch.setattr(likelihood, "HEAD_TOKENS", 2)
    with torch.inference_mode():
        logs, greedy = token_logs(tiny, states, tokens)
    assert heads == [2, 2, 1]
    assert logs.dtype == torch.float64 and logs.tolist() == pytest.approx(wanted[range(5), tokens].tolist(), rel=1e-5)
    assert greedy.tolist() == [True, False, True, True, False]


def test_each_sequence_is_used_once_with_the_states_that_predict_its_labels(tiny: ChatModel) -> None:
    seen: list[tuple[int, tuple[int, ...]]] = []

    def use(at: int, states: torch.Tensor) -> str:
        seen.append((at, tuple(states.shape)))
        return f"sequence {at}"

    found = each_sequence(tiny, IDS, LABELS, use, name="states", unit="texts")
    assert found == ["sequence 0", "sequence 1", "sequence 2"]
    assert sorted(seen) == [(0, (4, 32)), (1, (3, 32)), (2, (5, 32))]


def test_dropout_is_off_while_losses_are_taken_and_on_again_after() -> None:
    model = chat_model()
    plain = sequence_losses(model, IDS, LABELS, name="losses")
    model.model.train()
    for block in model.model.model.layers:
        block.self_attn.attention_dropout = 0.5
    assert sequence_losses(model, IDS, LABELS, name="losses").tolist() == plain.tolist()
    assert model.model.training


def test_a_forward_is_given_a_mask_where_it_has_several_rows_and_keeps_nothing(
    tiny: ChatModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[dict[str, Any]] = []
    forward = tiny.blocks.trunk.forward

    def seen(**options: Any) -> Any:
        given.append(options)
        return forward(**options)

    monkeypatch.setattr(tiny.blocks.trunk, "forward", seen)
    sequence_losses(tiny, [IDS[1], IDS[2]], [LABELS[1], LABELS[2]], name="losses")
    sequence_losses(tiny, [IDS[1]], [LABELS[1]], name="losses")
    both, alone = given
    assert sorted(both["attention_mask"].sum(1).tolist()) == [4, 6] and "attention_mask" not in alone
    assert both["use_cache"] is alone["use_cache"] is False


def test_progress_is_told_what_is_counted(tiny: ChatModel, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[Any, ...]] = []

    def telling(name: str, total: int, unit: str) -> Any:
        told.append((name, total, unit))
        return progress(name, total, unit)

    monkeypatch.setattr(likelihood, "progress", telling)
    sequence_losses(tiny, IDS, LABELS, name="losses")
    sequence_losses(tiny, IDS, LABELS, name="again", unit="texts")
    assert told == [("losses", 3, "samples"), ("again", 3, "texts")]
