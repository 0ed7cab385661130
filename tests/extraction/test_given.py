"""Vectors from given texts: what they are made of, what stands beside their figures, and what a run leaves."""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import JsonValue
from torch import Tensor

from personavec.cli import main, options
from personavec.errors import UserError
from personavec.extraction import TextSettings, TextsExtraction, TextsRun, extract_from_texts
from personavec.extraction.contrast import advice
from personavec.extraction.given import job
from personavec.extraction.given.page import write_texts_report
from personavec.extraction.given.reading import Half, choose_layer, controls, difference
from personavec.extraction.given.verdict import brief, verdict
from personavec.info import VectorInfo
from personavec.model import ChatModel
from personavec.rollouts import Side, read_rollouts
from personavec.texts import Text, Texts, contrastive
from personavec.traits import InstructionPair, Trait
from personavec.vector import PersonaVector
from tiny import plain_states

SHOWS, LACKS = "hello there how are you today?", "0123456789 system user 98765"
SETTINGS = TextSettings(max_new_tokens=5, random_directions=2, tokens=12)


def texts(questions: int = 10) -> Texts:
    """Answers of both sides to every question, which differ from question to question."""
    sides: list[tuple[Side, str]] = [("positive", SHOWS), ("negative", LACKS)]
    made = [Text(f"Question {n}?", f"{said} {n}", side) for n in range(questions) for side, said in sides]
    return Texts.of("made up", made)


@pytest.fixture(scope="module")
def trait() -> Trait:
    return Trait(
        name="tiny",
        description="Says hello.",
        instructions=tuple(InstructionPair(positive=f"{c} hello", negative=f"{c} 012") for c in "abcde"),
        extraction_questions=("Question 1?",),
        evaluation_questions=tuple(f"Asked {number}?" for number in range(9)),
        rubric="{question} {answer} 0..100?",
        writer="test",
    )


def half(readings: Tensor, answers: Sequence[str] | None = None) -> Half:
    """Readings (n, layers, d) of answers to n / 2 questions, the first of each pair positive."""
    return Half(
        tuple(
            Text(f"Question {n // 2}?", answers[n] if answers else "x", "positive" if n % 2 == 0 else "negative")
            for n in range(len(readings))
        ),
        readings,
    )


def noise(n: int, layers: int = 21, seed: int = 0) -> Tensor:
    return torch.randn(n, layers, 16, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def extraction(tiny: ChatModel, trait: Trait, tmp_path_factory: pytest.TempPathFactory) -> tuple[TextsExtraction, Path]:
    out = tmp_path_factory.mktemp("runs") / "tiny"
    return extract_from_texts(tiny, trait, texts(), out, SETTINGS), out


def test_the_layer_is_where_left_out_questions_lie_apart() -> None:
    readings = noise(40)
    readings[::2, 3, 0] += 9  # outside of the depths that may be chosen
    readings[::2, 12, 0] += 2
    found = choose_layer(half(readings), seed=0)
    assert [choice.layer for choice in found] == list(range(7, 16))
    assert max(found, key=lambda choice: choice.distance).layer == 12
    own = [choice.distance for choice in choose_layer(half(noise(40)), seed=0)]
    assert abs(sum(own) / len(own)) < 0.5, "a direction of noise tells nothing about what was left out"


def test_what_else_tells_the_sides_apart_stands_beside_the_vector() -> None:
    plain, excited = "one two three. four.", "one two three! four!"
    readings, unseen = noise(60), noise(40, seed=1)
    for rows in (readings, unseen):
        rows[::2, 10, 0] += 4
    answers = [excited, plain] * 20
    found = controls(_mean_difference(readings), 10, half(readings), half(unseen, answers), seed=0)
    assert found.isotropic.n == 200
    aucs = {feature.name: feature.auc.mean for feature in found.style}
    assert aucs["exclamation marks"] == 1 and aucs["log length"] == 0.5
    assert found.style_held_equal.mean < 0.7, "the marks know all that the vector does"
    assert found.halves_cosine is not None and found.halves_cosine > 0.5
    mixed = [plain if n % 3 else excited for n in range(40)]
    assert controls(_mean_difference(readings), 10, half(readings), half(unseen, mixed), 0).style_held_equal.low > 0.8


def _mean_difference(readings: Tensor) -> Tensor:
    return difference(readings, half(readings).positive)


def test_the_vector_is_the_difference_of_means_read_the_plain_way(
    tiny: ChatModel, extraction: tuple[TextsExtraction, Path]
) -> None:
    vector = PersonaVector.load(extraction[1] / "vector.safetensors")
    means: dict[str, list[Tensor]] = {"positive": [], "negative": []}
    for text in texts().extract:
        prompt = tiny.prompt_ids([{"role": "user", "content": text.question}])
        answer = tiny.template.answer_ids(text.answer)[: SETTINGS.tokens]
        states, _ = plain_states(tiny.model, tiny.blocks.layers, [*prompt, *answer])
        means[text.side].append(states[:, len(prompt) :].mean(1))
    plain = torch.stack(means["positive"]).mean(0) - torch.stack(means["negative"]).mean(0)
    torch.testing.assert_close(vector.directions, plain, rtol=1e-3, atol=1e-4)
    assert vector.layer == 2, "the only one in the depths"
    assert vector.residual_norm is not None and vector.neutral_token_mean is not None


def test_a_run_holds_what_two_judges_say_of_every_push(extraction: tuple[TextsExtraction, Path]) -> None:
    run, out = extraction[0].run, extraction[1]
    assert TextsRun.read(out) == run
    shares = [push.share for push in run.pushes]
    assert shares == pytest.approx([-0.25, -0.125, 0, 0.125, 0.25, 0.4])
    assert [judge.name for judge in run.judges] == ["probe", "contrast"]
    contrast, at = run.judges[1], {round(push.share, 3): push.score.get("contrast") for push in run.pushes}
    high, low = at[0.25], at[-0.25]
    assert contrast.steering is not None and high is not None and low is not None and high.n == low.n == 9
    assert contrast.steering.effect.mean == pytest.approx(high.mean - low.mean, abs=1e-3)
    assert len(contrast.steering.null.effects) == 2
    assert run.probe.steering is None, "what this model writes is like none of the texts"
    assert run.probe.auc is not None and run.probe.spearman is not None and run.separation.auc.mean == 1
    for push in run.pushes:
        assert push.coefficient == pytest.approx(push.share * run.residual_norm / run.vector_norm)
        both = {"probe", "contrast"} if round(abs(push.share), 3) in (0, 0.25) else {"probe"}
        assert push.score.keys() == push.scored.keys() == both and push.answers == 9
    answers = read_rollouts(out / "rollouts.jsonl")
    assert sum(answer.stage == "dose" for answer in answers) == 9 * len(run.pushes)
    assert sum(answer.stage == "null" for answer in answers) == 2 * 2 * 6
    asked = run.prompting
    assert asked is not None and asked.score.keys() == asked.more.keys() == {"probe", "contrast"} and asked.answers == 9
    told = [answer for answer in answers if answer.stage == "prompted"]
    assert [answer.question for answer in told] == [f"Asked {number}?" for number in range(9)]
    scores = {record["id"]: record["score"] for record in map(json.loads, (out / "contrast.jsonl").open())}
    by_prompt = asked.score["contrast"]
    assert by_prompt is not None and by_prompt.mean == pytest.approx(sum(scores[a.id] for a in told) / 9, abs=1e-3)
    more = asked.more["contrast"]
    assert more is not None and more.mean == pytest.approx(by_prompt.mean - high.mean, abs=1e-3)
    assert asked.coefficient == contrast.steering.coefficient
    lines = [json.loads(line) for line in (out / "contrast.jsonl").read_text().splitlines()]
    second = {answer.id for answer in answers if abs(answer.coefficient or 0) in (0, contrast.steering.coefficient)}
    assert {line["id"] for line in lines} > second and sum(line["id"].startswith("text") for line in lines) == 10
    info = PersonaVector.load(out / "vector.safetensors").info
    assert info.separation == run.separation and info.judge is not None and info.judge.name == "probe"
    assert set(info.judge.state) == {"calibration", "coherence"}


def test_examples_are_drawn_at_random_and_shown_whole(extraction: tuple[TextsExtraction, Path]) -> None:
    run, out = extraction[0].run, extraction[1]
    answers = read_rollouts(out / "rollouts.jsonl")
    assert len(run.examples) == 8
    order = list(dict.fromkeys(answer.question for answer in answers if answer.stage == "dose"))
    assert [example.question for example in run.examples] != order[:8]
    page = (out / "report.html").read_text()
    for example in run.examples:
        assert page.count(f'<p class="question">{example.question}</p>') == 1
        assert len(example.answers) == len(run.pushes)
        said = {answer.text for answer in answers if answer.question == example.question}
        assert all(answer.text in said for answer in example.answers)


def test_a_run_that_was_cut_off_goes_on_and_a_finished_one_is_read_back(
    tiny: ChatModel,
    trait: Trait,
    extraction: tuple[TextsExtraction, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, out = extraction
    assert extract_from_texts(tiny, trait, texts(), out, SETTINGS).run == first.run
    with pytest.raises(UserError, match="another tokens"):
        extract_from_texts(tiny, trait, texts(), out, replace(SETTINGS, tokens=11))
    with pytest.raises(UserError, match="another texts"):
        extract_from_texts(tiny, trait, texts(12), out, SETTINGS)

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(job, "_summary", stop)
        with pytest.raises(KeyboardInterrupt):
            extract_from_texts(tiny, trait, texts(), tmp_path / "cut", SETTINGS)
    generated = tmp_path / "cut" / "generated.jsonl"
    lines = generated.read_text().splitlines(keepends=True)
    generated.write_text("".join(lines[:20]) + lines[20][:9])
    again = extract_from_texts(tiny, trait, texts(), tmp_path / "cut", SETTINGS).run
    times = ("seconds", "timings", "written")
    assert again.model_dump(exclude={*times}) == first.run.model_dump(exclude={*times})
    assert not generated.exists()


def test_records_that_are_no_texts_are_kept_with_the_reason(tiny: ChatModel, trait: Trait, tmp_path: Path) -> None:
    given = texts()
    records = [{"question": t.question, "answer": t.answer, "side": t.side} for t in (*given.extract, *given.test)]
    file = tmp_path / "texts.jsonl"
    file.write_text("\n".join(json.dumps(record) for record in [*records, {"question": "q"}]) + "\nno JSON\n")
    run = extract_from_texts(tiny, trait, file, tmp_path / "out", SETTINGS).run
    rejected = [json.loads(line) for line in (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()]
    assert [(line["line"], line["raw"]) for line in rejected] == [(21, '{"question": "q"}'), (22, "no JSON")]
    assert "`answer` is missing" in rejected[0]["reason"]
    assert run.texts.rejected == 2 and any("2 records are no texts" in warning for warning in run.warnings)


def test_the_vector_of_the_models_own_rollouts_stands_beside_it(
    tiny: ChatModel, trait: Trait, tmp_path: Path, extraction: tuple[TextsExtraction, Path]
) -> None:
    mine = extraction[0].vector
    rollouts: JsonValue = {"generated": 9, "extraction": 9, "kept": 9, "kept_pairs": 4, "reasons": {}}
    own = replace(mine, layer=3, directions=-mine.directions, info=VectorInfo.parse({"rollouts": rollouts}))
    run = extract_from_texts(tiny, trait, texts(), tmp_path / "texts", SETTINGS).run
    assert not run.twins
    own.save(tmp_path / "own" / "vector.safetensors")
    replace(own, trait="other").save(tmp_path / "other" / "vector.safetensors")
    mine.save(tmp_path / "more texts" / "vector.safetensors")
    [twin] = extract_from_texts(tiny, trait, texts(), tmp_path / "texts", SETTINGS).run.twins
    assert (twin.folder, twin.layer, twin.cosine, twin.auc.mean) == ("own", 3, -1, 0)
    assert "vector from the model's own answers in own" in "".join(TextsRun.read(tmp_path / "texts").verdict)


def test_a_vector_that_does_nothing_is_not_saved(tiny: ChatModel, trait: Trait, tmp_path: Path) -> None:
    same = [Text(f"Question {n}?", SHOWS, side) for n in range(10) for side in ("positive", "negative")]
    mixed = [replace(text, answer=f"{LACKS if n % 3 else SHOWS} {n}") for n, text in enumerate(same)]
    with pytest.raises(UserError, match=r"nothing that can be told from chance.*It was not saved"):
        extract_from_texts(tiny, trait, Texts.of("mixed", mixed), tmp_path, SETTINGS)
    assert (tmp_path / "rollouts.jsonl").exists() and not (tmp_path / "vector.safetensors").exists()


def points(mean: float, half: float = 5.0, n: int = 9) -> dict[str, Any]:
    return {"mean": mean, "low": mean - half, "high": mean + half, "n": n}


def judged(run: TextsRun, *effects: tuple[float, float] | None) -> TextsRun:
    """With judges that see effects of such a size, and chance effects of such a size; random directions read worse."""
    null = {"mean": 0.5, "p95": 0.7, "max": 0.8, "n": 200}
    separation = {**run.separation.as_json(), "null": {"isotropic": null, "shuffled": null}}
    controls = {**run.controls.as_json(), "isotropic": null}
    made = []
    for judge, found in zip(run.judges, effects, strict=True):
        steering = None if found is None else {
            "effect": points(found[0]), "effect_on_null_questions": found[0], "coefficient": 1.0,
            "null": {
                "effects": [found[1], -found[1]], "layers": [2, 2], "p": 0.3, "mean": 1, "p95": 1, "max": 1, "n": 2,
            },
        }  # fmt: skip
        made.append({**judge.as_json(), "steering": steering})
    return TextsRun.model_validate({**run.as_json(), "judges": made, "separation": separation, "controls": controls})


@pytest.mark.parametrize(
    ("effects", "said"),
    [
        (((30, 3), (20, 4)), "reads tiny in texts, and steers: both judges see"),
        (((30, 3), (20, 40)), "but to the contrast judge a random direction does as much"),
        (((30, 3), (2, 1)), "in doubt: the probe judge sees the answers become more tiny, the contrast judge does not"),
        (((3, 3), (-20, 4)), "reads tiny in texts; that it steers was not shown"),
        ((None, (1, 1)), "reads tiny in texts; that it steers was not shown"),
    ],
)
def test_the_verdict_says_what_was_shown_and_what_was_not(
    effects: Sequence[tuple[float, float] | None],
    said: str,
    extraction: tuple[TextsExtraction, Path],
    tmp_path: Path,
) -> None:
    run = judged(extraction[0].run, *effects)
    sentences = verdict(run)
    assert said in sentences[0]
    assert sentences[-1].startswith("Not shown: that a person would call the steered answers tiny")
    assert "though no better than chance directions do" in verdict(extraction[0].run)[0], "at 1, like these"
    assert sum("scored too few" in sentence for sentence in sentences) == effects.count(None)
    said_of_effects = [line for line in brief(run) if line.startswith("Points moved from a push of -25 % to +25 %")]
    assert [line.count("random directions up to") for line in said_of_effects] == [2 - effects.count(None)]
    assert brief(run)[0] == sentences[0] and len(brief(run)) <= 4
    write_texts_report(run.with_(verdict=sentences), tmp_path / "report.html")
    assert "<html" in (tmp_path / "report.html").read_text()


def test_an_extraction_that_fails_names_the_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "grim.texts.jsonl").touch()
    monkeypatch.setattr(contrastive, "_LIBRARY", tmp_path)
    assert "take the library's texts (`texts` library)" in advice("Grim")
    assert "library" not in advice("mild") and "`texts`" in advice("mild")


@pytest.fixture
def call(tiny: ChatModel, trait: Trait, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The command, with the tiny model and trait."""
    monkeypatch.setattr(options, "open_model", lambda *_, **__: tiny)
    (tmp_path / "tiny.json").write_text(trait.model_dump_json())
    given = texts()
    records = [{"question": t.question, "answer": t.answer, "side": t.side} for t in (*given.extract, *given.test)]
    (tmp_path / "texts.jsonl").write_text("\n".join(map(json.dumps, records)))

    def run(*arguments: str) -> int:
        words = ["extract", "tiny", "--traits-from", str(tmp_path / "tiny.json"), "--out", str(tmp_path / "out")]
        monkeypatch.setattr("sys.argv", ["personavec", *words, *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        return int(end.value.code or 0)

    return run


def test_the_command_prints_whole_answers_or_json(
    call: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = [
        "--texts",
        str(tmp_path / "texts.jsonl"),
        "--max-new-tokens",
        "4",
        "--tokens",
        "9",
        "--random-directions",
        "1",
    ]
    assert call(*asked) == 0
    shown = capsys.readouterr().out
    run = TextsRun.read(tmp_path / "out")
    assert re.search(r"prompt │ +│ +none │ +\d+ │ +\d+ │ 9", shown)
    *_, said, end = shown.split("\n\n")
    assert f"- {run.verdict[0]}\n" in said and "Not shown:" in said and said.count("\n- ") <= 4
    assert end.startswith(f"Report: {tmp_path / 'out' / 'report.html'}, with all figures")
    assert end.count("\n") == 2 and "\nNext: personavec generate" in end
    assert "3 questions drawn at random" in shown
    assert [example.question in shown for example in run.examples[:4]] == [True, True, True, False]
    assert call(*asked, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["auc"]["mean"] == run.separation.auc.mean and found["effects"].keys() == {"probe", "contrast"}
    assert found["vector"] == str(tmp_path / "out" / "vector.safetensors")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--texts", "library", "--pairs", "2"], "--pairs does not go with --texts"),
        (["--texts", "library", "--judge", "probe"], "--judge does not go with --texts"),
        (["--tokens", "9"], "--tokens goes with --texts or --teacher only"),
        (["--teacher", "api:m", "--texts", "library"], "--texts and --teacher exclude each other"),
        (["--teacher", "api:m", "--pairs", "2"], "--pairs does not go with --teacher"),
        (["--teacher", "m"], "Unknown teacher 'm'."),
        (["--texts", "library"], "holds no texts for the trait 'tiny'"),
        (["--texts", "nowhere.jsonl"], "nowhere.jsonl"),
        (["--texts", "library", "--max-new-tokens", "0"], "--max-new-tokens 0 is out of range"),
        (["--texts", "library", "--layer", "9"], "--layer 9 is out of range"),
    ],
)
def test_what_does_not_go_with_texts_is_refused(
    arguments: list[str], message: str, call: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(*arguments) == 2
    assert message in capsys.readouterr().err
