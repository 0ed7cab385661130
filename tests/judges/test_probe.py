"""The probe: a regression on readings of given texts, tried on questions that it has not seen."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from personavec.cli import main
from personavec.errors import UserError
from personavec.judges.kinds import find_kind, open_judge
from personavec.judges.probe import Probe, ProbeJudge, ProbeModel, train_probe
from personavec.model import ChatModel
from personavec.rollouts import Rollout, Side
from personavec.texts import Text, Texts, read_answers
from personavec.traits import load_trait

SCORES = {"positive": 15.0, "negative": 5.0}
HAPPY, PLAIN = (
    ("hello today hello today", "today hello there hello"),
    ("the question the model", "model of the question"),
)


def texts(count: int = 16, score: bool = False) -> Texts:
    """Sides that differ in the words they use."""
    sides: list[tuple[Side, tuple[str, str]]] = [("positive", HAPPY), ("negative", PLAIN)]
    made = [
        Text(f"why {number} {number % 3}", f"{said[number % 2]} {number % 5}", side, SCORES[side] if score else None)
        for number in range(count)
        for side, said in sides
    ]
    return Texts.of("made", made)


@pytest.fixture(scope="module")
def trained(tiny: ChatModel) -> Probe:
    return train_probe(tiny, texts())


def rollout(model: ChatModel, answer: str, question: str = "why 99 1") -> Rollout:
    return Rollout(
        answer, "test", question, 0, prompt_ids=model.prompt_ids([{"role": "user", "content": question}]),
        response_ids=model.template.answer_ids(answer), text=answer,
    )  # fmt: skip


def test_it_tells_sides_apart_on_questions_it_has_not_seen(tiny: ChatModel, trained: Probe) -> None:
    assert 1 <= trained.layer <= tiny.n_layers and trained.auc.mean > 0.9 and trained.auc.n == 8
    judged = [rollout(tiny, answer) for answer in (HAPPY[0] + " 3", PLAIN[1] + " 2")]
    ProbeJudge(tiny, trained, "probe").score(judged)
    high, low = judged
    assert high.score is not None and low.score is not None and high.score > 60 > 40 > low.score
    assert high.score_error is not None and 0 < high.score_error < 60


def test_predictions_are_those_of_a_ridge_by_hand(tiny: ChatModel, trained: Probe) -> None:
    half = texts().extract
    readings = read_answers(tiny, [t.question for t in half], [t.answer for t in half], [trained.layer])[:, 0].double()
    rows, fit = readings.numpy(), trained.fit
    x = (rows - fit.centre) / fit.scale
    wanted = np.array([100.0 * (t.side == "positive") for t in half])
    penalised = 1 / fit.weights[:, 0]  # squared singular values and n times the penalty
    along = (fit.axes @ x.T) @ (wanted - wanted.mean()) / penalised
    by_hand = wanted.mean() + x @ fit.axes.T @ along
    np.testing.assert_allclose(trained.predict(readings)[0], by_hand.clip(0, 100), rtol=1e-6)


def test_what_is_like_none_of_its_texts_has_no_score(tiny: ChatModel, trained: Probe) -> None:
    half = texts().extract
    readings = read_answers(tiny, [t.question for t in half], [t.answer for t in half], [trained.layer])[:, 0]
    far = readings.mean(0) + 50 * (readings - readings.mean(0))
    scores, errors = trained.predict(torch.cat([readings, far]))
    assert np.isfinite(scores[: len(half)]).all() and np.isnan(scores[len(half) :]).all()
    assert np.isnan(errors[len(half) :]).all()


def test_an_empty_answer_has_no_score(tiny: ChatModel, trained: Probe) -> None:
    empty = replace(rollout(tiny, "hello"), response_ids=[], text="", score=3.0, score_error=1.0)
    ProbeJudge(tiny, trained, "probe").score([empty])
    assert empty.score is None and empty.score_error is None


def test_scores_are_learnt_where_texts_have_them(tiny: ChatModel) -> None:
    judged = [rollout(tiny, HAPPY[0] + " 3")]
    ProbeJudge(tiny, train_probe(tiny, texts(score=True)), "probe").score(judged)
    assert judged[0].score is not None and 5 <= judged[0].score <= 20


def test_a_probe_that_knows_nothing_is_refused(tiny: ChatModel, tmp_path: Path) -> None:
    lines = [
        {"question": f"why {number}", "answer": f"hello today {number % 4}", "side": side}
        for number in range(20)
        for side in ("positive", "negative")
    ]
    (tmp_path / "same.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(UserError, match="does not tell the sides of texts apart"):
        ProbeModel(tiny, str(tmp_path / "same.jsonl"), "probe").of_trait(load_trait("evil"))


def test_one_file_stands_for_one_trait_and_what_is_left_out_of_it_is_counted(
    tiny: ChatModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = texts()
    lines = [{"question": t.question, "answer": t.answer, "side": t.side, "split": split}
             for split, half in (("extract", made.extract), ("test", made.test)) for t in half]  # fmt: skip
    (tmp_path / "texts.jsonl").write_text("no JSON\n" + "".join(json.dumps(line) + "\n" for line in lines))
    opened = ProbeModel(tiny, str(tmp_path / "texts.jsonl"), "probe")
    opened.of_trait(load_trait("evil"))
    assert "1 records of" in caplog.text and "line 1: not JSON" in caplog.text
    with pytest.raises(UserError, match="would stand for two traits, 'evil' and 'humorous'"):
        opened.of_trait(load_trait("humorous"))


def test_names(tiny: ChatModel) -> None:
    assert all(find_kind(name) is not None for name in ("probe", "probe:texts.jsonl"))
    assert find_kind("probe:") is None and find_kind("probe", any_answers=True) is None
    assert open_judge("probe", tiny).name == "probe" and open_judge("probe:a/b.csv", tiny).name == "probe:a/b.csv"
    with pytest.raises(UserError, match="no texts for the trait 'sarcastic'"):
        open_judge("probe", tiny).of_trait(load_trait("evil").model_copy(update={"name": "sarcastic"}))


def command(monkeypatch: pytest.MonkeyPatch, arguments: Sequence[object]) -> int:
    monkeypatch.setattr("sys.argv", ["personavec", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_chats_are_scored_from_the_command_line(
    tiny: ChatModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny.model.save_pretrained(tmp_path / "model")
    tiny.tokenizer.save_pretrained(tmp_path / "model")
    made = texts()
    records = [{"question": t.question, "answer": t.answer, "side": t.side, "split": split}
               for split, half in (("extract", made.extract), ("test", made.test)) for t in half]  # fmt: skip
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    chats = [
        {"messages": [{"role": "user", "content": "why 7 1"}, {"role": "assistant", "content": answer}]}
        for answer in (HAPPY[0] + " 1", PLAIN[0] + " 1")
    ]
    lines = [json.dumps(chats[0]), "{broken", json.dumps(chats[1])]
    (tmp_path / "chats.jsonl").write_text("\n".join(lines))
    asked = ["judges", "score", tmp_path / "chats.jsonl", "--trait", "evil", "--model", tmp_path / "model",
             "--judge", f"probe:{tmp_path / 'texts.jsonl'}", "--dtype", "float32"]  # fmt: skip
    assert command(monkeypatch, [*asked, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    first, second = found["answers"]
    assert (first["line"], second["line"]) == (1, 3) and first["score"] > second["score"] + 20
    assert first["uncertainty"] > 0 and 0 <= first["coherence"] <= 100 and found["mean"]["n"] == 1
    assert [(one["line"], "JSON" in one["reason"]) for one in found["rejected"]] == [(2, True)]
    assert command(monkeypatch, asked) == 0
    assert "chats.jsonl:3  evil" in (said := capsys.readouterr().out) and "not scored" in said
    assert command(monkeypatch, [*asked, "--judge", "contrast"]) == 2
    assert "cannot score chats by itself" in capsys.readouterr().err
