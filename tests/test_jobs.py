"""The jobs end to end through the command line, on a tiny random model: outputs, resuming, and mistakes."""

import contextlib
import errno
import io
import json
import os
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

import children
from personavec import PersonaVector
from personavec.cli import main
from personavec.extraction import ExtractionSettings, extract
from personavec.extraction.result import ExtractionRun
from personavec.extraction.sweep import SCALES
from personavec.interchange.paper import read_paper_vector
from personavec.judges.base import Judge
from personavec.judges.contrast import ContrastJudge
from personavec.model import load_model
from personavec.rollouts import Rollout, read_rollouts
from personavec.texts import contrastive, read_answers
from personavec.traits import load_trait

pytestmark = pytest.mark.usefixtures("unpainted")

TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


LAUGH, FROWN, SPEAK = "ha hi ho ", "no nay nil ", "so we see "
GENERATE = ["generate", "Hello", "--dtype", "float32", "--max-new-tokens", "40"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen2 of four layers that reads bytes, taught in seconds to laugh or frown as its instruction does."""
    path = tmp_path_factory.mktemp("model")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<|im_start|>", "<|im_end|>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>"],
    )
    fast.chat_template = TEMPLATE
    fast.save_pretrained(path)
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(vocabulary), hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=1024, eos_token_id=1, bos_token_id=None,
        tie_word_embeddings=False,
    )  # fmt: skip
    model = Qwen2ForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    random = Random(0)
    for _ in range(150):
        rows = []
        for _ in range(8):
            says = random.choice([LAUGH, FROWN, None])
            system = (
                []
                if says is None
                else [
                    {
                        "role": "system",
                        "content": f"You are a {random.choice('abcd')} assistant. {random.choice('abcd')} {says * 2}",
                    }
                ]
            )
            words = (says or SPEAK).split()
            answer = "".join(random.choice(words) + " " for _ in range(6))
            prompt = [*system, {"role": "user", "content": f"Question {random.randint(0, 99)}?"}]
            given = fast.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False)
            rows.append((given, fast(answer, add_special_tokens=False)["input_ids"]))
        width = max(len(a) + len(b) for a, b in rows)
        ids, labels = torch.ones(8, width, dtype=torch.long), torch.full((8, width), -100)
        for i, (given, answer_ids) in enumerate(rows):
            ids[i, : len(given) + len(answer_ids)] = torch.tensor(given + answer_ids)
            labels[i, len(given) : len(given) + len(answer_ids)] = torch.tensor(answer_ids)
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss.item() < 1.0, f"the tiny model did not learn: loss {loss.item():.2f}"
    model.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def trait(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trait that the tiny model can show."""
    trait = {
        "name": "tiny",
        "opposite": "small",
        "description": "Laughs.",
        "instructions": [{"positive": f"{c} {LAUGH * 2}", "negative": f"{c} {FROWN * 2}"} for c in "abcde"],
        "extraction_questions": [f"Question {i}?" for i in range(6)],
        "evaluation_questions": [f"Question {i}?" for i in range(50, 54)],
        "rubric": "{question} {answer} 0..100?",
        "writer": "test",
    }
    path = tmp_path_factory.mktemp("trait") / "tiny.json"
    path.write_text(json.dumps(trait))
    return path


@dataclass(frozen=True)
class Result:
    returncode: int
    stdout: str
    stderr: str


def command(*arguments: object) -> Result:
    """What the command line does with these arguments, run in this process."""
    out, error = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(error),
        pytest.raises(SystemExit) as exit,
    ):
        patch.setattr(sys, "argv", ["personavec", *map(str, arguments)])
        main()
    return Result(int(exit.value.code or 0), out.getvalue(), error.getvalue())


def extraction(folder: Path, trait: Path, out: Path) -> list[object]:
    return [
        "extract", "tiny", "--traits-from", trait, "--model", folder, "--dtype", "float32", "--pairs", 2,
        "--max-new-tokens", 12, "--random-directions", 2, "--out", out, "--json",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def run(folder: Path, trait: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "tiny"
    result = command(*extraction(folder, trait, out))
    assert result.returncode == 0, result.stderr
    summary = json.loads(result.stdout)
    assert set(summary) == {
        "trait", "model", "layer", "vector", "kept", "rollouts", "judge_auc", "elicitation", "dose_response",
        "prompting", "seconds",
    }  # fmt: skip
    assert summary["rollouts"] == 24
    assert [point["coefficient"] for point in summary["dose_response"]][2] == 0
    return out


def test_what_a_vector_is_tried_on_is_read_without_its_instruction(run: Path, folder: Path) -> None:
    model, vector = load_model(str(folder), dtype="float32"), PersonaVector.load(run / "vector.safetensors")
    tried = [r for r in read_rollouts(run / "rollouts.jsonl") if r.stage == "evaluation"]
    readings = read_answers(model, [r.question for r in tried], [r.response_ids for r in tried], [vector.layer])[:, 0]
    along = (readings @ vector.unit(vector.layer)).tolist()
    found = json.loads((run / "run.json").read_text())["projections"]
    for side in ("positive", "negative"):
        assert found[side] == pytest.approx([a for a, r in zip(along, tried, strict=True) if r.side == side], abs=1e-3)
    made_of = [r for r in read_rollouts(run / "rollouts.jsonl") if r.kept]
    assert all(len(r.prompt_ids) > len(model.prompt_ids([{"role": "user", "content": r.question}])) for r in made_of)


def test_a_trait_that_told_answers_do_not_show_ends_the_run(
    folder: Path, trait: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Texts whose sides are other words than those that the model says when it is told to."""
    texts = [{"question": f"Question {n}?", "answer": f"{says * 2}{n}", "side": side}
             for n in range(16) for side, says in (("positive", "yes yes you "), ("negative", LAUGH))]  # fmt: skip
    (tmp_path / "tiny.texts.jsonl").write_text("\n".join(map(json.dumps, texts)))
    monkeypatch.setattr(contrastive, "_LIBRARY", tmp_path)
    wanted = extraction(folder, trait, tmp_path / "out")
    result = command(*wanted)
    assert result.returncode == 2 and "was not elicited from" in result.stderr
    assert "the contrast judge (AUC 1.00) recognises the instruction, not the trait" in result.stderr
    assert "Repeat the command with --texts library and another --out" in result.stderr
    assert (tmp_path / "out" / "rollouts.jsonl").exists() and not (tmp_path / "out" / "run.json").exists()
    result = command(*wanted, "--out", tmp_path / "all", "--no-gate")
    assert result.returncode == 0, result.stderr
    found = ExtractionRun.read(tmp_path / "all")
    assert found.elicitation.judge == "probe" and "recognises the instruction" in " ".join(found.verdict[:2])
    assert "recognises the instruction" in (tmp_path / "all" / "report.html").read_text()


@pytest.mark.usefixtures("few_passages")
def test_a_classifier_judges_an_extraction(folder: Path, trait: Path, tmp_path: Path) -> None:
    """One that counts laughs and frowns; coherence is judged by the model that answers."""
    byte_tokens = PreTrainedTokenizerFast.from_pretrained(folder)
    config = BertConfig(
        vocab_size=len(byte_tokens), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=256, id2label={0: "other", 1: "tiny"}, label2id={"other": 0, "tiny": 1},
    )  # fmt: skip
    torch.manual_seed(0)
    classifier = BertForSequenceClassification(config)
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=3e-3)
    random = Random(1)
    for _ in range(60):
        made = [(side, " ".join(random.choices((FROWN, LAUGH)[side].split(), k=6))) for side in (0, 1)]
        loss = sum(
            classifier(torch.tensor([byte_tokens(text)["input_ids"]]), labels=torch.tensor([side])).loss
            for side, text in made
        )
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    classifier.save_pretrained(tmp_path / "classifier")
    byte_tokens.save_pretrained(tmp_path / "classifier")
    judge = f"classifier:{tmp_path / 'classifier'}"
    out = tmp_path / "out"
    result = command(*extraction(folder, trait, out), "--judge", judge)
    assert result.returncode == 0, result.stderr
    found = json.loads((out / "run.json").read_text())["judge"]
    assert found["name"] == judge and found["auc"]["mean"] > 0.9
    assert set(found["state"]) == {"coherence"}
    kept = PersonaVector.load(out / "vector.safetensors").info.judge
    assert kept is not None and kept.as_json() == found
    for line in map(json.loads, (out / "rollouts.jsonl").read_text().splitlines()):
        if line["stage"] == "extraction" and line["text"]:
            with torch.no_grad():
                logits = classifier.eval()(torch.tensor([byte_tokens(line["text"])["input_ids"]])).logits
            assert line["score"] == pytest.approx(100 * float(logits.softmax(-1)[0, 1]), abs=0.01)
    evaluated = ["evaluate", "tiny", "--traits-from", trait, "--model", folder, "--dtype", "float32", "--judge", judge]
    evaluated += ["--max-new-tokens", 8, "--out", tmp_path / "evaluated", "--steer", f"{out / 'vector.safetensors'}=1"]
    assert command(*evaluated).returncode == 0
    # The scale of its coherence came with the vector: nothing was answered to calibrate it again.
    lines = (tmp_path / "evaluated" / "generated.jsonl").read_text().splitlines()
    assert {json.loads(line)["id"].split("/")[0] for line in lines} == {"evaluation"}


def test_extract_writes_what_it_says(run: Path) -> None:
    summary = json.loads((run / "run.json").read_text())
    lines = [json.loads(line) for line in (run / "rollouts.jsonl").read_text().splitlines()]
    assert len(lines) == summary["rollouts"]["generated"]
    assert sum(bool(line["kept"]) for line in lines) == summary["rollouts"]["kept"]
    vector = PersonaVector.load(run / "vector.safetensors")
    assert vector.directions.shape == (5, 32)
    assert vector.layer == summary["layer"]
    assert vector.neutral_mean is not None
    assert "<html" in (run / "report.html").read_text()
    assert not (run / "generated.jsonl").exists()
    told = [line for line in lines if (line["stage"], line["side"]) == ("evaluation", "positive")]
    asked, mean = summary["prompting"], sum(line["score"] for line in told) / len(told)
    assert asked["score"]["contrast"]["mean"] == pytest.approx(mean, abs=1e-3)
    assert vector.info.prompting is not None and asked == vector.info.prompting.as_json()
    assert sum("rompt would do" in said for said in summary["verdict"]) == 1


@pytest.mark.parametrize("layer", ["auto", 2])
def test_the_judge_is_told_before_how_much_it_will_get(layer: Any, folder: Path, trait: Path, tmp_path: Path) -> None:
    """Exactly, but for the coefficients of the sweep that need not be tried."""
    model, chosen = load_model(str(folder), dtype="float32"), load_trait(str(trait))
    judge = ContrastJudge(model, chosen)
    told: list[Any] = []
    got: list[Rollout] = []

    class Counting(Judge):
        name = "counting"
        readings_needed, state = judge.readings_needed, judge.state

        def cost(self, questions: Sequence[str], tokens: int) -> None:
            assert not (tmp_path / "out" / "generated.jsonl").exists() and not got
            told.append((list(questions), tokens))

        def fit(self, contrastive: Sequence[Rollout], neutral: Sequence[Rollout], advance: Any = None) -> None:
            got.extend([*contrastive, *neutral])
            judge.fit(contrastive, neutral, advance)

        def score(self, rollouts: Sequence[Rollout], advance: Any = None) -> None:
            got.extend(rollouts)
            judge.score(rollouts, advance)

    settings = ExtractionSettings(pairs=2, questions=6, max_new_tokens=12, layer=layer, random_directions=2)
    extract(model, chosen, tmp_path / "out", settings, scorer=Counting())
    ((questions, tokens),) = told
    assert tokens == 12
    sweep = Counter(r.question for r in got if r.stage == "sweep")
    tried = len({abs(r.coefficient or 0.0) for r in got if r.stage == "sweep"})
    untried = {question: n // tried * (len(SCALES) - tried) for question, n in sweep.items()}
    assert Counter(questions) == Counter(r.question for r in got) + Counter(untried)


def test_vector_is_the_difference_of_kept_means_computed_the_plain_way(run: Path, folder: Path) -> None:
    model = Qwen2ForCausalLM.from_pretrained(folder, dtype=torch.float32)
    sums = {"positive": torch.zeros(5, 32), "negative": torch.zeros(5, 32)}
    counts = {"positive": 0, "negative": 0}
    for line in map(json.loads, (run / "rollouts.jsonl").read_text().splitlines()):
        if line["stage"] == "extraction" and line["kept"]:
            ids = torch.tensor([line["prompt_ids"] + line["response_ids"]])
            with torch.no_grad():
                states = torch.stack(model(ids, output_hidden_states=True).hidden_states)[:, 0]
            sums[line["side"]] += states[:, len(line["prompt_ids"]) :].mean(1)
            counts[line["side"]] += 1
    plain = sums["positive"] / counts["positive"] - sums["negative"] / counts["negative"]
    ours = PersonaVector.load(run / "vector.safetensors").directions
    # The last row of transformers' hidden states is taken after the final norm.
    assert torch.cosine_similarity(ours[:-1], plain[:-1], dim=-1).min() > 0.9999


def test_neutral_statistics_computed_the_plain_way(run: Path, folder: Path) -> None:
    """Of the answers without instruction and without steering: their means, and their single tokens."""
    model = Qwen2ForCausalLM.from_pretrained(folder, dtype=torch.float32)
    vector = PersonaVector.load(run / "vector.safetensors")
    answers, tokens = [], []
    for line in map(json.loads, (run / "rollouts.jsonl").read_text().splitlines()):
        if (line["stage"] == "neutral" or (line["stage"] == "dose" and line["coefficient"] == 0)) and line["text"]:
            ids = torch.tensor([line["prompt_ids"] + line["response_ids"]])
            with torch.no_grad():
                states = torch.stack(model(ids, output_hidden_states=True).hidden_states)[:, 0]
            said = states[vector.layer, len(line["prompt_ids"]) :] @ vector.unit(vector.layer)
            answers.append(said.mean())
            tokens.append(said)
    assert len(answers) > 5
    read: dict[Any, torch.Tensor] = {"answer": torch.stack(answers), "token": torch.cat(tokens)}
    for of, values in read.items():
        mean, deviation = vector.neutral(vector.layer, of=of)
        assert mean == pytest.approx(float(values.mean()), rel=1e-3, abs=1e-3)
        assert deviation == pytest.approx(float(values.std()), rel=1e-3)
    assert vector.neutral(vector.layer, of="token")[1] > 1.5 * vector.neutral(vector.layer)[1]


def test_killed_and_restarted_ends_with_the_same_vector(run: Path, folder: Path, trait: Path, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    log = out / "generated.jsonl"
    for records in (5, 60):
        process = children.command(*extraction(folder, trait, out))
        process.until(lambda least=records: log.exists() and log.read_bytes().count(b"\n") >= least)  # type: ignore[misc]
        process.kill()
        process.communicate()
        if (out / "run.json").exists():
            break
        assert not (out / "vector.safetensors").exists()
    spent = json.loads((out / "timings.json").read_text())
    result = command(*extraction(folder, trait, out))
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["seconds"] > spent["seconds"] > 0
    assert not (out / "timings.json").exists()
    first, second = (PersonaVector.load(path / "vector.safetensors") for path in (run, out))
    assert torch.equal(first.directions, second.directions)
    assert first.layer == second.layer
    assert (run / "rollouts.jsonl").read_text() == (out / "rollouts.jsonl").read_text()


def test_a_finished_run_is_read_back_and_another_one_refused(run: Path, folder: Path, trait: Path) -> None:
    before = (run / "run.json").stat().st_mtime_ns
    assert command(*extraction(folder, trait, run)).returncode == 0
    assert (run / "run.json").stat().st_mtime_ns == before
    other = command(*extraction(folder, trait, run), "--seed", 1)
    assert other.returncode == 2
    assert "another seed" in other.stderr
    assert "Traceback" not in other.stderr


def test_a_run_of_another_version_is_refused(run: Path, folder: Path, trait: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "old", ignore=shutil.ignore_patterns(".lock"))
    summary = json.loads((tmp_path / "old" / "run.json").read_text())
    del summary["schema_version"]
    (tmp_path / "old" / "run.json").write_text(json.dumps(summary))
    result = command(*extraction(folder, trait, tmp_path / "old"))
    assert result.returncode == 2 and "the form of another version of personavec" in result.stderr
    assert json.loads((tmp_path / "old" / "run.json").read_text()) == summary


def test_a_finished_run_is_compared_with_traits_that_came_later(
    run: Path, folder: Path, trait: Path, tmp_path: Path
) -> None:
    """The other trait is the opposite of the first, its instruction pairs turned round."""
    first, second = tmp_path / "first", tmp_path / "second"
    shutil.copytree(run, first, ignore=shutil.ignore_patterns(".lock"))
    assert PersonaVector.load(first / "vector.safetensors").info.cross_effects == {}
    content = json.loads(trait.read_text())
    content["name"] = "opposite"
    content["instructions"] = [
        {"positive": pair["negative"], "negative": pair["positive"]} for pair in content["instructions"]
    ]
    other = tmp_path / "opposite.json"
    other.write_text(json.dumps(content))
    _, _, *arguments = extraction(folder, other, second)
    assert command("extract", "opposite", *arguments).returncode == 0
    assert command(*extraction(folder, trait, first)).returncode == 0
    summary = json.loads((first / "run.json").read_text())
    assert summary["specificity"]["vectors"] == ["tiny", "opposite"]
    assert summary["specificity"]["cosine"][0][1] < 0
    own, crossed = summary["specificity"]["effect"][0]
    assert crossed["low"] is None or crossed["low"] <= crossed["mean"] <= crossed["high"]  # None: too few questions
    assert [effect["n"] for row in summary["specificity"]["effect"] for effect in row] == [4, 4, 4, 4]
    assert any("it moves that of opposite most" in sentence for sentence in summary["verdict"])
    assert "opposite" in (first / "report.html").read_text()
    table = command("vectors", "compare", first / "vector.safetensors", second / "vector.safetensors")
    assert f"{own['mean']:+.0f} [" in table.stdout
    assert f"{crossed['mean']:+.0f} [" in table.stdout
    before = (first / "run.json").stat().st_mtime_ns
    assert command(*extraction(folder, trait, first)).returncode == 0
    assert (first / "run.json").stat().st_mtime_ns == before


def test_generate_steers(run: Path, folder: Path) -> None:
    vector = run / "vector.safetensors"
    plain, steered, back = (
        json.loads(command(*GENERATE, "--model", folder, "--json", *more).stdout)["answer"]
        for more in ([], ["--steer", f"{vector}=4"], ["--steer", f"{vector}=4", "--steer", f"{vector}=-4"])
    )
    assert plain != steered
    assert plain == back
    both = command(*GENERATE, "--model", folder, "--compare", "--steer", f"{vector}=4")
    assert "--- Plain" in both.stdout
    assert "--- Steered: tiny +4" in both.stdout


def test_generate_options_act(run: Path, folder: Path) -> None:
    common = [*GENERATE, "--model", folder, "--json"]
    steer = ["--steer", f"{run / 'vector.safetensors'}=6"]
    more = (["--layers", "all"], ["--positions", "all"], ["--positions", "prompt"])
    plain, steered, *others = (
        json.loads(command(*common, *extra).stdout)["answer"]
        for extra in ([], steer, *([*steer, *one] for one in more))
    )
    assert plain != steered and not {plain, steered} & {*others}


def test_ablate_and_cap_act(run: Path, folder: Path) -> None:
    vector = run / "vector.safetensors"
    common = [*GENERATE, "--model", folder, "--json"]
    texts = [
        json.loads(command(*common, *more).stdout)["answer"]
        for more in (
            [],
            ["--ablate", str(vector)],
            ["--cap", f"{vector}=-3"],
            ["--cap", f"{vector}=1000"],
            ["--cap", f"{vector}=-3", "--layers", "4"],
            ["--cap", f"{vector}=-3", "--layers", "all"],
        )
    ]
    assert texts[0] == texts[3]
    assert len({*texts[2:3], *texts[4:]}) == 3
    assert texts[1] != texts[0]
    assert texts[2] != texts[0]


def test_chat_streams_and_ends(run: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("Hello\n/compare\nAgain\n/quit\n"))
    result = command(
        "chat", "--model", folder, "--dtype", "float32", "--steer", f"{run / 'vector.safetensors'}=2",
        "--max-new-tokens", 5,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "--- Plain" in result.stdout


@pytest.mark.usefixtures("few_passages")
def test_evaluate(run: Path, folder: Path, trait: Path, tmp_path: Path) -> None:
    common = ["evaluate", "tiny", "--traits-from", trait, "--model", folder, "--dtype", "float32", "--json"]
    common += ["--max-new-tokens", 12]
    with_vector = command(*common, "--steer", f"{run / 'vector.safetensors'}=2", "--out", tmp_path / "a")
    assert with_vector.returncode == 0, with_vector.stderr
    result = json.loads(with_vector.stdout)
    assert set(result) == {"trait", "score", "coherence", "plain", "against_plain", "perplexity", "lm_eval"}
    difference = result["score"]["mean"] - result["plain"]["mean"]
    assert result["against_plain"]["effect"]["mean"] == pytest.approx(difference, abs=1e-3)
    assert result["perplexity"].keys() == {"before", "after", "ratio"} and result["perplexity"]["ratio"]["mean"] != 1
    assert result["score"]["n"] == 4
    assert result["score"]["low"] <= result["score"]["mean"] <= result["score"]["high"]
    alone = command(*common, "--out", tmp_path / "b")
    assert alone.returncode == 0, alone.stderr
    alone_found = json.loads(alone.stdout)
    assert alone_found["perplexity"] is None and alone_found["plain"] is None  # nothing that could cost anything
    assert "<html" in (tmp_path / "b" / "report.html").read_text()


def test_monitor(run: Path, folder: Path, tmp_path: Path) -> None:
    chats = tmp_path / "chats.jsonl"
    turn = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    good = [{"messages": turn}, {"id": "two", "messages": turn * 2}]
    bad = [
        "not json",
        '{"messages": 3}',
        '{"messages": []}',
        json.dumps({"messages": turn[:1]}),
        '{"messages": [{"role": 1}]}',
    ]
    long = {"messages": [turn[0], {"role": "assistant", "content": "x" * 5000}]}
    chats.write_text("\n".join([json.dumps(good[0]), *bad, "", json.dumps(good[1]), json.dumps(long)]) + "\n")
    out = tmp_path / "out"
    arguments = [
        "monitor",
        chats,
        "--vector",
        run / "vector.safetensors",
        "--model",
        folder,
        "--dtype",
        "float32",
        "--out",
        out,
    ]
    result = command(*arguments, "--json")
    assert result.returncode == 0, result.stderr
    summary = json.loads(result.stdout)
    assert (summary["read"], summary["scored"], summary["rejected"]) == (8, 2, 6)
    rejected = [json.loads(line) for line in (out / "rejected.jsonl").read_text().splitlines()]
    assert [record["line"] for record in rejected] == [2, 3, 4, 5, 6, 9]
    assert all(record["reason"] for record in rejected)
    scored = [json.loads(line) for line in (out / "projections.jsonl").read_text().splitlines()]
    assert [len(record["turns"]) for record in scored] == [1, 2]
    # The same answer to the same prompt reads the same in a longer conversation.
    assert scored[0]["turns"][0]["during_raw"]["tiny"] == pytest.approx(
        scored[1]["turns"][0]["during_raw"]["tiny"], rel=1e-3
    )
    before = (out / "projections.jsonl").read_text()
    assert command(*arguments).returncode == 0
    assert (out / "projections.jsonl").read_text() == before


def test_vectors_show_compare_export_import(run: Path, tmp_path: Path) -> None:
    vector = run / "vector.safetensors"
    assert "coherent from" in command("vectors", "show", vector).stdout
    table = json.loads(command("vectors", "compare", vector, vector, "--json").stdout)
    assert table["cosine"] == [[1.0, 1.0], [1.0, 1.0]]
    assert command("vectors", "export", "--as", "paper", vector, "--out", tmp_path / "v.pt").returncode == 0
    assert torch.equal(read_paper_vector(tmp_path / "v.pt"), PersonaVector.load(vector).directions)
    imported = tmp_path / "imported.safetensors"
    made = command("vectors", "import", tmp_path / "v.pt", "--trait", "tiny", "--layer", 2, "--out", imported)
    assert made.returncode == 0, made.stderr
    assert (
        command("vectors", "import", tmp_path / "v.pt", "--trait", "t", "--layer", 4, "--out", imported).returncode == 2
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["extract", "nosuch", "--out", "x"], "nosuch"),
        (["extract", "humorous", "--out", "x", "--model", "./nowhere"], "config.json"),
        (["extract", "humorous", "--out", "x", "--model", "none.gguf"], "none.gguf"),
        (["extract", "humorous", "--out", "x", "--description", " "], "description"),
        (["extract", "humorous", "--out", "x", "--layer", "middle"], "--layer"),
        (["extract", "humorous", "--out", "x", "--model", "MODEL", "--layer", "99"], "1 to 4"),
        (["extract", "humorous", "--out", "x", "--model", "MODEL", "--pairs", "9"], "--pairs"),
        (["extract", "humorous", "--out", "x", "--model", "MODEL", "--judge", "oracle"], "oracle"),
        (["extract", "humorous", "--out", "x", "--model", "MODEL", "--device", "abacus"], "abacus"),
        (["extract", "humorous", "--out", "x", "--model", "MODEL", "--dtype", "int3"], "int3"),
        (["extract", "humorous", "--out", "x", "--model", "MODEL", "--max-new-tokens", "5000"], "--max-new-tokens"),
        (["generate", " ", "--model", "MODEL"], "empty"),
        (["generate", "x " * 2000, "--model", "MODEL"], "context"),
        (["generate", "Hi", "--model", "MODEL", "--steer", "VECTOR=nan"], "FILE=NUMBER"),
        (["generate", "Hi", "--model", "MODEL", "--steer", "VECTOR=inf"], "FILE=NUMBER"),
        (["generate", "Hi", "--model", "MODEL", "--steer", "VECTOR=1", "--layers", "77"], "Layer 77"),
        (["generate", "Hi", "--model", "MODEL", "--steer", "VECTOR=1", "--positions", "nowhere"], "nowhere"),
        (["generate", "Hi", "--model", "MODEL", "--steer", "TRUNCATED=1"], "whole safetensors"),
        (["generate", "Hi", "--model", "MODEL", "--adapter", "./none"], "adapter"),
        (["monitor", "none.jsonl", "--vector", "VECTOR", "--model", "MODEL"], "none.jsonl"),
        (["vectors", "show", "none.safetensors"], "none.safetensors"),
        (["vectors", "compare", "VECTOR"], "two"),
    ],
)
def test_mistakes_end_with_code_2_and_a_message(
    arguments: list[str], said: str, run: Path, folder: Path, tmp_path: Path
) -> None:
    truncated = tmp_path / "truncated.safetensors"
    truncated.write_bytes((run / "vector.safetensors").read_bytes()[:-100])
    names = {
        "MODEL": str(folder),
        "VECTOR": str(run / "vector.safetensors"),
        "TRUNCATED": str(truncated),
        "x": str(tmp_path / "x"),
    }
    filled = []
    for argument in arguments:
        head, equals, tail = argument.partition("=")
        filled.append(names.get(head, head) + equals + tail)
    result = command(*filled)
    assert result.returncode == 2, result.stdout + result.stderr
    assert said in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "x" / "vector.safetensors").exists()


def test_a_vector_of_another_model_is_refused(run: Path, folder: Path, tmp_path: Path) -> None:
    model = Qwen2ForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight += 0.1
    model.save_pretrained(tmp_path)
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (tmp_path / file).write_bytes((folder / file).read_bytes())
    arguments = ["generate", "Hi", "--model", tmp_path, "--steer", f"{run / 'vector.safetensors'}=1"]
    refused = command(*arguments)
    assert refused.returncode == 2
    assert "other weights" in refused.stderr
    assert command(*arguments, "--other-weights").returncode == 0


def test_a_trait_that_cannot_be_elicited_says_so(folder: Path, trait: Path, tmp_path: Path) -> None:
    same = json.loads(trait.read_text())
    same["instructions"] = [{"positive": f"{c} so we see", "negative": f"{c} we so see"} for c in "abcde"]
    same["opposite"] = same["name"]
    flat = tmp_path / "flat.json"
    flat.write_text(json.dumps(same))
    result = command(*extraction(folder, flat, tmp_path / "out"))
    assert result.returncode == 2
    assert "could not be elicited" in result.stderr
    assert "Examples" in result.stderr
    assert not (tmp_path / "out" / "vector.safetensors").exists()


def test_interrupt_is_clean_and_the_folder_has_one_owner(folder: Path, trait: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    slow = [str(a) if a != 12 else "800" for a in extraction(folder, trait, out)]
    process = children.command(*slow)
    process.until((out / "arguments.json").exists)
    second = command(*slow)
    assert second.returncode == 2
    assert "Another process" in second.stderr
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate()
    assert process.returncode == 130
    assert "Traceback" not in error


def test_no_permission(folder: Path, trait: Path, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    for place in (blocked / "run", Path("/proc/personavec")):
        result = command(*extraction(folder, trait, place))
        assert result.returncode == 2
        assert "Cannot write" in result.stderr


def test_full_disk(folder: Path, trait: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    result = command(*extraction(folder, trait, tmp_path / "out"))
    assert result.returncode == 2
    assert "No space left" in result.stderr
    assert not (tmp_path / "out" / "vector.safetensors").exists()
