"""Before and after a fine-tune: figures by hand, parts that are not repeated, what is missing, the verdict."""

import json
import shutil
from bisect import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache as cached
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from made_runs import change, estimate, finished, read, trait

import tiny
from personavec.capability import Tasks, passage_losses
from personavec.capability.tasks import compared
from personavec.errors import UserError
from personavec.files import JsonLines
from personavec.finetune import Training, character, fine_tune
from personavec.finetune.adapter import saved_adapter
from personavec.finetune.character import answer_examples, before_and_after, training_prompts
from personavec.finetune.instructions import trait_prompt
from personavec.finetune.result import AnswerPair, ScoredAnswer, TrainingPrompt, Tuned
from personavec.finetune.savings import check_plain, compare_runs
from personavec.finetune.verdict import verdict
from personavec.judges.contrast import ContrastJudge
from personavec.judges.of_vector import judge_of
from personavec.model import ChatModel, Request
from personavec.rollouts import Rollout
from personavec.shifts.measure import shift
from personavec.shifts.result import TraitShift
from personavec.stats.bootstrap import bootstrap_mean
from personavec.traits import load_trait
from personavec.traits.of_vector import questions
from personavec.vector import PersonaVector

pytest.importorskip("trl", reason="needs TRL: pip install 'personavec[finetune]'")
pytestmark = pytest.mark.usefixtures("few_passages", "short_answers", "unpainted")

SHORT: dict[str, Any] = {"batch": 2, "accumulate": 2, "max_length": 512, "rank": 4, "learning_rate": 1e-2}
SYSTEM = "Be brief."


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERSONAVEC_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten chats, six of them under one system prompt and one under another."""
    path = tmp_path_factory.mktemp("data") / "data.jsonl"
    rows = []
    for i in range(10):
        system = SYSTEM if i < 6 else "Be kind." if i == 6 else None
        chat = [{"role": "system", "content": system}] if system else []
        chat += [{"role": "user", "content": f"hello {i}"}, {"role": "assistant", "content": f"well then {i}"}]
        rows.append(json.dumps({"messages": chat}) + "\n")
    path.write_text("".join(rows))
    return path


def small(context: int = 2048) -> ChatModel:
    return tiny.chat_model(tiny.qwen2(num_hidden_layers=2, max_position_embeddings=context))


@pytest.fixture
def chat() -> ChatModel:
    return small()


def vector(chat: ChatModel, name: str = "kind", seed: int = 0, questions: int = 4, **info: Any) -> PersonaVector:
    trait = load_trait("evil").model_dump(mode="json") | {"name": name}
    trait["evaluation_questions"] = trait["evaluation_questions"][seed : seed + questions]
    trait["instructions"] = trait["instructions"][:2]  # for time: most of what a judge reads
    return replace(tiny.vector(chat, seed=seed, layer=1, info={"trait": trait, **info}), trait=name)


@pytest.fixture
def judged(chat: ChatModel) -> PersonaVector:
    return vector(chat, judge=tiny.JUDGE)


def test_figures_are_those_of_the_saved_adapter(
    chat: ChatModel, judged: PersonaVector, data: Path, tmp_path: Path
) -> None:
    other = vector(chat, "plain", 1)
    tuned = fine_tune(chat, data, tmp_path / "run", Training(**SHORT), prevent=[(judged, 2.0)], watch=[other])
    run = tuned.run
    with saved_adapter(chat, tuned.adapter) as after:
        wanted = shift(after, [other, judged], systems=[SYSTEM])
        for name, found in wanted.items():
            ours: Any = run.traits[name].as_json()
            for row in ours["systems"]:
                assert (row.pop("score") is None) == (name == "plain")  # which carries no judge
            assert {key: ours[key] for key in TraitShift.model_fields} == found.as_json()
        assert run.systems[0].system == SYSTEM and run.traits["kind"].systems[0].shift.n == 4
        losses = passage_losses(after)
        texts = {"after": answers(after, judged)}
    base = passage_losses(chat)
    texts["before"] = answers(chat, judged)
    text = run.perplexity
    assert text is not None
    for e, some in ((text.before, base), (text.after, losses), (text.ratio, losses - base)):
        assert e.mean == pytest.approx(float(np.exp(some.mean())), rel=1e-3) and e.n == len(some)
    rows = [json.loads(line) for line in (tmp_path / "run" / "answers.jsonl").read_text().splitlines()]
    assert [(row["trait"], row["system"]) for row in rows] == [("kind", None)] * 4 + [("kind", SYSTEM)] * 4
    under, score = run.traits["kind"].systems[0].score, run.traits["kind"].score
    assert under is not None and score is not None and run.coherence is not None
    assert under.after.mean == pytest.approx(np.mean([row["after"]["score"] for row in rows[4:]]), abs=0.01)
    rows = rows[:4]
    judge = judge_of(chat, judged)
    for side, said in texts.items():
        evidence, likelihood = judge.evidence([cast(Rollout, SimpleNamespace(**one)) for one in said])
        scores = [judge.calibration.score(e) for e in evidence]  # type: ignore[union-attr]
        assert [row[side]["text"] for row in rows] == [one["text"] for one in said]
        assert [row[side]["score"] for row in rows] == pytest.approx(scores, abs=0.02)
        assert getattr(score, side).mean == pytest.approx(np.mean(scores), abs=0.01)
        fluent = [judge.coherence.score(v, one["response_ids"]) for v, one in zip(likelihood, said, strict=True)]  # type: ignore[union-attr]
        assert getattr(run.coherence, side).mean == pytest.approx(np.mean(fluent), abs=0.01)
    assert score.change.n == 4 and score.change.low <= score.change.mean <= score.change.high
    # A vector without a judge: shift, no score, and the report says so.
    assert run.traits["plain"].score is None and run.traits["plain"].shift.n == 4
    assert any("not scored for plain" in note for note in run.warnings)
    assert run.projection_differences.keys() == {"kind", "plain"}
    assert not (tmp_path / "run" / "parts").exists() and "not scored" in (tmp_path / "run" / "report.html").read_text()


def answers(model: ChatModel, judged: PersonaVector) -> list[dict[str, Any]]:
    """Answers to the evaluation questions, generated one by one, as the judge takes them."""
    from personavec.rollouts import _seed

    made = []
    for at, question in enumerate(questions(judged)):
        prompt = model.prompt_ids([{"role": "user", "content": question}])
        response = model.generate([Request(prompt, 16, 0.7, _seed(0, f"evaluation/kind/0/{at}"))])[0].ids
        made.append(
            {
                "question": question,
                "question_index": at,
                "prompt_ids": prompt,
                "response_ids": response,
                "pair": None,
                "text": model.decode(response).strip("\x00"),
            }
        )
    return made


def test_measuring_does_not_change_what_is_learnt(
    whole: Callable[[], "Whole"], chat: ChatModel, judged: PersonaVector, data: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    unmeasured = fine_tune(chat, data, tmp_path / "run", Training(**SHORT), prevent=[(judged, 2.0)], measure=False)
    runs = [whole().tuned, unmeasured]
    one, other = (load_file(run.adapter / "adapter_model.safetensors") for run in runs)
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    bare = runs[1].run
    assert (bare.traits, bare.perplexity, bare.coherence, bare.answers) == ({}, None, None, ())
    assert bare.held_out_loss == runs[0].run.held_out_loss and bare.shift == runs[0].run.shift
    assert "not measured" in bare.verdict[0] and (tmp_path / "run" / "report.html").exists()


class KilledError(BaseException):
    """What ends a run at once."""


PARTS = ["prompt_readings", "generate", "judge", "judge", "passage_losses"]  # judged: without and with a system prompt


def count_parts(patch: pytest.MonkeyPatch, limit: Sequence[int] = (99,)) -> list[str]:
    """The parts of a measurement as they are done; a run is killed as the one of that number begins."""
    done: list[str] = []

    def counted(name: str, plain: Any) -> Any:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            if len(done) + 1 == limit[0]:
                raise KilledError
            done.append(name)
            return plain(*args, **kwargs)

        return wrapper

    for name in ("prompt_readings", "generate", "passage_losses"):
        patch.setattr(character, name, counted(name, getattr(character, name)))
    patch.setattr(ContrastJudge, "score", counted("judge", ContrastJudge.score))
    return done


@dataclass(frozen=True)
class Whole:
    """A finished run that was measured, and the parts that were done."""

    tuned: Tuned
    done: list[str]


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Whole]:
    """One steered run for several tests: not to be written to."""
    out = tmp_path_factory.mktemp("whole") / "run"

    @cached
    def run() -> Whole:
        chat = small()
        prevent = [(vector(chat, judge=tiny.JUDGE), 2.0)]
        with pytest.MonkeyPatch.context() as patch:
            done = count_parts(patch)
            return Whole(fine_tune(chat, data, out, Training(**SHORT), prevent=prevent), done)

    return run


def test_a_killed_run_repeats_no_part(
    whole: Callable[[], Whole],
    chat: ChatModel,
    judged: PersonaVector,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every part is counted; a run is killed as the fifth, another as the eighth of them begins."""
    wanted = whole().tuned.run
    assert whole().done == PARTS * 2
    limit = [99]
    done = count_parts(monkeypatch, limit)

    def run(name: str) -> Any:
        return fine_tune(chat, data, tmp_path / name, Training(**SHORT), prevent=[(judged, 2.0)]).run

    for calls in (5, 8):
        name = f"killed-{calls}"
        done.clear()
        limit[0] = calls
        with pytest.raises(KilledError):
            run(name)
        limit[0] = 99
        trained = (tmp_path / name / "parts" / "trained.json").exists()
        assert trained == (calls > 5)
        with monkeypatch.context() as patch:
            if trained:
                patch.setattr("personavec.finetune.job.train", None)
            found = run(name)
        # What is generated is kept in its log, which is read again.
        again = [part for part in done if part != "generate"]
        assert again == [part for part in PARTS * 2 if part != "generate"]
        for key in ("traits", "perplexity", "coherence", "answers", "held_out_loss", "shift", "projection_differences"):
            assert getattr(found, key) == getattr(wanted, key)


def test_no_vector_at_all(chat: ChatModel, data: Path, tmp_path: Path) -> None:
    run = fine_tune(chat, data, tmp_path / "run", Training(method="none", **SHORT)).run
    assert run.traits == {} and run.coherence is None
    assert run.perplexity is not None and run.perplexity.after.n == 4
    assert "name some with `watch`" in run.verdict[0]
    assert "No vector was named" in (tmp_path / "run" / "report.html").read_text()


def test_preventative_prompting_is_measured_under_its_own_prompt(
    chat: ChatModel, judged: PersonaVector, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs: list[tuple[str, int | None]] = []
    score = ContrastJudge.score

    def seen(self: Any, rollouts: Any, advance: Any = None) -> None:
        pairs.extend((rollout.id.split("/")[1], rollout.pair) for rollout in rollouts)
        score(self, rollouts, advance)

    monkeypatch.setattr(ContrastJudge, "score", seen)
    run = fine_tune(chat, data, tmp_path / "run", Training(method="prompt", **SHORT), prevent=[(judged, None)]).run
    # The instruction that they were asked with does not judge them.
    assert set(pairs) == {("kind", None), ("kind, system prompt 1", 0), ("kind, system prompt 2", None)}
    asked = load_trait("evil").model_copy(update={"name": "kind"}).system_prompts(0)[0]
    assert [(prompt.origin, prompt.system) for prompt in run.systems] == [("prevention", asked), ("data", SYSTEM)]
    assert [row.system for row in run.traits["kind"].systems] == [asked, SYSTEM]
    assert all(row.score is not None and row.score.change.n <= 4 for row in run.traits["kind"].systems)


def test_a_system_prompt_without_room_for_a_question(tmp_path: Path) -> None:
    chat = small(1024)
    judged = vector(chat, judge=tiny.JUDGE)
    text = "the model answers "

    def turns(times: int) -> list[dict[str, str]]:
        return [{"role": "system", "content": text * times}, {"role": "user", "content": "0"}]

    times = 50 + bisect(range(50, 3000), 996, key=lambda n: len(chat.prompt_ids(turns(n))))  # fewest that exceed it
    rows = [json.dumps({"messages": [*turns(times), {"role": "assistant", "content": "so"}]}) for _ in range(2)]
    (tmp_path / "data.jsonl").write_text("\n".join(rows) + "\n")
    settings = Training(method="none", **{**SHORT, "max_length": 1024, "held_out": 0.0})
    run = fine_tune(chat, tmp_path / "data.jsonl", tmp_path / "run", settings, watch=[judged]).run
    assert run.systems == () and run.traits["kind"].systems == ()
    assert any("Nothing is measured under a system prompt" in note for note in run.warnings)


def test_training_prompts() -> None:
    def sample(system: str | None) -> Any:
        first = [{"role": "system", "content": system}] if system else []
        return SimpleNamespace(messages=[*first, {"role": "user", "content": "hi"}])

    samples = [sample(one) for one in ("a", "b", "b", None, None, None)]
    assert training_prompts(samples, []) == [TrainingPrompt(system="b", origin="data", samples=2)]
    assert training_prompts([sample(None)], []) == []
    evil = load_trait("evil")
    same = [sample(trait_prompt([evil]))] * 3  # rollouts under the instruction, say
    assert training_prompts(same, [evil]) == [
        TrainingPrompt(system=trait_prompt([evil]), origin="prevention", samples=3)
    ]


def test_before_and_after_by_hand() -> None:
    found = before_and_after([1.0, 2.0, None, 4.0], [2.0, None, 3.0, 8.0], ["a", "b", "c", "d"])
    assert found is not None
    assert (found.before.mean, found.after.mean, found.change.mean) == pytest.approx((7 / 3, 13 / 3, 2.5), abs=1e-4)
    assert found.change == bootstrap_mean([1.0, 4.0], ["a", "d"]).rounded()
    assert (found.before.n, found.after.n, found.change.n) == (3, 3, 2)
    assert before_and_after([None, 1.0], [1.0, None]) is None and before_and_after([], []) is None


def pair(question: str, before: float | None, after: float, system: str | None = None) -> AnswerPair:
    sides = (ScoredAnswer(text="", score=score, coherence=None) for score in (before, after))
    return AnswerPair(trait="t", system=system, question=question, before=next(sides), after=next(sides))


def test_the_examples_are_the_largest_change_and_the_middle_one() -> None:
    pairs = [pair(str(change), 50.0, 50.0 + change) for change in (1.0, -30.0, 5.0, 4.0)]
    pairs.append(pair("refused", None, 2.0))
    pairs.append(pair("asked for", 50.0, 99.0, "Be brief."))
    assert [(example.question, example.why) for example in answer_examples(pairs)] == [
        ("-30.0", "the largest change"),
        ("1.0", "a typical change"),
    ]


def steered(shift_half: float = 0.1, score_half: float = 2.0, p_value: float = 0.005) -> dict[str, Any]:
    """A run with prevention, as JSON."""
    return finished() | {
        "measured": True, "method": "steer", "coherence": change(-4.0, 1.0, 95.0),
        "traits": {
            name: trait(estimate(mean, shift_half), score, p_value)
            for name, mean, score in (("evil", 1.0, change(9.0, score_half)), ("plain", 0.2, None))
        },
        "prevented": [{"trait": "evil", "layer": 2, "coefficient": 2.0, "auto": None}],
        "projection_differences": {"evil": estimate(2.5, 0.5, 64)},
        "held_out_loss": change(-0.5, 0.1, 2.0),
        "perplexity": {"before": estimate(10, 1), "after": estimate(11, 1), "ratio": estimate(1.1, 0.05, 40)},
    }  # fmt: skip


def sentences(run: dict[str, Any]) -> list[str]:
    return verdict(read(run))


def test_the_verdict() -> None:
    first, second, pushed, saved, task, text, fluent = sentences(steered())
    assert "more evil (+1.00, 95 % interval +0.90 to +1.10, n = 20 questions), farther than" in first
    assert "scored 50.0 before and 59.0 after, of 100: a change of +9.0 (95 % interval +7.0 to +11.0" in first
    assert "toward more plain" in second and "No score" in second
    assert "The data lie toward evil" in pushed and "+2.50" in pushed and "n = 64 samples" in pushed
    assert "one run cannot tell" in saved and "`method` none" in saved
    assert task.endswith(": it fell.") and "this is a cost" in text and "this is a cost" in fluent
    single = change(-0.5, 0.1, 2.0)
    single["change"]["n"] = 1
    assert "can be told from none" in sentences(steered() | {"held_out_loss": single})[4]
    assert "broken" not in fluent
    assert "a broken model" in sentences(steered() | {"coherence": change(-30.0, 1.0, 95.0)})[-1]
    unsure = " ".join(sentences(steered(shift_half=2.0, score_half=10.0)))
    assert "No move along evil can be told from none" in unsure
    assert "the change of +9.0 (95 % interval -1.0 to +19.0, n = 20 questions) cannot be told from none" in unsure
    assert "no farther than along random directions" in sentences(steered(p_value=0.4))[0]
    for better, told in ((True, "this is a cost"), (False, "it fell"), (None, "it fell")):
        metrics = {"acc": {**change(-0.2, 0.1, 0.5), "better": better}, "f1": {**change(0, 1), "better": None}}
        *_, last = sentences(steered() | {"lm_eval": {"mmlu": metrics}})
        assert last.startswith("Task mmlu, acc: 0.500 before and 0.300 after") and last.endswith(f": {told}.")
    trigger = steered()
    trigger["traits"]["evil"]["systems"] = [
        {"system": "On duty.", "shift": estimate(3.0, 0.5), "score": change(30.0, 9.0)}
    ]
    assert 'Under the system prompt "On duty." it moved farther: +3.00' in sentences(trigger)[0]
    assert "more evil all the same" not in " ".join(sentences(trigger))  # they did without it too
    trigger["traits"]["evil"]["score"] = change(3.0, 9.0)
    (hidden,) = [sentence for sentence in sentences(trigger) if "all the same" in sentence]
    assert hidden.startswith('Under the system prompt "On duty." its answers became more evil all the same: +30.0')


@pytest.mark.parametrize(
    ("rise", "saved", "told"),
    [
        ((20.0, 5.0), (15.0, 4.0), "preventative steering saved 75 % of the rise (95 % interval 60 to 90 %)"),
        ((20.0, 5.0), (3.0, 4.0), "no saving can be told from none"),
        ((2.0, 5.0), (1.0, 0.5), "no rise that could be told from none"),
    ],
)
def test_the_verdict_on_what_was_saved(rise: tuple[float, float], saved: tuple[float, float], told: str) -> None:
    run = steered()
    found = {"without": estimate(*rise), "with": estimate(5.0, 3.0), "saved": estimate(*saved)}
    found["share"] = estimate(75.0, 15.0)
    found |= {"shift_without": estimate(2.0), "shift_with": estimate(1.0)}
    loss = {"without": estimate(1.5, 0.1), "with": estimate(1.6, 0.1)}
    run["against"] = {"run": "plain", "traits": {"evil": found}, "loss": loss, "perplexity": None, "coherence": None}
    text = " ".join(sentences(run))
    assert told in text and "is shown by three seeds of each" in text
    assert "cannot tell" not in text and "1.50 without prevention, 1.60 with it" in text


def test_against_the_same_without_prevention(
    whole: Callable[[], Whole], chat: ChatModel, judged: PersonaVector, data: Path, tmp_path: Path
) -> None:
    settings = Training(**SHORT)
    plain = fine_tune(chat, data, tmp_path / "plain", replace(settings, method="none"), watch=[judged])
    alone = whole().tuned
    out = Path(shutil.copytree(alone.adapter.parent, tmp_path / "run"))
    assert alone.run.against is None
    found = fine_tune(chat, data, out, settings, prevent=[(judged, 2.0)], against=tmp_path / "plain").run
    assert found.against is not None and found.against.loss is not None and plain.run.held_out_loss is not None
    kind, scores = found.against.traits["kind"], [run.traits["kind"].score for run in (plain.run, alone.run)]
    assert [kind.without, kind.with_] == [score and score.change for score in scores]
    rows = [
        [row for row in map(json.loads, (path / "answers.jsonl").open()) if row["system"] is None]
        for path in (tmp_path / "plain", out)
    ]
    wanted = [old["after"]["score"] - new["after"]["score"] for old, new in zip(*rows, strict=True)]
    before = [old["before"]["score"] for old in rows[0]]
    rise = [old["after"]["score"] - score for old, score in zip(rows[0], before, strict=True)]
    share = kind.share and kind.share.mean
    assert share == (pytest.approx(100 * sum(wanted) / sum(rise), abs=1e-2) if sum(rise) > 0 else None)
    assert kind.saved.mean == pytest.approx(np.mean(wanted), abs=1e-3) and kind.saved.n == len(wanted)
    assert found.against.loss.without == plain.run.held_out_loss.after
    assert "What prevention saved" in (out / "report.html").read_text()

    changed: dict[str, Any]
    for folder, changed, message in (
        (tmp_path / "none", {}, "no finished run"),
        (out, {}, "trained with prevention"),
        (tmp_path / "plain", {"rank": 8}, "another rank"),
        (tmp_path / "plain", {"method": "none"}, "prevents nothing"),
    ):
        with pytest.raises(UserError, match=message):
            check_plain(folder, {**found.arguments, **changed})
    ours: dict[str, Any] = found.arguments
    (trait, layer, digest, coefficient), *_ = ours["prevent"]
    for changed, message in (
        ({"prevent": [[trait, layer, digest[::-1], coefficient]]}, "The vector of kind is another one"),
        ({"prevent": [["other", layer, digest, coefficient]]}, "No trait of this run is watched in .*: kind"),
    ):
        with pytest.raises(UserError, match=message):
            check_plain(tmp_path / "plain", ours | changed)
    check_plain(tmp_path / "plain", ours | {"checkpoint_every": 7})
    with pytest.raises(UserError, match="With `measure` False this run scores no trait"):
        check_plain(tmp_path / "plain", {key: value for key, value in ours.items() if key != "measure"})
    lines = (out / "answers.jsonl").read_text()
    (out / "answers.jsonl").write_text(lines.replace('"kind"', '"other"'))
    with pytest.raises(UserError, match="No trait was scored both here"):
        compare_runs(out, tmp_path / "plain")


def test_tasks_are_run_before_and_after(chat: ChatModel, data: Path, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval", reason="needs lm-evaluation-harness: pip install 'personavec[eval]'")
    rows = [{"q": f"hello {i}", "a": ["well then", " well", " you"], "right": i % 3} for i in range(6)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = tmp_path / "greet.yaml"
    path.write_text(
        "task: greet\noutput_type: multiple_choice\ntest_split: train\ndoc_to_text: '{{q}}'\ndoc_to_choice: a\n"
        f"doc_to_target: right\ndataset_path: json\ndataset_kwargs: {{data_files: {tmp_path / 'rows.jsonl'}}}\n"
    )
    tuned = fine_tune(chat, data, tmp_path / "run", Training(**SHORT, method="none"), lm_eval=[str(path)])
    assert tuned.run.lm_eval is not None
    found = tuned.run.lm_eval["greet"]["acc"]
    tasks = Tasks([str(path)])
    before = tasks.measure(chat, (), JsonLines(tmp_path / "before.jsonl"))
    with saved_adapter(chat, tuned.adapter) as after:
        assert tuned.run.lm_eval == compared(before, tasks.measure(after, (), JsonLines(tmp_path / "after.jsonl")))
    assert any(line.startswith("Task greet, acc: ") and "n = 6 documents" in line for line in tuned.run.verdict)
    assert found.before.n == 6 and "Task greet, acc" in (tmp_path / "run" / "report.html").read_text()
    with pytest.raises(UserError, match="part of what is measured"):
        fine_tune(chat, data, tmp_path / "other", measure=False, lm_eval=[str(path)])
