# mypy: disable-error-code="union-attr"
"""Tasks of lm-evaluation-harness: equal to its own wrapper of transformers models, with adapter and steering on."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter

import tiny as made
from personavec.capability import passage_losses, perplexity
from personavec.capability.result import TaskChange, TaskMetric, TaskMetrics
from personavec.capability.tasks import Tasks, compared, fingerprint
from personavec.errors import UserError
from personavec.evaluation import EvaluationSettings, evaluate
from personavec.files import JsonLines
from personavec.interventions import intervening, steering
from personavec.model import ChatModel, Request
from personavec.stats.bootstrap import bootstrap_mean
from personavec.stats.estimate import Estimate
from personavec.traits import load_trait

lm_eval = pytest.importorskip("lm_eval", reason="needs lm-evaluation-harness: pip install 'personavec[eval]'")

ROWS = [
    {"q": "hello there, how are", "choices": [" you", " well", " the model and the question"], "answer": 0},
    {"q": "the question answers the", "choices": [" user", " model", " system 0123"], "answer": 1},
    {"q": "I am", "choices": [" well", " today", " there"], "answer": 2},
    {"q": "and then", "choices": [" the model", " hello", " you"], "answer": 0},
]
COMMON = "dataset_path: json\ndataset_kwargs: {{data_files: {data}}}\ntest_split: train\ndoc_to_text: '{{{{q}}}}'\n"
CHOICE = "task: choose\noutput_type: multiple_choice\ndoc_to_choice: choices\ndoc_to_target: answer\n"
LETTER = "task: letter\noutput_type: multiple_choice\ndoc_to_choice: ['a', 'b', 'c']\ndoc_to_target: answer\n"
ROLLING = """task: rolling
output_type: loglikelihood_rolling
doc_to_target: "{{q}}"
metric_list: [{metric: word_perplexity}]
"""
WRITE = """task: write
output_type: generate_until
doc_to_target: "{{choices[answer]}}"
generation_kwargs: {until: ["t"], max_gen_toks: 12, do_sample: false}
metric_list: [{metric: exact_match}]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four tasks of each kind of request in files, and their data; nothing is looked up on the hub."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    for name, text in {"choose": CHOICE, "letter": LETTER, "rolling": ROLLING, "write": WRITE}.items():
        (tasks / f"{name}.yaml").write_text(text + COMMON.format(data=data))
    return tasks


def theirs(model: ChatModel, paths: Sequence[Path], rows: Sequence[Any] = ()) -> dict[str, Any]:
    """What the harness finds by its own wrapper, with hooks on."""
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    wrapped = HFLM(pretrained=model.model, tokenizer=made.tokenizer(), max_length=512)
    with intervening(model, [list(rows)] if rows else [[]]):
        tasks = TaskManager(include_defaults=False).load([str(path) for path in paths])
        found: dict[str, Any] = lm_eval.evaluate(wrapped, tasks, bootstrap_iters=0)
    return found


def values(found: dict[str, Any], task: str, metric: str) -> list[Any]:
    return [sample[metric] for sample in found["samples"][task]]


@pytest.mark.parametrize("steered", [False, True])
def test_figures_are_the_harness_own(tiny: ChatModel, folder: Path, tmp_path: Path, steered: bool) -> None:
    # Their hooks know no prompt and no response, so only steering of all positions can be compared.
    rows = steering(made.vector(tiny, scale=3), 1, positions="all") if steered else []
    paths = sorted(folder.glob("*.yaml"))
    expected = theirs(tiny, paths, rows)
    found = Tasks([str(folder)]).measure(tiny, rows, JsonLines(tmp_path / "log.jsonl"))
    assert found.keys() == {"choose", "letter", "rolling", "write"}
    for task, metric in (("choose", "acc"), ("choose", "acc_norm"), ("letter", "acc"), ("write", "exact_match")):
        assert found[task][metric].values == tuple(values(expected, task, metric))
    perplexity = found["rolling"]["word_perplexity"]
    assert perplexity.value == pytest.approx(expected["results"]["rolling"]["word_perplexity,none"], rel=1e-4)
    assert perplexity.values is None and perplexity.n == 4


def test_choices_are_scored_by_the_formula_with_steering_of_the_response(tiny: ChatModel, tmp_path: Path) -> None:
    from lm_eval.api.instance import Instance

    from personavec.capability.subject import Subject

    vector = made.vector(tiny, scale=3)
    push = vector.at(2)

    def scored(positions: Any, log: str) -> list[float]:
        subject = Subject(tiny, steering(vector, 1, positions=positions), JsonLines(tmp_path / log), "Test")
        pairs = [("hello there", choice) for choice in (" you", " yow", " you are", " well")]
        requests = [Instance("loglikelihood", {}, pair, 0) for pair in pairs]
        return [log for log, _ in subject.loglikelihood(requests)]

    def by_hand(choice: str, positions: str) -> float:
        ids = made.tokenizer()("hello there" + choice)["input_ids"]
        start = len(made.tokenizer()("hello there")["input_ids"])

        def edit(hidden: Any) -> Any:
            hidden = hidden.clone()
            where = slice(start - 1, None) if positions == "response" else slice(0, start)
            hidden[:, where] += push
            return hidden

        handle = made.editing(tiny.blocks.layers[1], edit)
        try:
            _, logits = made.plain_states(tiny.model, tiny.blocks.layers, ids)
        finally:
            handle.remove()
        logs = logits.log_softmax(-1)
        return sum(float(logs[at - 1, ids[at]]) for at in range(start, len(ids)))

    for positions in ("response", "prompt"):
        expected = [by_hand(choice, positions) for choice in (" you", " yow", " you are", " well")]
        assert scored(positions, f"{positions}.jsonl") == pytest.approx(expected, abs=1e-4)


def test_answers_are_cut_at_the_stop_sequence_and_steered(tiny: ChatModel, folder: Path, tmp_path: Path) -> None:
    rows = steering(made.vector(tiny, scale=3), 2)
    log = JsonLines(tmp_path / "log.jsonl")
    Tasks([str(folder / "write.yaml")]).measure(tiny, rows, log)
    prompts = [made.tokenizer()(row["q"])["input_ids"] for row in ROWS]
    steered = tiny.generate([Request(ids, 12, 0.0, 0, rows) for ids in prompts])
    assert {line["answer"] for line in log} == {tiny.decode(one.ids) for one in steered}


def test_an_interrupted_run_asks_for_nothing_twice(
    tiny: ChatModel, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks, log = Tasks([str(folder)]), JsonLines(tmp_path / "log.jsonl")
    found = tasks.measure(tiny, (), log)
    lines = log.path.read_bytes()
    monkeypatch.setattr("personavec.capability.subject.each_sequence", None)
    monkeypatch.setattr(tiny, "generate", None)
    assert tasks.measure(tiny, (), log) == found
    assert log.path.read_bytes() == lines


def test_a_group_is_the_mean_of_its_documents(tiny: ChatModel, folder: Path, tmp_path: Path) -> None:
    (folder / "both.yaml").write_text(
        "group: both\ntask: [choose, letter]\naggregate_metric_list: [{metric: acc, weight_by_size: true}]\n"
    )
    tasks = Tasks([str(folder)])
    found = tasks.measure(tiny, (), JsonLines(tmp_path / "log.jsonl"))
    assert {"both", "rolling", "write"} == found.keys()
    assert found["both"]["acc"].n == 8 and found["both"]["acc"].value == np.mean(found["both"]["acc"].values or ())


@pytest.mark.usefixtures("few_passages")
def test_evaluate_runs_them_without_and_with_steering(tiny: ChatModel, folder: Path, tmp_path: Path) -> None:
    trait = load_trait("evil")
    trait = trait.model_copy(update={"evaluation_questions": trait.evaluation_questions[:2]})
    vector = made.vector(tiny, scale=3, info={"trait": trait.model_dump(mode="json"), "judge": made.JUDGE})
    tasks, rows = [str(folder / "choose.yaml")], steering(vector, 1)
    settings = EvaluationSettings(max_new_tokens=4, lm_eval=tuple(tasks))
    run = evaluate(tiny, trait, tmp_path / "run", settings, interventions=rows, vectors=[vector])
    sides = [Tasks(tasks).measure(tiny, some, JsonLines(tmp_path / f"{len(some)}.jsonl")) for some in ((), rows)]
    assert run.lm_eval == compared(sides[0], sides[1])
    assert run.versions["lm_eval"] == lm_eval.__version__
    assert run.perplexity.before == perplexity(passage_losses(tiny)).rounded()
    assert run.perplexity.after == perplexity(passage_losses(tiny, rows)).rounded()
    assert "Task choose, acc_norm" in (tmp_path / "run" / "report.html").read_text()
    plain = evaluate(tiny, trait, tmp_path / "plain", settings, vectors=[vector])
    assert plain.perplexity is None and plain.lm_eval == compared(sides[0])


def test_change_is_paired_by_document() -> None:
    def of(values: tuple[float, ...] | None, value: float, stderr: float | None = None) -> TaskMetrics:
        return {"t": {"m": TaskMetric(value=value, stderr=stderr, n=4, better=True, values=values)}}

    before, after = (0.0, 1.0, 0.0, 1.0), (1.0, 1.0, 1.0, 1.0)
    found = compared(of(before, 0.5), of(after, 1.0), seed=3)["t"]["m"]
    assert found.change == bootstrap_mean([1.0, 0.0, 1.0, 0.0], seed=3).rounded()
    assert found.before == bootstrap_mean(before, seed=3).rounded()
    alone = compared(of(None, 10, 3.0), of(None, 12, 4.0))["t"]["m"]
    assert alone.change == Estimate(2, 2 - 1.96 * 5, 2 + 1.96 * 5, 4).rounded()
    assert compared(of(None, 10), of(None, 12)) == {"t": {}} and compared(of(None, 10)) == {"t": {}}
    assert compared(of(before, 0.5), seed=3) == {"t": {"m": TaskChange(before=found.before, better=True)}}


def test_measurements_survive_their_file(tiny: ChatModel, folder: Path, tmp_path: Path) -> None:
    found = Tasks([str(folder)]).measure(tiny, (), JsonLines(tmp_path / "log.jsonl"))
    adapter = TypeAdapter(TaskMetrics)
    assert adapter.validate_json(adapter.dump_json(found)) == found


def test_mistakes(folder: Path, tmp_path: Path) -> None:
    for name, message in (
        (tmp_path / "none.yaml", "There is no file"),
        (tmp_path / "cache", "no .yaml file"),
    ):
        (tmp_path / "cache").mkdir(exist_ok=True)
        with pytest.raises(UserError, match=message):
            Tasks([str(name)])
    (folder / "far.yaml").write_text(CHOICE + "dataset_path: nobody/nothing\ntest_split: train\ndoc_to_text: '{{q}}'\n")
    with pytest.raises(UserError, match="cannot be reached") as caught:
        Tasks([str(folder / "far.yaml")])
    assert "dataset_path: json" in str(caught.value.advice)
    (folder / "broken.yaml").write_text("task: broken\noutput_type: nonsense\n")
    with pytest.raises(UserError, match="cannot load the task"):
        Tasks([str(folder / "broken.yaml")])


def test_generation_that_is_not_ours_is_refused(tiny: ChatModel, folder: Path, tmp_path: Path) -> None:
    path = folder / "write.yaml"
    path.write_text(path.read_text().replace("do_sample: false", "num_beams: 4"))
    with pytest.raises(UserError, match="num_beams"):
        Tasks([str(path)]).measure(tiny, (), JsonLines(tmp_path / "log.jsonl"))


def test_a_changed_file_is_another_task(folder: Path) -> None:
    before = fingerprint(["mmlu", str(folder / "write.yaml")])
    assert before[0] == ["mmlu", None]
    os.truncate(folder / "write.yaml", 20)
    assert fingerprint(["mmlu", str(folder / "write.yaml")])[1] != before[1]
