# mypy: disable-error-code="no-untyped-call, union-attr"
"""Interventions: the formulas, at the layers, positions and rows asked for, on any transformers model."""

import math
import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig

from personavec.errors import UserError
from personavec.info import VectorInfo
from personavec.interventions import (
    _own_norms,
    ablation,
    capping,
    flooring,
    intervening,
    interventions,
    noise_doubts,
    steer,
    steering,
)
from personavec.model import ChatModel, Request
from personavec.model.edits import Intervention, SteeringPlan
from personavec.operations import ABLATE, ADD, CAP, OPERATIONS, Layers, Operation, Positions, ablate, add, cap, floor
from personavec.vector import PersonaVector
from tiny import SIZES, causal_model, chat_model, plain_states, random_ids, vector

HIDDEN = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(0))
UNIT = torch.nn.functional.normalize(torch.randn(32, generator=torch.Generator().manual_seed(1)), dim=0)


@pytest.fixture(scope="module")
def persona(tiny: ChatModel) -> PersonaVector:
    return vector(
        tiny,
        neutral_mean=torch.full((4,), 70.0),  # of whole answers: no cap counts in these
        neutral_deviation=torch.full((4,), 0.1),
        neutral_token_mean=torch.arange(4.0),
        neutral_token_deviation=torch.full((4,), 0.5),
    )


def states(model: ChatModel, ids: list[int]) -> torch.Tensor:
    return plain_states(model.model, model.blocks.layers, ids)[0]


def test_formulas() -> None:
    projection = HIDDEN @ UNIT
    torch.testing.assert_close(add(HIDDEN, 3 * UNIT) @ UNIT, projection + 3)
    assert float((ablate(HIDDEN, UNIT) @ UNIT).abs().max()) < 1e-5
    across = HIDDEN - projection[..., None] * UNIT
    torch.testing.assert_close(ablate(HIDDEN, UNIT), across)
    for ceiling in (-0.5, 0.0, 0.7):
        capped = cap(HIDDEN, UNIT, ceiling)
        torch.testing.assert_close(capped @ UNIT, projection.clamp_max(ceiling), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(ablate(capped, UNIT), across, rtol=1e-4, atol=1e-5)
        below = projection <= ceiling
        assert below.any() and torch.equal(capped[below], HIDDEN[below])
        held = floor(HIDDEN, UNIT, ceiling)
        torch.testing.assert_close(held @ UNIT, projection.clamp_min(ceiling), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(ablate(held, UNIT), across, rtol=1e-4, atol=1e-5)
        above = projection >= ceiling
        assert above.any() and torch.equal(held[above], HIDDEN[above])


def test_steering_at_one_layer(tiny: ChatModel, persona: PersonaVector) -> None:
    asked: list[tuple[Layers, int]] = [("best", 2), (1, 1), (3, 3)]
    for layers, layer in asked:
        [item] = steering(persona, -1.5, layers=layers, positions="prompt")
        assert (item.operation.name, item.layer, item.positions) == ("add", layer, "prompt")
        torch.testing.assert_close(item.direction, -1.5 * persona.directions[layer])


def test_increments_add_up(tiny: ChatModel, persona: PersonaVector) -> None:
    """Every layer's sum of what was added up to it is the coefficient times its own vector."""
    items = steering(persona, 2.0, layers="all", positions="all")
    assert [item.layer for item in items] == [1, 2, 3]
    for layer in (1, 2, 3):
        total = sum(item.direction for item in items if item.layer <= layer)
        torch.testing.assert_close(total, 2.0 * persona.directions[layer])
    imported = replace(persona, normed_last_row=True)
    assert [item.layer for item in steering(imported, 2.0, layers="all", positions="all")] == [1, 2]


def test_increments_in_a_model(tiny: ChatModel, persona: PersonaVector) -> None:
    """With blocks that add nothing, the stream carries exactly the vector of each layer."""
    model = causal_model(LlamaConfig(**SIZES))
    with torch.no_grad():
        for block in model.model.layers:
            block.self_attn.o_proj.weight.zero_()
            block.mlp.down_proj.weight.zero_()
    ids = random_ids(5, 0)
    before = plain_states(model, model.model.layers, ids)[0]
    with intervening(model, [steering(persona, 1.0, layers="all", positions="all")]):
        after = plain_states(model, model.model.layers, ids)[0]
    for layer in (1, 2, 3):
        expected = persona.directions[layer].expand(5, -1)
        torch.testing.assert_close(after[layer] - before[layer], expected, rtol=1e-4, atol=1e-5)


def test_ablation_and_capping(tiny: ChatModel, persona: PersonaVector) -> None:
    ids = random_ids(12, 0)
    with intervening(tiny, [ablation(persona, layers="all", positions="all")]):
        after = states(tiny, ids)
    for layer in (1, 2, 3):
        assert float((after[layer] @ persona.unit(layer)).abs().max()) < 1e-4
    plain = states(tiny, ids)[2] @ persona.unit(2)
    deviations = (float(plain.median()) - 2.0) / 0.5  # neutral mean 2, deviation 0.5 at layer 2
    with intervening(tiny, [capping(persona, deviations, positions="all")]):
        capped = states(tiny, ids)[2] @ persona.unit(2)
    torch.testing.assert_close(capped, plain.clamp_max(float(plain.median())), rtol=1e-4, atol=1e-4)
    assert (capped < plain - 0.01).any()


def test_a_floor_for_one_row_and_a_cap_for_another(tiny: ChatModel, persona: PersonaVector) -> None:
    """Each row is held on its own side of the median of plain tokens; a third row without either stays as it was."""
    model = chat_model()  # of its own: transformers leaves hooks on a model that was asked for hidden states
    ids = random_ids(12, 0)
    plain = states(tiny, ids)[2]
    along = plain @ persona.unit(2)
    middle = float(along.median())
    deviations = (middle - 2.0) / 0.5  # neutral mean 2, deviation 0.5 at layer 2
    held = [flooring(persona, deviations, positions="all"), capping(persona, deviations, positions="all"), []]
    with intervening(model, held), torch.inference_mode():
        found = model.blocks.trunk(input_ids=torch.tensor([ids] * 3), output_hidden_states=True).hidden_states[2]
    projections = found @ persona.unit(2)
    torch.testing.assert_close(projections[0], along.clamp_min(middle), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(projections[1], along.clamp_max(middle), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found[2], plain, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=lambda operation: operation.name)
def test_a_number_is_asked_for_where_one_is_taken(operation: Operation, persona: PersonaVector) -> None:
    wrong = [1.0] if operation.takes == "nothing" else [None, math.nan]
    for number in wrong:
        with pytest.raises(UserError, match=operation.option):
            interventions(operation, persona, number)


def test_caps_at_the_layers_asked_for(tiny: ChatModel, persona: PersonaVector) -> None:
    """Each layer has its own ceiling; what a cap does early may move a later layer, which is capped after that."""
    ids = random_ids(12, 0)
    assert [item.layer for item in capping(persona, 1.0)] == [2]
    [item] = capping(persona, 1.0, layers=3)
    assert (item.layer, item.bound) == (3, 3.5)
    everywhere = capping(persona, -4.0, layers="all", positions="all")
    assert [(item.layer, item.bound) for item in everywhere] == [(1, -1.0), (2, 0.0), (3, 1.0)]
    plain = states(tiny, ids)
    with intervening(tiny, [everywhere]):
        capped = states(tiny, ids)
    for item in everywhere:
        assert float((plain[item.layer] @ persona.unit(item.layer)).max()) > item.bound + 0.1
        assert float((capped[item.layer] @ persona.unit(item.layer)).max()) < item.bound + 1e-3
    with pytest.raises(UserError, match="Layer 4 is out of range"):
        capping(persona, 1.0, layers=4)
    with pytest.raises(UserError, match="Unknown layers"):
        capping(persona, 1.0, layers="every")  # type: ignore[arg-type]


def test_additions_come_before_ablations_wherever_they_act(tiny: ChatModel, persona: PersonaVector) -> None:
    """What is added along an ablated direction does not survive, whatever the order and the positions."""
    choices: tuple[Positions, ...] = ("all", "response")
    for where in choices:
        for items in ([0, 1], [1, 0]):
            edits = [steering(persona, 3.0, positions=where), ablation(persona, positions="all")]
            with intervening(tiny, [[*edits[items[0]], *edits[items[1]]]]):
                after = states(tiny, random_ids(6, 0))
            assert float((after[2] @ persona.unit(2)).abs().max()) < 1e-4


def test_several_of_a_kind_in_one_row(tiny: ChatModel, persona: PersonaVector) -> None:
    other = vector(tiny, seed=5)
    ids = random_ids(6, 0)
    plain = states(tiny, ids)
    with intervening(tiny, [[*steering(persona, 1.0, positions="all"), *steering(other, -2.0, positions="all")]]):
        after = states(tiny, ids)
    moved = plain[2] + persona.directions[2] - 2.0 * other.directions[2]
    torch.testing.assert_close(after[2], moved, rtol=1e-4, atol=1e-4)
    with intervening(tiny, [[*ablation(persona, positions="all"), *ablation(other, positions="all")]]):
        after = states(tiny, ids)
    torch.testing.assert_close(after[2], ablate(ablate(plain[2], persona.unit(2)), other.unit(2)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("positions", ["all", "prompt", "response"])
def test_positions(tiny: ChatModel, persona: PersonaVector, positions: Positions) -> None:
    """Of a prompt, "response" is the last token; of a single new token, "prompt" is none."""
    for tokens, expected in (
        (6, {"all": [1] * 6, "prompt": [1] * 6, "response": [0] * 5 + [1]}),
        (
            1,
            {"all": [1], "prompt": [0], "response": [1]},
        ),
        (2, {"all": [1, 1], "prompt": [1, 1], "response": [0, 1]}),
    ):
        ids = random_ids(tokens, 0)
        plain = states(tiny, ids)[2]
        with intervening(tiny, [steering(persona, 1.0, positions=positions)]):
            after = states(tiny, ids)[2]
        moved = torch.tensor(expected[positions])[:, None] * persona.directions[2]
        torch.testing.assert_close(after - plain, moved, rtol=1e-4, atol=1e-4)


def left_padded(prompts: list[list[int]]) -> dict[str, torch.Tensor]:
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    return {"input_ids": ids, "attention_mask": mask}


def generated(model: Any, prompts: list[list[int]], **options: Any) -> list[list[int]]:
    out = model.generate(
        **left_padded(prompts), max_new_tokens=8, min_new_tokens=8, do_sample=False, pad_token_id=0, **options
    )
    return [row[-8:].tolist() for row in out]


@pytest.mark.parametrize("positions", ["all", "prompt", "response"])
def test_every_row_has_its_own_in_transformers_generate(
    tiny: ChatModel, persona: PersonaVector, positions: Positions
) -> None:
    prompts = [random_ids(n, n) for n in (9, 3, 14, 6, 9)]
    other = vector(tiny, seed=1, layer=3, neutral_token_mean=torch.zeros(4), neutral_token_deviation=torch.ones(4))
    rows: list[list[Intervention]] = [
        steering(persona, 1.5, positions=positions),
        [],
        [*steering(persona, -0.5, positions=positions), *steering(other, 1.0, layers="all", positions=positions)],
        [*ablation(other, layers="all", positions=positions), *steering(persona, 1.0, positions=positions)],
        capping(other, -6.0, positions=positions),
    ]
    alone = []
    for prompt, row in zip(prompts, rows, strict=True):
        with intervening(tiny.model, [row]) if row else warnings.catch_warnings():
            alone += generated(tiny.model, [prompt])
    with intervening(tiny.model, rows) as state:
        together = generated(tiny.model, prompts)
    assert together == alone
    assert state.fired
    plain = generated(tiny.model, prompts)
    assert [a == b for a, b in zip(together, plain, strict=True)] == [False, True, False, False, False]


def test_steer_with_a_coefficient_per_row_and_vector(tiny: ChatModel, persona: PersonaVector) -> None:
    other = vector(tiny, seed=1, layer=3)
    prompts = [random_ids(7, n) for n in range(3)]
    alone = []
    for prompt, a, b in zip(prompts, (1.0, -1.0, 0.0), (0.5, 0.5, 0.5), strict=True):
        with steer(tiny.model, [persona, other], [[a], [b]], positions="all"):
            alone += generated(tiny.model, [prompt])
    for coefficients in ([[1.0, -1.0, 0.0], [0.5]], [[1.0, -1.0, 0.0], [0.5, 0.5, 0.5]]):
        with steer(tiny.model, [persona, other], coefficients, positions="all"):
            assert generated(tiny.model, prompts) == alone
    with steer(tiny.model, persona, [1.0, -1.0, 0.0], positions="all"):
        per_row = generated(tiny.model, prompts)
    with steer(tiny.model, persona, 1.0, positions="all"):
        assert generated(tiny.model, prompts)[0] == per_row[0]
    assert generated(tiny.model, prompts)[2] == per_row[2]


def test_steering_reaches_the_goal(tiny: ChatModel) -> None:
    """A vector that points at one token's row of the LM head makes the model say that token."""
    rows = torch.zeros(4, 32)
    rows[3] = tiny.model.lm_head.weight[77].detach()
    persona = PersonaVector("says 77", rows, 3, {})
    prompts = [random_ids(5, n) for n in range(3)]
    assert all(row[0] != 77 for row in generated(tiny.model, prompts))
    with steer(tiny.model, persona, 50.0, positions="all"):
        assert all(row == [77] * 8 for row in generated(tiny.model, prompts))
    with steer(tiny.model, persona, 50.0, positions="response"):
        assert all(row == [77] * 8 for row in generated(tiny.model, prompts))
    with steer(tiny.model, persona, 50.0, positions="prompt"):
        assert all(row[0] == 77 and row != [77] * 8 for row in generated(tiny.model, prompts))


@settings(max_examples=25, deadline=None)
@given(a=st.floats(-2, 2), b=st.floats(-2, 2))
def test_nested_steering_adds_up(tiny: ChatModel, a: float, b: float) -> None:
    persona = vector(tiny)
    ids = random_ids(5, 0)
    with steer(tiny, persona, a, positions="all"), steer(tiny, persona, b, positions="all"):
        nested = states(tiny, ids)
    with steer(tiny, persona, a + b, positions="all"):
        once = states(tiny, ids)
    torch.testing.assert_close(nested, once, rtol=1e-3, atol=1e-3)


def test_half_precision(persona: PersonaVector) -> None:
    half = causal_model(chat_model().model.config).bfloat16()
    ids = random_ids(6, 0)
    plain = plain_states(half, half.model.layers, ids)[0]
    with intervening(half, [[*steering(persona, 2.0, positions="all"), *ablation(persona, layers=3, positions="all")]]):
        after = plain_states(half, half.model.layers, ids)[0]
    torch.testing.assert_close(after[2], plain[2] + 2.0 * persona.directions[2], rtol=0.02, atol=0.05)
    assert float((after[3] @ persona.unit(3)).abs().max()) < 0.1


def test_gradients_flow_through(tiny: ChatModel) -> None:
    """Training under steering, as preventative steering needs it."""
    model = causal_model(LlamaConfig(**SIZES))
    with intervening(model, [steering(vector(chat_model()), 1.0, positions="all")]):
        model(input_ids=torch.tensor([[1, 2, 3]]), labels=torch.tensor([[1, 2, 3]])).loss.backward()
    assert model.model.layers[0].mlp.up_proj.weight.grad.abs().sum() > 0


def test_hooks_come_off(tiny: ChatModel, persona: PersonaVector) -> None:
    with pytest.raises(KeyboardInterrupt), steer(tiny, persona, 1.0, positions="all"):
        raise KeyboardInterrupt
    assert not any(block._forward_hooks or block._forward_pre_hooks for block in tiny.blocks.layers)
    with warnings.catch_warnings():  # and nothing is said about forwards then
        warnings.simplefilter("error")
        with pytest.raises(KeyboardInterrupt), steer(tiny, persona, 1.0, positions="all"):
            raise KeyboardInterrupt


def test_warning_when_no_forward_ran(tiny: ChatModel, persona: PersonaVector) -> None:
    with pytest.warns(UserWarning, match="no forward ran"), steer(tiny, persona, 1.0, positions="all"):
        pass
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with intervening(tiny, [[]]):
            pass
        with steer(tiny, persona, 1.0, positions="all") as state:
            tiny.model(input_ids=torch.tensor([[1, 2]]))
        assert state.fired == 1


@pytest.mark.parametrize("coefficient", [math.nan, math.inf, -math.inf])
def test_coefficients_that_are_not_finite(tiny: ChatModel, persona: PersonaVector, coefficient: float) -> None:
    with pytest.raises(UserError, match="not a finite number"):
        steering(persona, coefficient, positions="all")
    with pytest.raises(UserError, match="not a finite number"):
        capping(persona, coefficient, positions="all")
    with (
        pytest.raises(UserError, match="not a finite number"),
        steer(tiny, persona, [1.0, coefficient], positions="all"),
    ):
        pass


def test_layers_that_do_not_exist(tiny: ChatModel, persona: PersonaVector) -> None:
    for layer in (0, 4, -1):
        with pytest.raises(UserError, match=f"Layer {layer} is out of range.*Choose 1 to 3"):
            steering(persona, 1.0, layers=layer, positions="all")
        with pytest.raises(UserError, match=f"Layer {layer} is out of range"):
            ablation(persona, layers=layer, positions="all")
    imported = replace(persona, normed_last_row=True)
    with pytest.raises(UserError, match="after the final norm"):
        steering(imported, 1.0, layers=3, positions="all")
    for layers in ("worst", "2", 1.5):
        with pytest.raises(UserError, match="Unknown layers"):
            steering(persona, 1.0, layers=layers, positions="all")  # type: ignore[arg-type]
    with (
        pytest.raises(UserError, match="Layer 4 is out of range"),
        intervening(tiny, [[Intervention(ADD, 4, torch.zeros(32))]]),
    ):
        pass


def test_unknown_positions(persona: PersonaVector) -> None:
    for make in (lambda p: steering(persona, 1.0, positions=p), lambda p: ablation(persona, positions=p)):
        with pytest.raises(UserError, match="Unknown positions 'answer'"):
            make("answer")


def test_cap_needs_neutral_statistics(tiny: ChatModel) -> None:
    kinds: tuple[dict[str, Any], ...] = ({}, {"neutral_mean": torch.zeros(4), "neutral_deviation": torch.ones(4)})
    for known in kinds:
        with pytest.raises(UserError, match=r"no neutral statistics of this kind \(token\)"):
            capping(vector(tiny, **known), 2.0, positions="all")


def test_wrong_number_of_rows(tiny: ChatModel, persona: PersonaVector) -> None:
    with (
        steer(tiny, persona, [1.0, -1.0, 0.5], positions="all"),
        pytest.raises(UserError, match="set for 3 rows, but the batch has 2"),
    ):
        tiny.model(input_ids=torch.tensor([[1, 2], [3, 4]]))
    with (
        pytest.raises(UserError, match="different numbers of rows"),
        steer(tiny, [persona] * 2, [[1, 2], [1, 2, 3]], positions="all"),
    ):
        pass
    for coefficients in (1.0, [1.0], [1.0, 2.0, 3.0]):
        with (
            pytest.raises(UserError, match="2 vectors need as many"),
            steer(tiny, [persona] * 2, coefficients, positions="all"),
        ):
            pass


def test_vector_of_another_model(tiny: ChatModel, persona: PersonaVector) -> None:
    wide = causal_model(LlamaConfig(**{**SIZES, "hidden_size": 64}))
    message = r"belongs to tiny \(3 layers of width 32\); this model has 3 layers of width 64"
    with pytest.raises(UserError, match=message), steer(wide, persona, 1.0, positions="all"):
        pass
    other = chat_model(seed=1)
    with pytest.raises(UserError, match="same shape but other weights"), steer(other, persona, 1.0, positions="all"):
        pass
    assert not any(block._forward_hooks for block in other.blocks.layers)
    with (
        intervening(wide, [steering(persona, 1.0, positions="all")]),
        pytest.raises(UserError, match=r"width 32 does not fit .* 64"),
    ):
        wide(input_ids=torch.tensor([[1, 2]]))
    with pytest.raises(UserError, match=r"different widths \[32, 64\]\. Use vectors of one model"):
        SteeringPlan([[Intervention(ADD, 1, torch.zeros(32))], [Intervention(ADD, 1, torch.zeros(64))]])


@pytest.mark.parametrize("coefficient", [1e30, -1e30, 1e308, 1e7])
def test_a_coefficient_that_leaves_nothing_of_the_stream_is_refused(
    tiny: ChatModel, persona: PersonaVector, coefficient: float
) -> None:
    known = replace(persona, residual_norm=torch.full((4,), 10.0))
    for one, words in (
        (persona, "adds a vector of norm"),
        (known, "times the norm of the model's own states at layer"),
    ):
        for layers in ("best", 2, "all"):
            with pytest.raises(UserError, match=words):
                steering(one, coefficient, layers=layers)
        with pytest.raises(UserError, match=words), steer(tiny.model, one, coefficient):
            pass
        with pytest.raises(UserError, match=f"The cap -.*{words}"):
            capping(one, -abs(coefficient))
        assert capping(one, abs(coefficient)), "a high cap touches nothing"


def test_the_bound_counts_in_the_norm_of_the_stream(persona: PersonaVector) -> None:
    norm = float(persona.at(2).norm())
    known = replace(persona, residual_norm=torch.full((4,), 10.0))
    assert steering(known, 999 * 10 / norm)
    with pytest.raises(UserError, match="1e\\+03 times the norm"):
        steering(known, 1001 * 10 / norm)


def test_a_coefficient_beyond_the_coherent_range_is_told(tiny: ChatModel, persona: PersonaVector) -> None:
    measured = replace(persona, info=VectorInfo(coherent_range=(-1, 1.5)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for coefficient in (-1.0, 0.0, 1.5):
            steering(measured, coefficient)
        steering(measured, 9.0, layers=1)  # nothing was measured at that layer
        narrow = replace(persona, info=VectorInfo(coherent_range=(-0.1, 0.1)))
        with steer(tiny.model, narrow, 0.5, layers=1):
            states(tiny, random_ids(2, 0))
        steering(persona, 9.0)
        steering(replace(persona, info=VectorInfo.parse({"coherent_range": "?"})), 9.0)
    words = r"Coefficient \+2 of kind is outside of -1 to \+1.5, where answers were measured to stay coherent"
    with pytest.warns(UserWarning, match=words):
        steering(measured, 2.0)
    with pytest.warns(UserWarning, match="Coefficient -1.1 of kind"):
        steering(measured, -1.1, layers="all")
    with pytest.warns(UserWarning, match=words), steer(tiny.model, measured, 2.0):
        states(tiny, random_ids(5, 0))


def test_a_push_beyond_the_norm_of_the_stream_is_told_where_no_range_is_known(
    tiny: ChatModel, persona: PersonaVector
) -> None:
    norm = float(persona.at(2).norm())
    ones = torch.ones(4)
    known = replace(
        persona, residual_norm=torch.full((4,), 10 * norm), neutral_token_mean=ones, neutral_token_deviation=ones
    )
    ranged = replace(known, info=VectorInfo(coherent_range=(-3, 3)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        steering(known, 9.0), capping(known, 50.0), flooring(known, -50.0), flooring(known, 5.0)
        assert not noise_doubts([(ADD, ranged, 1.4), (ADD, ranged, 1.4), (ABLATE, ranged, None)])
    with pytest.warns(UserWarning, match=r"Coefficient -11 of kind changes the model's states by 1\.1 times their own"):
        steering(known, -11.0)
    with pytest.warns(UserWarning, match=r"Coefficient \+99 of kind .* at layer"):
        steering(ranged, 99.0, layers=1)
    for bounding, words, number in ((flooring, r"The floor 500", 500), (capping, r"The cap -500", -500)):
        with pytest.warns(UserWarning, match=f"{words} of kind changes the model's states by .* may be noise"):
            bounding(known, number)
        with pytest.raises(UserError, match=r"Choose one such as -?[12], in deviations of the tokens"):
            bounding(known, 1e6 * number)
    for one, twice in ((ranged, 2.5), (known, 6.0)):  # one vector twice is one coefficient
        [doubt] = noise_doubts([(ADD, one, twice), (ADD, one, twice)])
        assert f"Coefficient +{2 * twice:g} of kind" in doubt
    for model in (tiny, tiny.model):  # whose norm is measured
        own = _own_norms(model)
        assert len(own) == 4 and all(0 < one < 1e3 for one in own)
        with (
            pytest.warns(UserWarning, match="by 3.0 times their own norm at layer 2"),
            steer(model, persona, 3 * own[2] / norm),
        ):
            states(tiny, random_ids(5, 0))
    assert noise_doubts([(ADD, persona, 9e5)]) == []


def test_states_that_a_dtype_cannot_hold_are_refused() -> None:
    half = SteeringPlan([[Intervention(ADD, 1, torch.full((4,), 7e4))]]).edits()[1]
    with pytest.raises(UserError, match=r"exceed what float16 can hold\. Choose a smaller coefficient, or load"):
        half(torch.zeros(1, 1, 4, dtype=torch.float16))
    with pytest.raises(UserError, match="exceed what float16 can hold"):
        half(torch.zeros(1, 1, 4, dtype=torch.float16))
    assert float(half(torch.zeros(1, 1, 4, dtype=torch.bfloat16)).max()) == pytest.approx(7e4, rel=0.01)
    sum_of = SteeringPlan([[Intervention(ADD, 1, torch.full((4,), 4e4))]]).edits()[1]
    with pytest.raises(UserError, match="exceed what float16 can hold"):
        sum_of(torch.full((1, 1, 4), 4e4, dtype=torch.float16))
    capped = SteeringPlan([[Intervention(CAP, 1, torch.eye(4)[0], bound=-7e4)], []]).edits()[1]
    with pytest.raises(UserError, match="exceed what float16 can hold"):
        capped(torch.zeros(2, 1, 4, dtype=torch.float16))


def test_an_answer_whose_states_are_not_finite_is_refused() -> None:
    model = chat_model()
    huge = [Intervention(ADD, layer, torch.full((32,), 3e38)) for layer in (1, 2)]
    for request, words in (
        (Request([1, 2, 3], 4, 0.0, 0, huge), "under this steering. Choose a smaller"),
        (Request([1, 2, 3], 4, 0.7, 0, huge), "under this steering. Choose a smaller"),
    ):
        with pytest.raises(UserError, match=words):
            model.generate([request])
    with torch.no_grad():
        model.model.model.norm.weight.fill_(math.nan)
    with pytest.raises(UserError, match=r"no longer finite numbers\. Load the model in another dtype"):
        model.generate([Request([1, 2, 3], 4)])


def test_a_warning_names_the_line_of_who_steers(tiny: ChatModel, persona: PersonaVector) -> None:
    measured = replace(persona, info=VectorInfo(coherent_range=(-1, 1.5)))
    with pytest.warns(UserWarning) as caught:
        steering(measured, 2.0)
        with steer(tiny.model, measured, 2.0):
            states(tiny, random_ids(5, 0))
        with steer(tiny.model, persona, 0.2):
            pass
    assert [one.filename for one in caught] == [__file__] * 3


def test_what_stands_behind_the_options() -> None:
    assert {operation.option: operation.metavar for operation in OPERATIONS.values()} == {
        "steer": "FILE=COEFFICIENT", "ablate": "FILE", "cap": "FILE=Z", "floor": "FILE=Z",
    }  # fmt: skip


def test_a_fingerprint_tells_all_that_an_intervention_does() -> None:
    def made(**changes: Any) -> str:
        given: dict[str, Any] = {"operation": CAP, "layer": 1, "direction": UNIT, "positions": "all", "bound": 1.5}
        return Intervention(**(given | changes)).fingerprint()

    changes: list[dict[str, Any]] = [
        {}, {"operation": ADD}, {"layer": 2}, {"direction": -UNIT}, {"positions": "prompt"}, {"bound": 1.25},
    ]  # fmt: skip
    assert made() == made(direction=UNIT.clone()) and len(made()) == 16
    assert len({made(**change) for change in changes}) == len(changes)


def test_every_forward_counts_and_what_does_not_act_holds_up_nothing(tiny: ChatModel, persona: PersonaVector) -> None:
    """Of a single new token "prompt" edits nothing, and what comes after it in the plan still acts."""
    ids = random_ids(1, 0)
    plain = states(tiny, ids)[2]
    rows = [[*steering(persona, 5.0, positions="prompt"), *steering(persona, 1.0, positions="response")]]
    with intervening(tiny, rows) as state:
        for forward in (1, 2, 3):
            after = states(tiny, ids)[2]
            assert state.fired == forward
    torch.testing.assert_close(after - plain, persona.directions[2][None], rtol=1e-4, atol=1e-4)


def test_a_coefficient_of_one_and_the_vector_s_own_layer_go_without_saying(
    tiny: ChatModel, persona: PersonaVector
) -> None:
    ids = random_ids(5, 0)
    plain = states(tiny, ids)[2]
    with steer(tiny, persona):
        after = states(tiny, ids)[2]
    moved = torch.tensor([0.0, 0, 0, 0, 1])[:, None] * persona.directions[2]
    torch.testing.assert_close(after - plain, moved, rtol=1e-4, atol=1e-4)


def test_other_weights_are_taken_where_they_are_asked_for(persona: PersonaVector) -> None:
    other = chat_model(seed=1)
    with steer(other, persona, 1.0, other_weights=True) as state:
        states(other, random_ids(3, 0))
    assert state.fired == 1


@pytest.mark.parametrize(("make", "sign"), [(capping, -1), (flooring, 1)])
def test_a_bound_is_too_far_in_deviations_times_their_size(persona: PersonaVector, make: Any, sign: int) -> None:
    """A deviation is 0.5 here and the stream's norm 10: a thousand times that are 20,000 deviations."""
    known = replace(persona, residual_norm=torch.full((4,), 10.0))
    assert make(known, sign * 19_900.0)[0].bound == pytest.approx(2 + sign * 9950)
    with pytest.raises(UserError, match=r"The (cap|floor) -?20100 of 'kind' adds 1e\+03 times"):
        make(known, sign * 20_100.0)


def test_advice_says_what_to_do_instead(tiny: ChatModel, persona: PersonaVector) -> None:
    wrong: list[tuple[Any, str]] = [
        (lambda: interventions(OPERATIONS["ablate"], persona, 1.0), "ablate by kind takes no number. Give FILE."),
        (lambda: interventions(ADD, persona), "steer by kind takes a number. Give FILE=COEFFICIENT."),
        (lambda: interventions(CAP, persona, math.inf), "The cap bound inf is not a finite number. "
         "Choose one such as 2."),
        (lambda: steering(persona, 1.0, layers="no"), "Unknown layers 'no'. Choose best, all or a layer number."),  # type: ignore[arg-type]
        (lambda: steering(persona, 1.0, positions="no"), "Unknown positions 'no'. Choose all, prompt or response."),  # type: ignore[arg-type]
        (lambda: steer(tiny, [persona], 1.0).__enter__(), "1 vectors need as many coefficients. "
         "Give a sequence with one entry per vector."),
        (lambda: steer(tiny, [persona] * 2, [[1.0], [1.0, 2.0], [2.0]]).__enter__(), "2 vectors need as many "
         "coefficients. Give a sequence with one entry per vector."),
        (lambda: steer(tiny, [persona] * 3, [[1.0], [1.0, 2.0], [1.0] * 3]).__enter__(), "The vectors have "
         "coefficients for different numbers of rows. Give one per row for each."),
    ]  # fmt: skip
    for make, words in wrong:
        with pytest.raises(UserError) as caught:
            make()
        assert str(caught.value) == words
    edit = SteeringPlan([[Intervention(ADD, 1, torch.zeros(4))], []]).edits()[1]
    with pytest.raises(
        UserError, match=r"for 2 rows, but the batch has 3\. Give one list of interventions per row \(per sequence"
    ):
        edit(torch.zeros(3, 1, 4))
    with pytest.raises(UserError, match="Use a vector that was extracted on this model"):
        edit(torch.zeros(2, 1, 5))
    endless = SteeringPlan([[Intervention(ADD, 1, torch.full((4,), math.inf))]]).edits()[1]
    with pytest.raises(UserError, match=r"exceed what float64 can hold\. Choose a smaller coefficient\.$"):
        endless(torch.zeros(1, 1, 4, dtype=torch.float64))


def test_the_response_is_what_is_edited_unless_asked_otherwise(persona: PersonaVector) -> None:
    made = [steering(persona, 1.0), ablation(persona), capping(persona, 2.0), flooring(persona, -2.0)]
    assert [(items[0].positions, items[0].layer) for items in made] == [("response", 2)] * 4
    assert interventions(ADD, persona, 1.0)[0].positions == "response"


def test_what_float16_holds_is_let_through() -> None:
    small = SteeringPlan([[Intervention(ADD, 1, torch.full((4,), 2.0))]]).edits()[1]
    assert small(torch.ones(1, 1, 4, dtype=torch.float16)).tolist() == [[[3.0] * 4]]
    beyond = SteeringPlan([[Intervention(CAP, 1, torch.eye(4)[0], bound=7e4)]]).edits()[1]
    with pytest.raises(UserError, match="exceed what float16 can hold"):  # it would cap nothing
        beyond(torch.zeros(1, 1, 4, dtype=torch.float16))


def test_a_floor_lies_at_the_layers_asked_for(persona: PersonaVector) -> None:
    """The mean of neutral tokens is the layer's number, their deviation 0.5."""
    assert [(item.layer, item.bound) for item in flooring(persona, -2.0, layers="all")] == [(1, 0), (2, 1), (3, 2)]
