"""The public code's files come in whole, with the numbers they are known for; bad ones are refused and told why."""

import csv
import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from personavec.cli.app import app
from personavec.errors import UserError
from personavec.interchange.paper import (
    PaperRollout,
    Side,
    paired_filter,
    paper_vector_name,
    read_paper_rollouts,
    read_paper_traits,
    read_paper_vector,
    unpaired_filter,
    write_paper_vector,
)
from personavec.traits import library_names, load_trait
from personavec.vector import PersonaVector

# Vectors


@pytest.mark.parametrize(
    ("name", "shape", "norms"),
    [
        (
            "qwen2.5-7b_evil_response_avg_diff.pt",
            (29, 3584),
            {4: 2.97, 8: 7.05, 16: 16.3, 20: 27.6, 24: 56.8, 27: 89.7},
        ),
        ("qwen2.5-7b_evil_prompt_last_diff.pt", (29, 3584), {20: 49.7, 27: 190.3, 28: 145.9}),
        ("qwen2.5-7b_evil_prompt_avg_diff.pt", (29, 3584), {20: 20.7}),
        ("qwen3-4b_sycophantic_response_avg_diff.pt", (37, 2560), {}),
        ("qwen3-4b_sycophantic_prompt_last_diff.pt", (37, 2560), {}),
        ("qwen3-4b_humorous_response_avg_diff.pt", (37, 2560), {}),
    ],
)
def test_published_vectors(shared_data: Path, name: str, shape: tuple[int, int], norms: dict[int, float]) -> None:
    vector = read_paper_vector(shared_data / "reference/vectors" / name)
    assert (tuple(vector.shape), vector.dtype) == (shape, torch.float32)
    for row, norm in norms.items():
        assert float(vector[row].norm()) == pytest.approx(norm, abs=0.05)


def test_published_positions_point_the_same_way(shared_data: Path) -> None:
    folder = shared_data / "reference/vectors"
    response, last, mean = (
        read_paper_vector(folder / f"qwen2.5-7b_{paper_vector_name('evil', position)}")[20]
        for position in ("response_mean", "prompt_last", "prompt_mean")
    )
    assert float(torch.cosine_similarity(response, last, dim=0)) == pytest.approx(0.591, abs=0.001)
    assert float(torch.cosine_similarity(response, mean, dim=0)) == pytest.approx(0.625, abs=0.001)


def test_the_row_after_the_final_norm_is_not_used(tmp_path: Path) -> None:
    write_paper_vector(torch.randn(5, 8), tmp_path / "evil.pt")
    directions = read_paper_vector(tmp_path / "evil.pt")
    vector = PersonaVector("evil", directions, 3, {}, normed_last_row=True)
    vector.save(tmp_path / "evil.safetensors")
    for read in (vector, PersonaVector.load(tmp_path / "evil.safetensors")):
        assert torch.equal(read.directions, directions)
        assert list(read.increments()) == [1, 2, 3]
        for use in (read.at, read.unit, read.using):
            with pytest.raises(UserError, match=r"Layer 4 .* final norm"):
                use(4)


def test_written_vectors_are_what_the_public_code_reads(tmp_path: Path) -> None:
    whole = torch.randn(10, 16, dtype=torch.float64)
    path = tmp_path / paper_vector_name("evil")
    write_paper_vector(whole[::2, 4:], path)
    assert path.name == "evil_response_avg_diff.pt"
    read = torch.load(path, weights_only=False)
    assert type(read) is torch.Tensor and read.dtype == torch.float32 and read.is_contiguous()
    assert torch.equal(read, whole[::2, 4:].float()) and read.untyped_storage().nbytes() == read.numel() * 4
    assert torch.equal(read_paper_vector(path), read)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    torch.save(torch.nn.Parameter(torch.ones(3, 4, dtype=dtype)), tmp_path / "a.pt")
    read = read_paper_vector(tmp_path / "a.pt")
    assert torch.equal(read, torch.ones(3, 4)) and not read.requires_grad


class Hostile:
    """Pickles as a call of os.system."""

    def __init__(self, flag: Path) -> None:
        self.flag = flag

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.flag}",)


def test_hostile_files_are_refused_and_not_run(tmp_path: Path) -> None:
    flag, saved, bare = tmp_path / "flag", tmp_path / "saved.pt", tmp_path / "bare.pt"
    torch.save({"vector": torch.ones(3, 4), "extra": Hostile(flag)}, saved)
    bare.write_bytes(pickle.dumps(Hostile(flag)))
    with pytest.raises(UserError, match=r"saved\.pt wants to call posix\.system .* nothing in it was run") as caught:
        read_paper_vector(saved)
    assert "weights_only" not in str(caught.value)
    with pytest.raises(UserError, match=r"bare\.pt is not a whole file of torch\.save"):
        read_paper_vector(bare)
    assert not flag.exists()
    torch.load(saved, weights_only=False)
    assert flag.exists()  # so it would have run


def rewritten(source: Path, target: Path, change: Callable[[str, bytes], bytes], compression: int = 0) -> Path:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compression) as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return target


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({"v": torch.ones(3, 4)}, "holds a dict, not one tensor"),
        ([torch.ones(3, 4)], "holds a list, not one tensor"),
        (torch.ones(4), r"has shape \(4,\)"),
        (torch.ones(2, 3, 4), r"has shape \(2, 3, 4\)"),
        (torch.ones(1, 4), r"has shape \(1, 4\)"),
        (torch.ones(4, 0), r"has shape \(4, 0\)"),
        (torch.tensor([[1.0, float("nan")], [1, 2]]), "not finite.* no pair of rollouts passed"),
        (torch.tensor([[1.0, float("inf")], [1, 2]]), "not finite"),
        (torch.full((2, 2), 1e300, dtype=torch.float64), "not finite"),
        (torch.ones(3, 4, dtype=torch.int64), "tensor of torch.int64"),
        (torch.ones(3, 4, dtype=torch.complex64), "tensor of torch.complex64"),
        (torch.ones(3, 4).to_sparse(), "a torch.sparse_coo tensor"),
        (torch.ones(3, 4, device="meta"), "not plain numbers"),
        (torch.ones(1).expand(29, 10**12), "promises .* numbers and holds fewer"),
    ],
)
def test_what_is_no_vector_is_refused(tmp_path: Path, value: Any, reason: str) -> None:
    torch.save(value, tmp_path / "a.pt")
    with pytest.raises(UserError, match=f"(?s)a.pt.*{reason}"):
        read_paper_vector(tmp_path / "a.pt")


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    good, path = tmp_path / "good.pt", tmp_path / "a.pt"
    write_paper_vector(torch.ones(3, 40), good)
    blob = good.read_bytes()
    for size in (0, 1, 100, len(blob) // 2, len(blob) - 1):
        path.write_bytes(blob[:size])
        with pytest.raises(UserError, match=r"not a whole file of torch.save"):
            read_paper_vector(path)
    place = blob.index(torch.ones(4).numpy().tobytes())
    path.write_bytes(blob[:place] + b"\x01" + blob[place + 1 :])
    with pytest.raises(UserError, match=r"a checksum is wrong|Bad CRC"):
        read_paper_vector(path)
    rewritten(good, path, lambda name, data: data[:40] if name.endswith("data/0") else data)
    with pytest.raises(UserError, match=r"damaged|holds fewer"):
        read_paper_vector(path)
    rewritten(good, path, lambda name, data: data, zipfile.ZIP_DEFLATED)
    with pytest.raises(UserError, match="compressed"):
        read_paper_vector(path)
    for missing in (tmp_path / "none.pt", tmp_path):
        with pytest.raises(UserError, match="Cannot read"):
            read_paper_vector(missing)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_pickle_with_random_bytes_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """The archive is in order, checksums and all; the instructions inside are not."""
    folder = tmp_path_factory.mktemp("fuzz")
    torch.save(torch.ones(3, 4), folder / "good.pt")

    def change(name: str, blob: bytes) -> bytes:
        if not name.endswith("data.pkl"):
            return blob
        changed = bytearray(blob)
        for _ in range(data.draw(st.integers(1, 3))):
            changed[data.draw(st.integers(0, len(blob) - 1))] = data.draw(st.integers(0, 255))
        return bytes(changed)

    try:
        read = read_paper_vector(rewritten(folder / "good.pt", folder / "a.pt", change))
    except UserError:
        return
    assert read.ndim == 2 and bool(torch.isfinite(read).all())


@pytest.mark.parametrize("value", [torch.ones(4), torch.full((3, 4), float("nan"))])
def test_only_vectors_are_written(tmp_path: Path, value: torch.Tensor) -> None:
    with pytest.raises(UserError, match="The vector h"):
        write_paper_vector(value, tmp_path / "a.pt")
    assert not (tmp_path / "a.pt").exists()


# Traits

PAPER_TRAIT: dict[str, Any] = {
    "instruction": [{"pos": "Moan.", "neg": "Be content."}, {"pos": "Find faults.", "neg": "Find merits."}],
    "questions": ["How is the weather?", "What is for lunch?"],
    "eval_prompt": "Is the answer grumpy?\n\n{question}\n{answer}\n\nA number from 0 to 100.",
}


def paper_trait(folder: Path, evaluation: dict[str, Any] | None = None, **changes: Any) -> Path:
    extract, other = folder / "trait_data_extract/grumpy.json", folder / "trait_data_eval/grumpy.json"
    for path, value in (
        (extract, PAPER_TRAIT | changes),
        (other, PAPER_TRAIT | changes | {"questions": ["How was the film?"]} | (evaluation or {})),
    ):
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(value))
    return extract


def test_published_traits(shared_data: Path) -> None:
    folder = shared_data / "reference"
    names = sorted(path.stem for path in (folder / "traits_extract").glob("*.json"))
    assert names == library_names()
    for name in names:
        trait = read_paper_traits(folder / f"traits_extract/{name}.json")
        trait.check_complete()
        assert (trait.name, trait.writer, trait.opposite) == (name, f"import:{name}.json", "helpful")
        assert "**" not in trait.description and 40 < len(trait.description) < 600
        files = [json.loads((folder / f"traits_{split}/{name}.json").read_text()) for split in ("extract", "eval")]
        assert [pair.model_dump() for pair in trait.instructions] == [
            {"positive": pair["pos"].strip(), "negative": pair["neg"].strip()} for pair in files[0]["instruction"]
        ]
        for mine, theirs in zip((trait.extraction_questions, trait.evaluation_questions), files, strict=True):
            assert list(mine) == [question.strip() for question in theirs["questions"]]
        filled = trait.judge_prompt("{a}?", "b{question}").strip()
        assert filled == files[0]["eval_prompt"].format(question="{a}?", answer="b{question}").strip()


def test_published_prompts_are_ours(shared_data: Path) -> None:
    """The system prompts that the public code built are in its CSV file."""
    trait = read_paper_traits(shared_data / "reference/traits_extract/evil.json")
    for side, name in enumerate(("pos", "neg")):
        rows = read_paper_rollouts(shared_data / f"reference/rollouts/qwen2.5-7b_evil_{name}.csv", "evil")
        for row in rows:
            assert row.question == trait.extraction_questions[row.question_index]
            assert row.pair is not None and trait.system_prompts(row.pair)[side] in row.prompt


def test_a_trait_from_two_files(tmp_path: Path) -> None:
    path = paper_trait(tmp_path)
    trait = read_paper_traits(path)
    assert trait.name == "grumpy" and trait.description == "Is the answer grumpy?"
    assert trait.evaluation_questions == ("How was the film?",)
    (tmp_path / "b.json").write_text((tmp_path / "trait_data_eval/grumpy.json").read_text())
    named = read_paper_traits(str(path), str(tmp_path / "b.json"), name="sullen", description="Complains.")
    assert (named.name, named.description, named.instructions) == ("sullen", "Complains.", trait.instructions)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"instruction": []}, "instructions: is empty"),
        ({"instruction": [{"pos": "a"}]}, "instruction, entry 1, neg: is missing"),
        ({"instruction": ["a"]}, "instruction, entry 1: "),
        ({"instruction": [{"pos": 1, "neg": "b"}]}, "instruction, entry 1, pos: must be text"),
        ({"questions": "Why?"}, "questions: "),
        ({"questions": ["Why?", None]}, "questions, entry 2: must be text"),
        ({"questions": ["Why?", "why? "]}, "extraction_questions, entry 2: .* repeats"),
        ({"eval_prompt": "Score {answer}"}, "slot {question} is missing"),
        ({"evaluation": {"questions": ["How is the weather?"]}}, "evaluation_questions, entry 1: .* repeats"),
        ({"evaluation": {"eval_prompt": "Another {question} {answer}"}}, "different traits: their eval_prompt"),
        ({"evaluation": {"instruction": [{"pos": "a", "neg": "b"}]}}, "different traits: their instruction"),
    ],
)
def test_bad_traits_are_refused_with_the_field(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(UserError, match=rf"grumpy\.json.*{reason}"):
        read_paper_traits(paper_trait(tmp_path, **changes))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "not JSON: .*line 1 column 2"),
        ("[]", "valid dictionary"),
        ("{}", "instruction: is missing; questions: is missing; eval_prompt: is missing"),
        ("[" * 100_000, "nested too deeply"),
        ("9" * 5000, "not JSON"),
        ("\xff", "not text in UTF-8"),
    ],
)
def test_bad_trait_files_are_refused(tmp_path: Path, text: str, reason: str) -> None:
    path = paper_trait(tmp_path)
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=rf"grumpy\.json.*{reason}"):
        read_paper_traits(path)


def test_missing_trait_files(tmp_path: Path) -> None:
    path = paper_trait(tmp_path)
    (tmp_path / "trait_data_eval/grumpy.json").unlink()
    with pytest.raises(UserError, match=r"Cannot read .*eval.grumpy\.json: No such file"):
        read_paper_traits(path)
    alone = path.rename(tmp_path / "grumpy.json")
    with pytest.raises(UserError, match="one set of a trait's questions"):
        read_paper_traits(alone)


def run(*arguments: str | Path) -> str:
    """What a command prints; its UserError is raised."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_traits_are_imported_by_a_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = paper_trait(tmp_path)
    with pytest.raises(UserError) as caught:
        load_trait(path)
    advice = caught.value.advice.partition("personavec ")[2]
    assert advice == f"traits import {path}"
    assert "Next: personavec extract grumpy --traits-from grumpy.json --out runs/grumpy" in run(*advice.split())
    assert load_trait(tmp_path / "grumpy.json") == read_paper_traits(path)
    with pytest.raises(UserError, match=r"grumpy\.json is already there.*--out"):
        run("traits", "import", path)

    both = path.rename(tmp_path / "a.json"), (tmp_path / "trait_data_eval/grumpy.json").rename(tmp_path / "b.json")
    with pytest.raises(UserError, match=r"a\.json holds one set of a trait's questions"):
        run("traits", "import", both[0])
    run("traits", "import", *both, "--name", "sullen", "--description", "Complains.", "--out", tmp_path / "new/c.json")
    trait = load_trait(tmp_path / "new/c.json")
    assert (trait.name, trait.description, trait.writer) == ("sullen", "Complains.", "import:a.json")


# Vectors, by command


def test_vectors_are_imported_and_exported_by_commands(tmp_path: Path) -> None:
    there, here, back = tmp_path / "a.pt", tmp_path / "a.safetensors", tmp_path / "b.pt"
    write_paper_vector(torch.randn(5, 8), there)
    assert "grumpy, layer 3" in run(
        "vectors", "import", there, "--trait", "grumpy", "--layer", "3", "--out", here, "--model", "some/model"
    )
    vector = PersonaVector.load(here)
    assert (vector.trait, vector.layer, vector.model) == (
        "grumpy", 3, {"id": "some/model", "n_layers": 4, "hidden_size": 8},
    )  # fmt: skip
    assert "last row was taken after the final norm" in run("vectors", "show", here)
    run("vectors", "export", "--as", "paper", here, "--out", back)
    assert torch.equal(read_paper_vector(back), read_paper_vector(there))
    with pytest.raises(UserError, match="no position 'prompt_last'"):
        run("vectors", "export", "--as", "paper", here, "--out", back, "--position", "prompt_last")
    for layer in ("0", "4", "9", "-1"):
        with pytest.raises(UserError, match=r"Layer -?\d is out of range"):
            run("vectors", "import", there, "--trait", "grumpy", "--layer", layer, "--out", tmp_path / "no.safetensors")
    assert not (tmp_path / "no.safetensors").exists()


# Rollouts

COLUMNS = ("question", "prompt", "answer", "question_id", "grumpy", "coherence")


def rollout_file(path: Path, *rows: tuple[Any, ...], columns: tuple[str, ...] = COLUMNS) -> Path:
    buffer = io.StringIO(newline="")
    csv.writer(buffer).writerows([columns, *rows])
    path.write_bytes(buffer.getvalue().encode())
    return path


def test_published_rollouts(shared_data: Path) -> None:
    folder = shared_data / "reference/rollouts"
    positive, negative = (
        read_paper_rollouts(folder / f"qwen2.5-7b_evil_{side}.csv", "evil") for side in ("pos", "neg")
    )
    for records, side in ((positive, "positive"), (negative, "negative")):
        assert len(records) == len({record.id for record in records}) == 1000
        assert {record.side for record in records} == {side}
        assert {record.question_index for record in records} == set(range(20))
        assert {record.pair for record in records} == set(range(5))
        assert any("\n\n" in record.text for record in records)
        assert all(record.coherence is None or 0 <= record.coherence <= 100 for record in records)
    assert [sum(r.score is None for r in side) for side in (positive, negative)] == [0, 4]
    assert sum(r.score or 0 for r in positive) / 1000 == pytest.approx(78.8, abs=0.05)
    coherences = [r.coherence for r in positive if r.coherence is not None]
    assert sum(coherences) / len(coherences) == pytest.approx(88.8, abs=0.05)
    for kept in paired_filter(positive, negative):
        assert sum(bool(r.kept) for r in kept) == 766
    assert sum(bool(r.kept) for r in unpaired_filter(positive)) == 781
    assert sum(bool(r.kept) for r in unpaired_filter(negative)) == 984
    assert all(r.kept is None for r in [*positive, *negative])


def test_texts_stay_texts_and_empty_scores_are_none(tmp_path: Path) -> None:
    texts = [
        "None",
        "N/A",
        "null",
        "",
        "nan",
        "1.0",
        " padded ",
        'a "quoted", line\r\nand another\n',
        "Grüße 🙂",
        "long " * 60_000,
    ]
    rows = [(text, text, text, f"grumpy_3_pos_{k}", "", "") for k, text in enumerate(texts)]
    records = read_paper_rollouts(rollout_file(tmp_path / "a.csv", *rows), "grumpy")
    assert [(r.text, r.question, r.prompt) for r in records] == [(text, text, text) for text in texts]
    assert all(r.score is None and r.coherence is None for r in records)


def test_places_come_from_the_question_id(tmp_path: Path) -> None:
    ids = ["very_grumpy_0", "very_grumpy_0", "very_grumpy_12_neg_4", "very_grumpy_12_pos_4"]
    columns = ("question_id", "coherence", "very_grumpy", "answer", "question", "prompt", "more")
    rows = [(name, "100.0000000001", 12.5, "a", "q", "p", "x") for name in ids]
    records = read_paper_rollouts(rollout_file(tmp_path / "a.csv", *rows, columns=columns), "very_grumpy")
    assert [r.id for r in records] == [
        "evaluation/0/0", "evaluation/1/0", "extraction/4/negative/0/12", "extraction/4/positive/0/12",
    ]  # fmt: skip
    assert [r.stage for r in records] == ["evaluation"] * 2 + ["extraction"] * 2
    assert {(r.score, r.coherence) for r in records} == {(12.5, 100.0)}


@given(st.lists(st.tuples(*[st.text(st.characters(exclude_categories=["Cs"]))] * 3), max_size=5))
def test_any_text_survives(tmp_path_factory: pytest.TempPathFactory, texts: list[tuple[str, str, str]]) -> None:
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    rollout_file(path, *[(*row, "grumpy_0", 1, 2) for row in texts])
    assert [(r.question, r.prompt, r.text) for r in read_paper_rollouts(path, "grumpy")] == texts


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (("q", "p", "a", "evil_0", 1, 2), "line 3: the question_id 'evil_0' is not of the trait 'grumpy'"),
        (("q", "p", "a", "grumpy_0_both_1", 1, 2), "line 3: the question_id"),
        (("q", "p", "a", f"grumpy_{'9' * 5000}", 1, 2), "line 3: the question_id"),
        (("q", "p", "a", "grumpy_0", "high", 2), "line 3, column grumpy: 'high' is not a score"),
        (("q", "p", "a", "grumpy_0", 1, "nan"), "line 3, column coherence: 'nan' is not a score"),
        (("q", "p", "a", "grumpy_0", 101, 2), "line 3, column grumpy: '101' is not a score"),
        (("q", "p", "a", "grumpy_0", -1, 2), "line 3, column grumpy"),
        (("q", "p", "a"), "line 3: 3 values for 6 columns"),
    ],
)
def test_bad_rows_are_refused_with_their_line(tmp_path: Path, row: tuple[Any, ...], reason: str) -> None:
    path = rollout_file(tmp_path / "a.csv", ("q", "p", "a", "grumpy_0", 1, 2), row)
    with pytest.raises(UserError, match=rf"a\.csv, {reason}"):
        read_paper_rollouts(path, "grumpy")


def test_bad_rollout_files_are_refused(tmp_path: Path) -> None:
    path = rollout_file(tmp_path / "a.csv", ("q", "p", "first\nsecond", "grumpy_0", 1, 2))
    with pytest.raises(UserError, match=r"no column evil; it has question, .*named as its score column"):
        read_paper_rollouts(path, "evil")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"line 3: not CSV .* left open"):
        read_paper_rollouts(path, "grumpy")
    path.write_bytes(b"")
    with pytest.raises(UserError, match="it has none at all"):
        read_paper_rollouts(path, "grumpy")
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="not text in UTF-8"):
        read_paper_rollouts(path, "grumpy")
    with pytest.raises(UserError, match="Cannot read"):
        read_paper_rollouts(tmp_path / "none.csv", "grumpy")


def rollout(score: float | None, coherence: float | None, side: Side, question: int = 0) -> PaperRollout:
    return PaperRollout(f"{side}/{question}", "extraction", "q", question, 0, side, "p", "a", score, coherence)


@pytest.mark.parametrize(
    ("positive", "negative", "kept"),
    [
        ((50, 50), (49.9, 50), True),
        ((49.9, 50), (0, 50), False),
        ((50, 50), (50, 50), False),
        ((50, 49.9), (0, 50), False),
        ((50, 50), (0, 49.9), False),
        ((None, 50), (0, 50), False),
        ((50, 50), (0, None), False),
    ],
)
def test_the_filter_at_its_edges(positive: Any, negative: Any, kept: bool) -> None:
    sides = paired_filter(
        [rollout(positive[0], positive[1], "positive")], [rollout(negative[0], negative[1], "negative")]
    )
    assert [side[0].kept for side in sides] == [kept, kept]


def test_sides_that_do_not_match_are_refused() -> None:
    first, second = rollout(90, 90, "positive"), rollout(90, 90, "positive", question=1)
    with pytest.raises(UserError, match="1 positive rollouts and 0 negative"):
        paired_filter([first], [])
    with pytest.raises(UserError, match="Rollout 2 has another question"):
        paired_filter([first, second], [first, rollout(0, 90, "negative", question=2)])
