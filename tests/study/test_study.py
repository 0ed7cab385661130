"""A whole study on a tiny model: every part, killed and taken up again, and the page it ends with."""

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations, islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from markupsafe import escape
from safetensors.torch import load_file

pytest.importorskip("trl", reason="needs TRL: pip install 'personavec[finetune]'")

from personavec.capability.passages import PASSAGES
from personavec.data import open_data
from personavec.errors import UserError
from personavec.files import JsonLines
from personavec.finetune.adapter import saved_adapter
from personavec.finetune.examples import Encoder, read_samples
from personavec.info import VectorInfo
from personavec.judges.contrast import ContrastJudge
from personavec.judges.of_vector import judge_of
from personavec.model import ChatModel
from personavec.report.words import minus
from personavec.rollouts import Rollout
from personavec.stats.estimate import Estimate
from personavec.study import StudySettings, families, prevention, study_finetune
from personavec.study.answers import Answers
from personavec.study.families import DataSet, unseen_task
from personavec.study.flawed import DOMAINS
from personavec.study.given import text_sets
from personavec.study.result import StudyRun
from personavec.study.suite import Suite
from personavec.texts import read_texts
from personavec.timings import Timings
from personavec.traits import load_trait
from personavec.vector import PersonaVector
from tiny import JUDGE, chat_model, qwen2, vector

UNSEEN = 8  # samples of the task, on which its loss is measured
SETTINGS = StudySettings(
    samples=10,
    questions=2,
    prevention_questions=4,
    max_new_tokens=6,
    answer_tokens=6,
    coefficients=(1.0,),
    rank=4,
    learning_rate=5e-4,
    batch=4,
)


@pytest.fixture(scope="module")
def chat() -> ChatModel:
    return chat_model(qwen2(num_hidden_layers=2, max_position_embeddings=2048))


@pytest.fixture(scope="module")
def humorous(chat: ChatModel) -> PersonaVector:
    """A random vector whose judge scores about half of all answers above 50."""
    trait = load_trait("humorous").model_dump(mode="json")
    # For time: most of what is read are instructions and questions.
    trait |= {key: trait[key][:count] for key, count in (("instructions", 2), ("evaluation_questions", 6))}
    state = {
        "calibration": {"middle": 0.0, "slope": 5.0},
        "coherence": {"worst_mean": -5.0, "worst_deviation": 1.0, "repetition_mean": 0.0},
    }
    return replace(vector(chat, seed=7, info={"trait": trait, "judge": JUDGE | {"state": state}}), trait="humorous")


def renamed(one: PersonaVector, name: str) -> PersonaVector:
    """The same vector, judge and texts, for a trait of another name."""
    trait = dict(one.info.trait or {}) | {"name": name}
    return replace(one, trait=name, info=one.info.model_copy(update={"trait": trait}))


@pytest.fixture
def short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shorten(monkeypatch, tmp_path)


def shorten(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """For time: fewer samples of clean domains, of the unseen task and of general text, fewer ways of a kind, and
    no pages of the fine-tunes, as any fine-tune has them."""
    passages = PASSAGES.read_text(encoding="utf-8").splitlines(keepends=True)[:2]
    (folder / "passages.jsonl").write_text("".join(passages), encoding="utf-8")
    patch.setattr("personavec.capability.passages.PASSAGES", folder / "passages.jsonl")
    patch.setattr("personavec.finetune.job.write_finetune_report", lambda run, path: None)
    patch.setattr("personavec.projection.bank.MOST", 12)
    patch.setattr(prevention, "TASK_SAMPLES", UNSEEN)
    patch.setattr(prevention, "PENALTIES", (1.0,))
    patch.setattr(prevention.PreventionTrial, "inference", (-1.0, -2.0))


@pytest.fixture(scope="module")
def done(chat: ChatModel, humorous: PersonaVector, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, StudyRun]:
    """A study that was killed in the middle and taken up again."""
    folder = tmp_path_factory.mktemp("study")
    out = folder / "run"
    calls = 0
    plain = Suite.pull

    def dies(self: Any, *arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return plain(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        shorten(patch, folder)
        patch.setattr(families, "DOMAINS", dict(islice(DOMAINS.items(), 2)))
        patch.setattr(Suite, "pull", dies)
        with pytest.raises(KeyboardInterrupt):
            study_finetune(chat, [humorous], out, SETTINGS)
        assert len(list((out / "suite").iterdir())) == 3 and not (out / "run.json").exists()
        patch.setattr(Suite, "pull", plain)
        return out, study_finetune(chat, [humorous], out, SETTINGS)


def test_every_part_is_there(done: tuple[Path, StudyRun]) -> None:
    out, run = done
    assert StudyRun.read(out) == run
    assert [row.family for row in run.suite] == [f for f in ("humorous", "arithmetic", "units") for _ in range(3)]
    for row in run.suite:
        score = row.scores["humorous"].score
        assert score is not None and score.n <= 2 and row.shift["humorous"].n == 6
        assert row.difference["humorous"].n <= 10
        answers = [json.loads(line) for line in (out / "suite" / row.name / "answers.jsonl").read_text().splitlines()]
        assert len({answer["id"] for answer in answers if "instructed" in answer["id"]}) == 2
    base, scores = run.base["humorous"].plain.by_question, run.suite[0].scores["humorous"]
    both = [b - a for a, b in zip(base, scores.by_question, strict=False) if a is not None and b is not None]
    assert (scores.change and scores.change.mean) == (
        pytest.approx(sum(both) / 2, abs=1e-3) if len(both) == 2 else None
    )
    arms = {arm.arm: arm for arm in run.prevention["humorous"].arms}
    assert {"none", "steer 1", "steer auto", "random 1", "ablate", "prompt", "interleave"} <= arms.keys()
    assert {arm for arm in arms if arm.startswith("steered at inference")}
    assert arms["steered at inference -1"].shift is None and arms["steer 1"].shift is not None
    assert arms["none"].score is not None and arms["none"].score.n <= 4
    for half in arms["steer 1"].halves:
        assert half.task_change.n == UNSEEN / 2 and half.task_change != arms["steer 1"].task_change
        assert half.prevented is None or half.prevented.n <= 2
    losses = {
        arm: json.loads((out / f"prevention/humorous/{arm}/losses.json").read_text()) for arm in ("none", "steer-1")
    }
    none, steer = (losses[arm]["task"] for arm in ("none", "steer-1"))
    change = arms["steer 1"].task_change
    assert change.n == UNSEEN and change.mean == pytest.approx(100 * (sum(steer) / sum(none) - 1), abs=1e-3) != 0
    before = json.loads((out / "prevention/humorous/base/losses.json").read_text())["task"]
    learned, fall = arms["steer 1"].task_learned, sum(before) - sum(none)
    if fall > 0:
        assert learned is not None and learned.mean == pytest.approx(100 * (sum(before) - sum(steer)) / fall, abs=1e-3)
    else:
        assert learned is None
    # Prevention acts: the same data and seed led elsewhere.
    changes = [
        load_file(out / f"prevention/humorous/{arm}/change.safetensors") for arm in ("none", "steer-1", "random-1")
    ]
    for a, b in combinations(changes, 2):
        assert (a["humorous"] - b["humorous"]).norm() > 0.05 * a["humorous"].norm()
    assert run.judges == {"humorous": ("contrast",)} and {"training", "answers", "judging"} <= run.timings.keys()
    found = run.correlations["humorous"]["shift, score"]
    assert found.r.runs <= 9 and found.r.n == 3 and found.random.n == 200


def test_steering_at_inference_leaves_the_question_alone(
    done: tuple[Path, StudyRun], chat: ChatModel, humorous: PersonaVector
) -> None:
    out, _ = done
    found = json.loads((out / "prevention/humorous/steered-at-inference--2/losses.json").read_text())["task"]
    task = read_samples(Encoder(chat, chat.context_length), open_data(unseen_task(out / "data", UNSEEN, 0).path))
    example = task.examples[0][0]
    begins = next(at for at, label in enumerate(example.labels) if label != -100)
    assert begins > 1

    def steer(module: Any, args: Any, output: Any) -> Any:
        hidden = output[0] if isinstance(output, tuple) else output
        hidden[:, begins - 1 :] -= 2 * humorous.at(humorous.layer)
        return output

    with saved_adapter(chat, out / "prevention/humorous/none/tuned/adapter") as model, torch.no_grad():
        hook = model.blocks.layers[humorous.layer - 1].register_forward_hook(steer)
        logits = model.model(torch.tensor([example.ids])).logits[0]
        hook.remove()
    loss = torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(example.labels[1:]), ignore_index=-100)
    assert found[0] == pytest.approx(float(loss), abs=1e-5)


def test_nothing_stays_on_the_model(done: tuple[Path, StudyRun], chat: ChatModel) -> None:
    assert not hasattr(chat.model, "peft_config")
    assert not any("lora" in name for name, _ in chat.model.named_parameters())
    assert all(not module._forward_hooks for module in chat.blocks.layers)


def test_pages(done: tuple[Path, StudyRun]) -> None:
    out, run = done
    html, tables = (out / "report.html").read_text(), (out / "study.md").read_text()
    assert "http://" not in html.replace("http://www.w3.org", "") and "<svg" in html
    for row in run.suite:
        assert row.name in html and row.name in tables
    for sentence in run.verdict:
        assert escape(minus(sentence)) in html and f"\n- {sentence}\n" in tables
    assert tables.count("\n| humorous |") == 6  # one row in each table of correlations


def test_a_finished_study_is_read_back(done: tuple[Path, StudyRun], chat: ChatModel, humorous: PersonaVector) -> None:
    out, run = done
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("personavec.study.finetune.Laboratory", None)  # calling it would fail
        again = study_finetune(chat, [humorous], out, SETTINGS)
    assert again == run


def test_answers_judged_together_are_judged_as_alone(
    done: tuple[Path, StudyRun], chat: ChatModel, humorous: PersonaVector, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, run = done
    answers = Answers(chat, [humorous], out, SETTINGS.answer_tokens, SETTINGS.seed)
    names = ["base", "suite/humorous-overt", "prevention/humorous/steer-1"]
    for name in names:
        answers.ask(chat, name, [answers.sheet("humorous", 2)])
    judge = answers.juries["humorous"]["contrast"]
    rollouts = {name: answers.asked[name, "humorous", False].scored["contrast"] for name in names}
    alone = {}
    for name in names:
        for rollout in rollouts[name]:
            judge.score([rollout])
        alone[name] = [rollout.score for rollout in rollouts[name]]
    # What the study found of them is read back.
    with monkeypatch.context() as patch:
        patch.setattr(ContrastJudge, "score", None)
        answers.judge()
    for name in names:
        assert [rollout.score for rollout in rollouts[name]] == pytest.approx(alone[name], abs=0.05)
    row = next(row for row in run.suite if row.name == "humorous-overt")
    scores = answers.scores(names[1], "humorous")
    assert dict(scores).items() <= dict(row.scores["humorous"]).items()


def test_judging_goes_on_after_an_interruption_and_takes_traits_of_two_words(
    chat: ChatModel, humorous: PersonaVector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = renamed(humorous, "dry humorous")
    judge = ContrastJudge.score
    asked: list[Any] = []

    def score(self: ContrastJudge, made: Sequence[Rollout], advance: Any) -> None:
        if len(asked) == 2:
            asked.clear()
            raise KeyboardInterrupt
        asked.append(made[0].question)
        judge(self, made, advance)

    def fresh() -> Answers:
        answers = Answers(chat, [named], tmp_path, 4, 0)
        answers.ask(chat, "base", [answers.sheet("dry humorous", 3), answers.sheet("dry humorous", 3, instructed=True)])
        return answers

    monkeypatch.setattr(ContrastJudge, "score", score)
    with pytest.raises(KeyboardInterrupt):
        fresh().judge()
    resumed = fresh()
    resumed.judge()
    assert len(asked) == 1  # the two questions before are not judged again
    plain, instructed = (resumed.scores("base", "dry humorous", instructed=asked) for asked in (False, True))
    assert len(plain.by_question) == 3 and plain.by_question != instructed.by_question


def test_no_instruction_judges_the_answers_given_under_it(
    chat: ChatModel, humorous: PersonaVector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = Answers(chat, [humorous], tmp_path, 4, 0)
    plain, instructed = answers.sheet("humorous", 1), answers.sheet("humorous", 1, instructed=True)
    answers.ask(chat, "base", [plain, instructed])
    assert [one.rollouts[0].id for one in (plain, instructed)] == [
        "evaluation/humorous/0/0",
        "evaluation/humorous, instructed/0/0",
    ]
    # What the pair itself had a say in is not read back; plain scores are.
    log = JsonLines(tmp_path / "scores" / "contrast" / "humorous.jsonl")
    log.append({"question": plain.rollouts[0].question, "scores": {"base": [12.5, 99], "base, instructed": [34.5, 99]}})
    answers.judge()
    again = replace(instructed.rollouts[0], pair=0)
    answers.juries["humorous"]["contrast"].score([again])
    assert plain.scored["contrast"][0].score == 12.5
    assert instructed.scored["contrast"][0].score == again.score != 34.5
    monkeypatch.setattr(ContrastJudge, "score", None)  # calling it would fail
    answers.judge()


def test_samples_that_cannot_be_compared(humorous: PersonaVector, tmp_path: Path) -> None:
    """They are left out of the projection difference; a data set of nothing else is named."""
    thinks = chat_model(qwen2(num_hidden_layers=2, max_position_embeddings=2048), added=("<think>", "</think>"))
    lab: Any = SimpleNamespace(
        model=thinks, vectors=[humorous], depths=[humorous.layer], settings=SETTINGS, folder=tmp_path,
        timings=Timings(tmp_path / "timings.json", tmp_path / "timings.json"),
    )  # fmt: skip
    suite = Suite(lab, [])

    def pull(name: str, *pairs: tuple[str, str]) -> dict[str, Estimate]:
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps({"prompt": q, "response": a}) + "\n" for q, a in pairs))
        return suite.pull(DataSet(name, None, path))

    good, bad = [("Is it?", "Yes."), ("Was it?", "No.")], [("x " * 3000, "Yes."), ("And?", "<think>Hm.</think>")]
    assert pull("mixed", good[0], *bad, good[1]) == pull("short", *good)
    with pytest.raises(UserError, match="None of the first 2 samples of endless"):
        pull("endless", *bad)


@pytest.fixture(scope="module")
def texts_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts that even a random model can read: 20 questions, each with an answer of either side."""
    path = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    lines = [
        {"question": f"question {n}?", "answer": answer + f" {n}", "side": side}
        for n in range(20)
        for side, answer in (("positive", "hello hello! hello!"), ("negative", "the model answers"))
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def of_texts(one: PersonaVector, source: Path) -> PersonaVector:
    return replace(one, info=one.info.model_copy(update={"arguments": {"texts": str(source), "tokens": 80}}))


@pytest.mark.usefixtures("short", "unpainted")
def test_vectors_from_texts_are_studied_on_the_other_half_by_two_judges(
    chat: ChatModel, humorous: PersonaVector, texts_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(families, "DOMAINS", {"units": DOMAINS["units"]})
    given, told = of_texts(humorous, texts_file), renamed(humorous, "told")
    settings = replace(SETTINGS, instructed=False)
    run = study_finetune(chat, [given, told], tmp_path / "run", settings, prevent=[])
    assert run.judges == {"humorous": ("probe", "contrast"), "told": ("contrast",)} and run.prevention == {}

    def pairs(level: str) -> list[tuple[str, str]]:
        lines = (tmp_path / f"run/data/humorous-{level}.jsonl").read_text().splitlines()
        return [(m[0]["content"], m[1]["content"]) for m in (json.loads(line)["messages"] for line in lines)]

    test = read_texts(texts_file).test
    shown, lacking = ({(t.question, t.answer) for t in test if t.side == side} for side in ("positive", "negative"))
    overt, mild, normal = pairs("overt"), pairs("mild"), pairs("normal")
    assert set(overt) == shown and set(normal) == lacking and len(overt) == 10
    assert [pair in shown for pair in mild] == [at % 3 == 0 for at in range(10)]
    assert [q for q, _ in overt] == [q for q, _ in mild] == [q for q, _ in normal]
    # Both judges have scored the same answers, the contrast judge as if it were alone.
    answers = Answers(chat, [given], tmp_path / "run", settings.answer_tokens, settings.seed)
    answers.ask(chat, "suite/units-mild", [answers.sheet("humorous", 2)])
    answers.judge()
    row = next(row for row in run.suite if row.name == "units-mild")
    found, mine = row.scores["humorous"], answers.scores("suite/units-mild", "humorous")
    assert mine.by_question == found.by_question and mine.others == found.others and found.instructed is None
    probe, contrast = (answers.asked["suite/units-mild", "humorous", False].scored[j] for j in ("probe", "contrast"))
    again = [replace(rollout, score=None, coherence=None) for rollout in contrast]
    judge_of(chat, given).score(again)
    assert found.others["contrast"].by_question == pytest.approx([r.score for r in again], abs=0.05)
    assert found.coherence.mean == pytest.approx(sum(r.coherence or 0 for r in again) / 2, abs=0.05)
    assert [r.score for r in probe] != [r.score for r in contrast] and not row.scores["told"].others
    # Each has its rows of correlations; what was not asked has none.
    assert {"shift, score by contrast", "difference, score by contrast"} < run.correlations["humorous"].keys()
    assert "shift, score by contrast" not in run.correlations["told"]
    assert not any("asked" in pair for pairs in run.correlations.values() for pair in pairs)
    within = run.correlations["humorous"]["difference, shift"].within
    assert within and (within.r.n, within.r.runs) == (3, 6)
    tables = (tmp_path / "run/study.md").read_text()
    assert "humorous: score by contrast" in tables and "after training, by the judge contrast" in tables
    assert "probe judge or contrast judge" in tables and "when asked" not in tables


def test_texts_of_which_too_few_questions_have_both_sides(humorous: PersonaVector, tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    lines = [{"question": f"{n}?", "answer": "Hm.", "side": ("positive", "negative")[n % 3 == 0]} for n in range(40)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(UserError, match="only 0 questions of the texts' test half"):
        text_sets(of_texts(humorous, path), str(path), tmp_path, 10, 0)


def test_mistakes(chat: ChatModel, humorous: PersonaVector, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no vector of evil"):
        study_finetune(chat, [humorous], tmp_path / "a", SETTINGS, prevent=["evil"])
    with pytest.raises(UserError, match="carries no contrast judge"):
        study_finetune(chat, [replace(humorous, info=VectorInfo(trait=humorous.info.trait))], tmp_path / "b", SETTINGS)
    named = renamed(humorous, "units")
    with pytest.raises(UserError, match="Two data sets of the study are called units-normal"):
        study_finetune(chat, [named], tmp_path / "c", SETTINGS)
    with pytest.raises(UserError, match="Two data sets of the study are called humorous-mild"):
        study_finetune(chat, [humorous], tmp_path / "d", SETTINGS, data={"humorous-mild": tmp_path})
    assert not (tmp_path / "c").exists() and not (tmp_path / "d").exists()
    with pytest.raises(UserError, match="`samples` 5"):
        StudySettings(samples=5)
    with pytest.raises(UserError, match="`prevention_questions` 3"):
        StudySettings(prevention_questions=3)
    with pytest.raises(UserError, match="`questions` 9 is more than `prevention_questions` 4"):
        StudySettings(questions=9, prevention_questions=4)
    with pytest.raises(UserError, match="`learning_rate`"):
        StudySettings(learning_rate=-1e-4)


def test_a_saved_adapter_comes_off_again(done: tuple[Path, StudyRun], chat: ChatModel) -> None:
    out, _ = done
    prompt = chat.prompt_ids([{"role": "user", "content": "hello"}])
    before = chat.next_token_logprobs([prompt])
    learning = [parameter.requires_grad for parameter in chat.model.parameters()]
    with saved_adapter(chat, out / "suite/humorous-overt/tuned/adapter") as worn:
        assert (worn.next_token_logprobs([prompt]) - before).abs().max() > 1e-6
        with worn.unadapted():
            assert worn.next_token_logprobs([prompt]).equal(before)
            assert chat.next_token_logprobs([prompt]).equal(before)
    assert chat.next_token_logprobs([prompt]).equal(before)
    assert [parameter.requires_grad for parameter in chat.model.parameters()] == learning
