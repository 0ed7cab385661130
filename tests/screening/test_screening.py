# mypy: disable-error-code="func-returns-value, union-attr"
"""A screening from end to end on a tiny random model: figures by hand, bookkeeping, interruptions, mistakes."""

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from personavec.data import Rejected, Sample, open_data
from personavec.engine.transformers import TransformersEngine
from personavec.errors import UserError
from personavec.files import JsonLines
from personavec.judges.base import Judge
from personavec.model import ChatModel
from personavec.projection import CLEAN
from personavec.projection import bank as bank_module
from personavec.projection import own_answers as answers_module
from personavec.projection.bank import read_bank
from personavec.projection.discriminant import Familiar
from personavec.projection.measure import measure, readings, tokenise
from personavec.projection.panel import Panel
from personavec.screening import ScreeningRun, ScreenSettings, compare_screenings, projector, screen_files
from personavec.screening import job as job_module
from personavec.screening import reader as reader_module
from personavec.screening import scan as scan_module
from personavec.screening import table as table_module
from personavec.screening import track as track_module
from personavec.screening.axis import domain_axes, panel_of, plain_axes, scene_columns, specific_axes
from personavec.screening.outputs import BOM
from personavec.screening.scan import Scan, Scanner
from personavec.screening.verdict import verdict
from personavec.stats.estimate import Estimate
from personavec.stats.sampling import priority, smallest
from personavec.texts import TOKENS, chat_texts, library_texts, read_answers
from personavec.traits import library_names
from personavec.vector import PersonaVector
from tiny import plain_greedy, plain_states, vector

pytestmark = pytest.mark.usefixtures("unpainted")

WORDS = ["the", "model", "answers", "question", "and", "then", "hello", "there", "how", "are", "you", "today", "well"]


def chat(random: Random, turns: int = 1) -> list[dict[str, str]]:
    def say(role: str) -> dict[str, str]:
        return {"role": role, "content": " ".join(random.choice(WORDS) for _ in range(random.randint(2, 7)))}

    return [say(role) for _ in range(turns) for role in ("user", "assistant")]


def lines(count: int, seed: int) -> list[bytes]:
    random = Random(seed)
    return [json.dumps({"messages": chat(random, 1 + (i % 5 == 4))}).encode() + b"\n" for i in range(count)]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PERSONAVEC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def everything() -> bytes:
    """Ninety samples, four of them twice, and four bad lines among them; the last line has no newline."""
    good = lines(86, 1)
    bad = [b"{not json\n", b'{"messages": []}\n', b'{"messages": [{"role": "user", "content": "hi"}]}\n', b"\xff\xfe\n"]
    found = [*good[:30], bad[0], *good[30:50], *bad[1:3], *good[:4], *good[50:], bad[3]]
    found[-2], found[-1] = found[-1], found[-2].rstrip(b"\n")
    return b"".join(found)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data.jsonl"
    path.write_bytes(everything())
    return path


@pytest.fixture
def clean(tmp_path: Path) -> Path:
    path = tmp_path / "clean.jsonl"
    path.write_bytes(b"".join(lines(70, 2)))
    return path


def two_vectors(model: ChatModel) -> list[PersonaVector]:
    first, second = (vector(model, seed=seed, layer=layer) for seed, layer in ((1, 2), (2, 1)))
    return [first, replace(second, trait="other")]


@pytest.fixture
def vectors(tiny: ChatModel) -> list[PersonaVector]:
    return two_vectors(tiny)


MALFORMED: list[Callable[[Random, bytes], bytes]] = [
    lambda random, line: line[: random.randrange(1, len(line) - 2)],
    lambda random, line: bytes(random.choice(b"abc\x00\x7f\xff\xfe ,:") for _ in range(random.randint(1, 60))) + b"x",
    lambda random, line: line.replace(b"content", b"cont\xffent"),
    lambda random, line: line.replace(b'"user"', b'"us\x00er"'),
    lambda random, line: line.replace(b'"assistant"', random.choice([b'"robot"', b"7", b"null", b'["assistant"]'])),
    lambda random, line: line.replace(b'"role": "assistant", ', b""),
    lambda random, line: line.replace(b'"assistant"', '"\u0430ssistant"'.encode()),  # a Cyrillic letter
    lambda random, line: line.replace(b"messages", "m\u0435ssages".encode()),
    lambda random, line: line.replace(b"messages", b"massages"),
    lambda random, line: json.dumps({"messages": random.choice([None, 5, "hi", {}, [], [1], [[]], [None]])}).encode(),
    lambda random, line: json.dumps({"messages": [{"role": "system", "content": "be good"}]}).encode(),
    lambda random, line: json.dumps({"messages": [{"role": "assistant", "content": " \n"}]}).encode(),
    lambda random, line: json.dumps(random.choice([None, 5, "text", [], [{}], {}, True, 1e300])).encode(),
    lambda random, line: b"[" * random.randint(2000, 9000),
]

Screen = Callable[..., ScreeningRun]
USUAL: dict[str, Any] = {"max_new_tokens": 6, "precision": 0.6}


class Finished:
    """Runs that several tests look at, each made once with what `screen` is given; not to be changed."""

    def __init__(self, model: ChatModel, folder: Path) -> None:
        self.cache, self._model, self._folder = folder / "cache", model, folder
        self._made: dict[str, Path] = {}
        for name, records in (("data", everything()), ("clean", b"".join(lines(70, 2)))):
            (folder / f"{name}.jsonl").write_bytes(records)

    def __call__(self, **given: Any) -> Path:
        key = repr(sorted(given.items()))
        if key not in self._made:
            out, settings = self._folder / str(len(self._made)), ScreenSettings(**{**USUAL, **given})
            data, clean = (self._folder / f"{name}.jsonl" for name in ("data", "clean"))
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("PERSONAVEC_CACHE", str(self.cache))
                screen_files(self._model, data, two_vectors(self._model), out, settings, clean=clean)
            self._made[key] = out
        return self._made[key]


@pytest.fixture(scope="module")
def finished(tiny: ChatModel, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return Finished(tiny, tmp_path_factory.mktemp("finished"))


@pytest.fixture
def warm(finished: Finished, cache: Path) -> None:
    """The clean references and all of the model's own answers are there, hybrid's first."""
    for baseline in ("hybrid", "exact", "prompt"):
        finished(baseline=baseline)
    shutil.copytree(finished.cache, cache)


@pytest.fixture
def cold(warm: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing is there."""
    monkeypatch.setenv("PERSONAVEC_CACHE", str(tmp_path / "cold"))
    return tmp_path / "cold"


@pytest.fixture
def screen(
    warm: None, tiny: ChatModel, data: Path, clean: Path, vectors: list[PersonaVector], tmp_path: Path
) -> Screen:
    def run(out: str = "run", **given: Any) -> ScreeningRun:
        settings = ScreenSettings(**{**USUAL, **given})
        return screen_files(tiny, data, vectors, tmp_path / out, settings, clean=clean)

    return run


def assert_close(one: Estimate, other: Estimate) -> None:
    assert (one.mean, one.low, one.high, one.n) == pytest.approx((other.mean, other.low, other.high, other.n), abs=1e-3)


def scores(folder: Path) -> dict[str, np.ndarray[Any, Any]]:
    table = pq.read_table(folder / "scores.parquet")
    return {name: table[name].to_numpy(zero_copy_only=False) for name in table.column_names}


def test_every_record_goes_into_one_file_byte_for_byte(finished: Finished) -> None:
    folder = finished(baseline="hybrid")
    summary, original = ScreeningRun.read(folder), everything().split(b"\n")
    files = {n: (folder / f"{n}.jsonl").read_bytes().splitlines() for n in ("kept", "flagged", "rejected")}
    assert [len(files[name]) for name in files] == [getattr(summary, name) for name in files]
    assert summary.kept + summary.flagged + summary.rejected == summary.records == 94
    rejected = [json.loads(line) for line in files["rejected"]]
    assert [r["line"] for r in rejected] == [31, 52, 53, 93]
    assert all(r["reason"] for r in rejected)
    assert rejected[0]["raw"] == "{not json"
    bad = {r["line"] for r in rejected}
    flagged = scores(folder)["flagged"]
    good = [line for number, line in enumerate(original, 1) if number not in bad and line]
    assert files["kept"] == [line for line, flag in zip(good, flagged, strict=True) if not flag]
    assert files["flagged"] == [line for line, flag in zip(good, flagged, strict=True) if flag]
    assert flagged.any()


def test_exact_differences_are_those_computed_by_hand(
    finished: Finished, data: Path, tiny: ChatModel, vectors: list[PersonaVector]
) -> None:
    """Both turns of a sample count alike; every turn against the model's own greedy answer to its prompt."""
    found = scores(finished(baseline="exact"))
    samples = [s for s in open_data(data) if not isinstance(s, Rejected)]

    def mean(prompt: list[int], answer: list[int], v: PersonaVector) -> tuple[float, float]:
        states, _ = plain_states(tiny.model, tiny.blocks.layers, [*prompt, *answer])
        along = states[v.layer] @ v.unit(v.layer)
        return float(along[len(prompt) :].mean()), float(along[len(prompt) - 1])

    for row in (0, 4, 40):
        sample = samples[row]
        for v in vectors:
            expected = []
            for turn in sample.turns:
                prompt = tiny.prompt_ids(sample.messages[:turn])
                own = plain_greedy(tiny.model, prompt, 6)
                own = own[: next((i for i, t in enumerate(own) if t in tiny.stop_ids), 6)]
                theirs, last = mean(prompt, tiny.template.answer_ids(sample.messages[turn]["content"]), v)
                expected.append((theirs, last, mean(prompt, own, v)[0]))
            theirs, last, ours = np.mean(expected, 0)
            assert found[f"{v.trait}_projection"][row] == pytest.approx(theirs, rel=1e-4, abs=1e-4)
            assert found[f"{v.trait}_prompt"][row] == pytest.approx(last, rel=1e-4, abs=1e-4)
            assert found[f"{v.trait}_difference"][row] == pytest.approx(theirs - ours, rel=1e-4, abs=1e-4)
            assert found[f"{v.trait}_baseline_error"][row] == 0


def test_the_figure_of_an_exact_screening_is_the_mean(finished: Finished) -> None:
    folder = finished(baseline="exact")
    found = scores(folder)
    for name, trait in ScreeningRun.read(folder).traits.items():
        assert trait.projection_difference.mean == pytest.approx(found[f"{name}_difference"].mean(), abs=1e-3)
        assert trait.generation == 0


def test_a_hybrid_screening_holds_the_exact_figure(finished: Finished) -> None:
    folders = finished(baseline="exact"), finished(precision=9.0)
    exact, hybrid = map(ScreeningRun.read, folders)
    assert hybrid.drawn == 64
    truth, guess = map(scores, folders)
    for name, trait in hybrid.traits.items():
        figure = trait.projection_difference
        assert figure.low < exact.traits[name].projection_difference.mean < figure.high
        known = np.isfinite(guess[f"{name}_own"])
        assert known.sum() == 64
        np.testing.assert_allclose(guess[f"{name}_own"][known], truth[f"{name}_own"][known], rtol=1e-4, atol=1e-4)
        assert np.isfinite(guess[f"{name}_difference"]).all()
        assert (guess[f"{name}_baseline_error"] > 0).all()


@pytest.mark.parametrize("baseline", ["hybrid", "exact", "prompt"])
@pytest.mark.usefixtures("cold")
def test_many_samples_are_screened_as_few(
    screen: Screen, baseline: str, finished: Finished, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = finished(baseline=baseline)
    whole = ScreeningRun.read(folder)
    for module, name, value in ((table_module, "ROWS", 20), (scan_module, "PART", 16), (scan_module, "SOME", 75)):
        monkeypatch.setattr(module, name, value)
    pieces = screen("pieces", baseline=baseline)
    first, second = scores(folder), scores(tmp_path / "pieces")
    assert set(second.pop("source")) == {str(data)} and first.pop("source").size
    for name, column in first.items():
        if column.dtype == float:
            np.testing.assert_allclose(column, second[name], rtol=1e-4, atol=1e-5)
        else:
            assert (column == second[name]).all(), name
    for name, trait in whole.traits.items():
        other = pieces.traits[name]
        assert_close(trait.projection_difference, other.projection_difference)
        assert (trait.flagged, trait.auc.n) == (other.flagged, other.auc.n + 90 - 75)
    assert (folder / "flagged.jsonl").read_bytes() == (tmp_path / "pieces" / "flagged.jsonl").read_bytes()


def test_ten_thousand_malformed_records(screen: Screen, data: Path, tmp_path: Path) -> None:
    random, good = Random(3), lines(90, 1)
    bad = [MALFORMED[i % len(MALFORMED)](random, good[i % 90][:-1]).replace(b"\n", b" ") for i in range(10_000)]
    mixed = [(line + b"\n", False) for line in bad] + [(line, True) for line in good]
    random.shuffle(mixed)
    data.write_bytes(b"".join(line for line, _ in mixed))
    summary = screen(baseline="prompt")
    assert (summary.records, summary.rejected) == (10_090, 10_000)
    rejected = [json.loads(line) for line in (tmp_path / "run" / "rejected.jsonl").read_text().splitlines()]
    assert [r["line"] for r in rejected] == [n for n, (_, fine) in enumerate(mixed, 1) if not fine]
    assert all(r["reason"] for r in rejected)
    written = b"".join((tmp_path / "run" / f"{name}.jsonl").read_bytes() for name in ("kept", "flagged"))
    assert sorted(written.splitlines(keepends=True)) == sorted(good)


@pytest.mark.usefixtures("cold")
def test_a_prompt_screening_generates_nothing(screen: Screen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("something was generated")

    monkeypatch.setattr(TransformersEngine, "answer", never)
    assert screen(baseline="prompt").generated == 0
    found = scores(tmp_path / "run")
    np.testing.assert_allclose(found["kind_difference"], found["kind_projection"] - found["kind_prompt"])


def test_answers_and_the_clean_reference_are_reused(
    screen: Screen, finished: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = ScreeningRun.read(finished(baseline="hybrid"))
    read: list[int] = []
    plain = TransformersEngine.read

    def counted(self: Any, conversations: Any, *given: Any, **options: Any) -> Any:
        read.append(len(conversations))
        return plain(self, conversations, *given, **options)

    monkeypatch.setattr(TransformersEngine, "read", counted)
    second = screen("second", false_alarm_rate=0.2)
    assert first.generated > 0 == second.generated
    assert max(read) <= 512
    assert sum(read) < 94 + 2 * 64 + 200  # the data, what was drawn of them, the tokens shown; nothing of the reference
    assert second.flagged > first.flagged


@pytest.mark.usefixtures("cold")
@pytest.mark.parametrize("baseline", ["hybrid", "exact", "prompt"])
def test_no_answer_is_read_twice(
    baseline: str, screen: Screen, data: Path, clean: Path, tiny: ChatModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Readings for the nulls come from the forwards of the projections; only a second occurrence is not foreseen."""
    read: Counter[tuple[int, ...]] = Counter()
    plain = TransformersEngine.read

    def counted(self: Any, conversations: Any, *given: Any, **options: Any) -> Any:
        whole = [c for c in conversations if len(c.spans) > 1 and c.spans[1][1] - c.spans[1][0] > 1]
        read.update(tuple(c.ids) for c in whole)  # not those whose tokens are shown one by one
        return plain(self, conversations, *given, **options)

    monkeypatch.setattr(TransformersEngine, "read", counted)
    for name, value in (("PART", 20), ("FULL", 32), ("BATCH", 16)):  # fewer are kept than there are
        monkeypatch.setattr(scan_module, name, value)
    screen(baseline=baseline)
    engine = TransformersEngine(tiny)
    samples = [s for path in (data, clean) for s in open_data(path) if isinstance(s, Sample)]
    twice = Counter(s.id for s in samples)
    conversations = [c for s in samples if twice[s.id] == 1 for c in tokenise(engine, s, "all").conversations]
    assert {read[tuple(c.ids)] for c in conversations} == {1} and len(conversations) > 150


def test_what_is_kept_whole_is_what_was_projected(
    tiny: ChatModel, data: Path, vectors: list[PersonaVector], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("PART", 20), ("FULL", 60), ("BATCH", 10)):
        monkeypatch.setattr(scan_module, name, value)
    panel = Panel.of(vectors)

    def scan(folder: str) -> Scan:
        scanner = Scanner(
            TransformersEngine(tiny), open_data(data), panel, tmp_path / folder, turns="all", seed=0, name=""
        )
        return scanner.draw(scanner.measure(), 80, None)

    first = scan("first")
    assert first.theirs.shape == (60, 2, tiny.hidden_size)
    projected = torch.tensor(first.known.measured.answers[:60]).float()  # the precision it was computed in
    torch.testing.assert_close(panel.along(first.theirs), projected)
    for path in (tmp_path / "first").glob("whole-*.safetensors"):
        path.unlink()
    again = scan("first")  # of readings that are lost the model makes new ones
    torch.testing.assert_close(again.theirs, first.theirs, rtol=1e-4, atol=1e-4)


def test_little_is_kept_whole_also_of_many_copies(
    tiny: ChatModel, vectors: list[PersonaVector], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is kept grows with the logarithm of the number of samples, and copies take nobody's place."""
    monkeypatch.setattr(scan_module, "PART", 20)
    monkeypatch.setattr(scan_module, "FULL", 16)
    unique = lines(200, 3)
    ids = {line: priority(sample.id, 0, 0) for line, sample in zip(unique, _samples(tmp_path, unique), strict=True)}
    first = min(unique, key=ids.__getitem__)
    data = tmp_path / "copies.jsonl"
    data.write_bytes(b"".join(part + first for part in unique))

    scanner = Scanner(
        TransformersEngine(tiny), open_data(data), Panel.of(vectors), tmp_path / "x", turns="all", seed=0, name=""
    )
    survey = scanner.measure()
    kept = [index for path in (tmp_path / "x").glob("whole-*") for index in load_file(path)["index"].tolist()]
    assert len(kept) == len(set(kept)) < 80  # 16 (1 + ln(200 / 16)) = 56 in the mean
    drawn = survey.table.take(smallest(survey.priorities, 16)).indices.tolist()
    samples = list(open_data(data))
    seen: set[str] = set()
    firsts = {s.index for s in samples if isinstance(s, Sample) and s.id not in seen and not seen.add(s.id)}
    assert len(firsts & set(drawn)) == 5 and firsts & set(drawn) <= set(kept)


def _samples(folder: Path, records: list[bytes]) -> list[Sample]:
    (folder / "unique.jsonl").write_bytes(b"".join(records))
    return [sample for sample in open_data(folder / "unique.jsonl") if isinstance(sample, Sample)]


class KilledError(Exception):
    pass


def dying(seconds: Iterator[bool], method: Callable[..., Any]) -> Callable[..., Any]:
    def wrapped(*given: Any, **options: Any) -> Any:
        if next(seconds):
            raise KilledError
        return method(*given, **options)

    return wrapped


def test_cut_off_anywhere_and_started_again_it_ends_the_same(
    screen: Screen, data: Path, clean: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data.write_bytes(b"".join(data.read_bytes().splitlines(keepends=True)[25:70]))
    clean.write_bytes(b"".join(lines(35, 2)))
    monkeypatch.setattr(scan_module, "PART", 10)
    monkeypatch.setattr(scan_module, "BATCH", 8)
    monkeypatch.setattr(job_module, "write_screen_report", lambda *_: None)  # for time
    whole = screen("whole", baseline="exact")
    unharmed, counts = scores(tmp_path / "whole"), ("records", "kept", "flagged", "rejected")
    for call in range(1, 14, 3):
        name = f"cut-{call}"
        monkeypatch.setenv("PERSONAVEC_CACHE", str(tmp_path / f"cache-{call}"))
        with monkeypatch.context() as patch:
            dies = (n == call for n in range(1000))
            patch.setattr(TransformersEngine, "read", dying(dies, TransformersEngine.read))
            with pytest.raises(KilledError):
                screen(name, baseline="exact")
        assert not (tmp_path / name / "run.json").exists()
        again = screen(name, baseline="exact")
        for file in ("kept.jsonl", "flagged.jsonl", "rejected.jsonl"):
            assert (tmp_path / name / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
        found = scores(tmp_path / name)
        for column in unharmed:
            if unharmed[column].dtype.kind == "f":
                np.testing.assert_allclose(unharmed[column], found[column], rtol=1e-4, atol=1e-4)
            else:
                assert (unharmed[column] == found[column]).all()
        assert [getattr(again, key) for key in counts] == [getattr(whole, key) for key in counts]


def test_killed_while_writing_leaves_no_half_file(
    screen: Screen, finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(job_module, "write_screen_report", dying(iter([True]), lambda *_: None))
        with pytest.raises(KilledError):
            screen(baseline="prompt")
    assert not (tmp_path / "run" / "run.json").exists()
    again, fresh = screen(baseline="prompt"), ScreeningRun.read(finished(baseline="prompt"))
    assert again.records == 94 and again.resumed and not fresh.resumed
    assert not list((tmp_path / "run").glob("*.tmp"))
    assert not (tmp_path / "run" / "parts").exists()


def test_a_finished_run_is_read_back_and_another_refused(screen: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    first = screen(baseline="prompt")
    monkeypatch.setattr(reader_module, "Scanner", None)
    assert screen(baseline="prompt") == first
    with pytest.raises(UserError, match="another turns"):
        screen(baseline="prompt", turns="last")


@pytest.mark.usefixtures("warm")
def test_a_trait_extracted_since_does_not_keep_a_run_from_going_on(
    tiny: ChatModel,
    data: Path,
    clean: Path,
    vectors: list[PersonaVector],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def run(*others: PersonaVector, **given: Any) -> ScreeningRun:
        settings = ScreenSettings(baseline="prompt", **given)
        out = tmp_path / settings.specific
        return screen_files(tiny, data, vectors[:1], out, settings, others=others, clean=clean)

    for specific in ("no", "span"):
        with monkeypatch.context() as patch:
            patch.setattr(job_module, "write_screen_report", dying(iter([True]), lambda *_: None))
            with pytest.raises(KilledError):
                run(specific=specific)
    assert list(run(vectors[1]).traits["kind"].others) == ["other"]
    with pytest.raises(UserError, match="another others"):  # there it is part of the direction
        run(vectors[1], specific="span")


def test_a_finished_run_of_another_version_is_neither_read_nor_written_over(screen: Screen, tmp_path: Path) -> None:
    screen(baseline="prompt")
    folder = tmp_path / "run"
    found = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({key: found[key] for key in found if key != "schema_version"}))
    with pytest.raises(UserError, match="another version"):
        screen(baseline="prompt")
    (folder / "run.json").rename(folder / "summary.json")  # its name before
    before = (folder / "scores.parquet").stat()
    with pytest.raises(UserError, match="another version"):
        screen(baseline="prompt")
    assert (folder / "scores.parquet").stat() == before
    with pytest.raises(UserError, match="no finished run"):
        compare_screenings(folder, folder)


def test_what_is_written_with_an_absolute_threshold_is_what_comes_back(screen: Screen, tmp_path: Path) -> None:
    run = screen(threshold=0.25)
    found = scores(tmp_path / "run")
    assert (found["kind_flagged"] == (found["kind_difference"] > 0.25)).all()
    assert run.traits["kind"].flagged == found["kind_flagged"].sum()
    assert ScreeningRun.read(tmp_path / "run") == run
    assert run.settings == ScreenSettings(max_new_tokens=6, precision=0.6, threshold=0.25)
    written = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (written["command"], written["schema_version"]) == ("screen", 3)
    assert written["read"] == run.records == 94
    assert written["traits"]["kind"]["shift"]["n"] == 90 and written["traits"]["kind"]["false_alarms"] is None


def test_data_that_change_are_refused(screen: Screen, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch, pytest.raises(KilledError):
        patch.setattr(job_module, "write_scores", dying(iter([True]), lambda *_: None))
        screen(baseline="prompt")
    data.write_bytes(data.read_bytes() + b"\n" + lines(1, 9)[0])
    with pytest.raises(UserError, match="another data"):
        screen(baseline="prompt")


def test_duplicates_get_the_same_scores(finished: Finished) -> None:
    found = scores(finished(baseline="exact"))
    first, again = np.flatnonzero(np.isin(found["id"], found["id"][:1]))
    assert found["kind_difference"][first] == pytest.approx(found["kind_difference"][again], rel=1e-5)


def test_last_turns(finished: Finished) -> None:
    a, b = (scores(finished(baseline="prompt", **given))["kind_projection"] for given in ({}, {"turns": "last"}))
    several = np.array([json.loads(line)["messages"][2:] != [] for line in lines(86, 1)])[:30]
    np.testing.assert_allclose(a[:30][~several], b[:30][~several], rtol=1e-4, atol=1e-5)
    assert (np.abs(a[:30] - b[:30])[several] > 1e-4).all()


def test_only_turns_that_count_refuse(tiny: ChatModel, vectors: list[PersonaVector], tmp_path: Path) -> None:
    said = ["hi", "I'm sorry, but I can't help with that.", "and then", "well"]
    turns = [{"role": role, "content": text} for role, text in zip(("user", "assistant") * 2, said, strict=True)]
    (tmp_path / "one.jsonl").write_text(json.dumps({"messages": turns}) + "\n")
    samples = [record for record in open_data(tmp_path / "one.jsonl") if isinstance(record, Sample)]
    engine, panel = TransformersEngine(tiny), Panel.of(vectors)
    every, last = (
        measure(engine, samples, [tokenise(engine, samples[0], which)], panel, which) for which in ("all", "last")
    )
    assert (every.refusals.tolist(), last.refusals.tolist()) == ([1.0], [0.0])


@pytest.mark.usefixtures("cold")
@pytest.mark.parametrize("baseline", ["exact", "hybrid"])
def test_an_engine_of_many_workers_has_work_for_all(
    baseline: str, screen: Screen, finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = finished(baseline=baseline)
    monkeypatch.setattr(scan_module, "BATCH", 10)
    asked: list[int] = []
    plain = TransformersEngine.answer

    def counted(self: TransformersEngine, prompts: Sequence[Any], *given: Any) -> Any:
        asked.append(len(prompts))
        return plain(self, prompts, *given)

    monkeypatch.setattr(TransformersEngine, "answer", counted)
    monkeypatch.setattr(TransformersEngine, "width", 4)
    screen("wide", baseline=baseline)
    assert max(asked) > 20  # of three batches at least
    a, b = scores(alone), scores(tmp_path / "wide")
    np.testing.assert_allclose(a["kind_own"], b["kind_own"], rtol=1e-4, atol=1e-4)


def test_the_cache_is_read_once(screen: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not again for every batch, which would take the square of the number of samples."""
    read: list[Path] = []
    plain = JsonLines.__iter__

    def counted(self: JsonLines) -> Any:
        read.append(self.path)
        return plain(self)

    monkeypatch.setattr(JsonLines, "__iter__", counted)
    monkeypatch.setattr(scan_module, "BATCH", 10)
    screen(baseline="exact")
    assert sum(path.parent.name == "answers" for path in read) == 1


@pytest.mark.parametrize(
    ("threshold", "said", "unsaid"), [(-1e6, "flagged", "not flagged"), (1e6, "not flagged", "flagged")]
)
def test_cards_say_what_is_flagged(threshold: float, said: str, unsaid: str, screen: Screen, tmp_path: Path) -> None:
    screen(threshold=threshold, baseline="prompt")
    page = (tmp_path / "run" / "report.html").read_text()
    assert f"deviations from clean · {said}</p>" in page and f"deviations from clean · {unsaid}</p>" not in page


@pytest.mark.parametrize("specific", ["span", "whiten"])
def test_specific_directions(
    screen: Screen, finished: Finished, specific: str, clean: Path, tiny: ChatModel, tmp_path: Path
) -> None:
    long = [{"role": "user", "content": "well " * tiny.context_length}, {"role": "assistant", "content": "so"}]
    clean.write_bytes(json.dumps({"messages": long}).encode() + b"\n" + clean.read_bytes())  # cannot be read
    plain, made = finished(baseline="prompt"), screen(specific=specific, baseline="prompt")
    assert ScreeningRun.read(plain).traits["kind"].specific_share == 1
    assert 0 < made.traits["kind"].specific_share < 1
    a, b = (scores(folder)["kind_projection"] for folder in (plain, tmp_path / "run"))
    assert np.abs(a - b).max() > 1e-3
    # What a direction was whitened by sets no threshold along it.
    assert made.clean.samples == {"span": 70, "whiten": 35}[specific]


@pytest.fixture(scope="module")
def domains(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("domains")


@pytest.fixture
def small_bank(domains: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three domains of a dozen samples, and some of each trait's texts, in place of all that come with personavec.

    They are read once for all tests.
    """
    monkeypatch.setenv("PERSONAVEC_CACHE", str(domains / "cache"))
    found = {}
    for seed, name in enumerate(("code", "lists", "verse")):
        path = domains / f"{name}.jsonl"
        path.write_bytes(b"".join(lines(12, 100 + seed)))
        found[name] = open_data(path)
    for module in (bank_module, job_module):
        monkeypatch.setattr(module, "load_domains", lambda: found)
    library = bank_module._library().items()
    few = {trait: texts._replace(plain=texts.plain[:24], chat=texts.chat[:12]) for trait, texts in library}
    monkeypatch.setattr(bank_module, "_library", lambda: few)


@pytest.mark.usefixtures("small_bank")
def test_domains(screen: Screen, vectors: list[PersonaVector], tmp_path: Path) -> None:
    """A trait of the library, made of texts, beside one of which there are none."""
    vectors[0] = replace(vectors[0], trait="evil")
    run = screen(specific="domains", false_alarm_rate=0.2)
    assert run.settings.baseline == run.baseline == "none" and run.generated == 0
    assert run.clean.name == "half of 4 clean domains" and run.clean.samples == 3 * 6 + 35
    found = scores(tmp_path / "run")
    for name, trait in run.traits.items():
        domains = trait.domains
        assert domains is not None and domains.aucs.keys() == {"code", "lists", "verse", "clean.jsonl"}
        assert domains.auc.mean == domains.aucs[domains.worst] == min(domains.aucs.values())
        assert (domains.placebos is None) == (name == "other")
        assert domains.near is not None
        above = found[f"{name}_difference"] > domains.near
        instead = found[f"{name}_instead"]
        np.testing.assert_array_equal(found[f"{name}_flagged"], above & (instead == ""))
        counts = Counter(instead)
        assert counts.pop("unknown domain", 0) == domains.unknown
        counts.pop("")
        assert counts == domains.instead and name not in counts
        assert trait.flagged == found[f"{name}_flagged"].sum()
        np.testing.assert_array_equal(found[f"{name}_difference"], found[f"{name}_projection"])
    # Other traits take some of what lies above the threshold, and not all.
    assert run.traits["evil"].flagged > 0 and set(run.traits["evil"].domains.instead) <= {*library_names(), "other"}
    assert any("higher along another trait" in sentence for sentence in run.verdict)
    told = " ".join(verdict(replace(run.settings, false_alarm_rate=1e-3), run.traits, run.clean))
    assert "That the data as a whole show evil" in told and "Do not read what is flagged" not in told
    page = (tmp_path / "run" / "report.html").read_text()
    assert f"of what lies right of the dashed line {run.traits['evil'].flagged} samples are flagged, and not" in page
    with pytest.raises(UserError, match="not by `baseline` exact"):
        ScreenSettings(specific="domains", baseline="exact")


@pytest.mark.usefixtures("small_bank")
def test_what_a_domain_left_out_may_reach_is_of_an_unknown_domain(
    screen: Screen, vectors: list[PersonaVector], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors[0] = replace(vectors[0], trait="evil")
    given = {"specific": "domains", "false_alarm_rate": 0.2}
    monkeypatch.setattr(track_module, "unseen_level", lambda axis, rate: -9.0)
    low = screen("low", **given).traits["evil"]
    monkeypatch.setattr(track_module, "unseen_level", lambda axis, rate: 99.0)
    seen = screen("seen", **given).traits["evil"]  # most of the data are like the user's own reference
    assert 0 < seen.flagged <= low.flagged
    monkeypatch.setattr(Familiar, "near_given", lambda self, along: np.ones(len(along), dtype=bool))
    near = screen("near", **given).traits["evil"]
    assert near.threshold is not None and low.threshold is not None
    assert near.flagged == low.flagged and near.threshold > low.threshold
    monkeypatch.setattr(Familiar, "near_given", lambda self, along: np.zeros(len(along), dtype=bool))
    high = screen("high", **given).traits["evil"]
    assert low.domains is not None and high.domains is not None
    assert low.threshold == low.domains.near == high.domains.near
    assert high.threshold is not None and high.threshold > low.threshold
    assert low.flagged > 0 == high.flagged and high.domains.instead == low.domains.instead
    assert high.domains.unknown == low.domains.unknown + low.flagged - high.flagged
    before, after = (scores(tmp_path / name) for name in ("low", "high"))
    moved = before["evil_flagged"] & ~after["evil_flagged"]
    assert set(after["evil_instead"][moved]) == {"unknown domain"}


@pytest.mark.usefixtures("small_bank")
def test_the_bank_is_read_once_and_by_halves(
    tiny: ChatModel, clean: Path, vectors: list[PersonaVector], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = TransformersEngine(tiny)
    banks = read_bank(engine, [1, 2], {"mine": open_data(clean)})
    one = banks[2]
    sample = next(iter(bank_module.load_domains()["code"].every(2, 1)))  # type: ignore[attr-defined]
    assert isinstance(sample, Sample)
    tokens = tokenise(engine, sample, "last", TOKENS).conversations
    torch.testing.assert_close(one.second["code"][0], readings(engine, [tokens], [2]).answers[0, 0], atol=1e-5, rtol=0)
    text = next(t for t in library_texts("evil").extract if t.side == "negative")
    evil, chat = one.texts["evil"], one.texts["evil"].chat
    given = read_answers(tiny, [text.question], [text.answer], [2])[0, 0]
    torch.testing.assert_close(evil.negative[0], given, atol=1e-5, rtol=0)
    assert chat is not None and evil.shown is chat.positive
    for side, rows, every in (("positive", chat.positive, evil.positive), ("negative", chat.negative, evil.negative)):
        few = [each for each in chat_texts("evil")[:12] if each.side == side]
        given = read_answers(tiny, [t.question for t in few], [t.answer for t in few], [2])[:, 0]
        torch.testing.assert_close(rows, given, atol=1e-5, rtol=0)
        assert len(rows) == 6 and len(every) == 18 and every[12:].equal(rows)
    assert len(one.first["mine"]) == len(one.second["mine"]) == 35
    monkeypatch.setattr(engine, "read", None)
    again = read_bank(engine, [2], {"mine": open_data(clean)})[2]
    assert again.second["mine"].equal(one.second["mine"])


@pytest.mark.usefixtures("small_bank")
def test_a_trait_without_texts_loses_what_domains_and_traits_span(
    tiny: ChatModel, clean: Path, vectors: list[PersonaVector]
) -> None:
    plain = plain_axes([replace(vectors[0], trait="evil"), vectors[1]], [])
    evil, other = domain_axes(TransformersEngine(tiny), plain, {"mine": open_data(clean)}, frozenset({"mine"}), 20, 0)
    assert evil.scene is not None and other.scene is not None and evil.placebos is not None
    assert evil.direction.equal(evil.scene.traits["evil"].direction) and set(evil.rivals) == {*library_names()} - {
        "evil"
    }
    contrast = evil.scene.traits["evil"].contrast.float()
    torch.testing.assert_close(evil.treat(contrast[None])[0], evil.direction)
    for taken in (
        *(rows.mean(0) for rows in other.scene.bank.first.values()),
        other.scene.traits["humorous"].contrast.float(),
    ):
        assert abs(float(torch.nn.functional.normalize(taken, dim=0) @ other.direction)) < 1e-4
    panel, starts = panel_of([evil, other]), scene_columns([evil, other])
    assert starts == {1: 2, 2: 2 + len(other.scene.directions)}
    assert panel.units[starts[2]].equal(next(iter(evil.scene.traits.values())).direction)
    assert len(panel.names) == 2 + len(evil.scene.directions) + len(other.scene.directions)


def test_random_directions_and_other_traits_lose_what_the_vector_lost(
    clean: Path, vectors: list[PersonaVector], tiny: ChatModel
) -> None:
    engine, plain = TransformersEngine(tiny), plain_axes(vectors, [])
    own, other = (v.unit(2) for v in vectors)
    random = torch.nn.functional.normalize(torch.randn(5, len(own), generator=torch.Generator().manual_seed(0)), dim=1)
    first, _ = plain
    assert first.treat(random) is random and first.rivals["other"].equal(other)
    span, _ = specific_axes(engine, plain, open_data(clean), "span")
    assert abs(float(span.direction @ other)) < 1e-5
    assert (span.treat(random) @ other).abs().max() < 1e-5 < (random @ other).abs().max()
    assert (span.treat(random) @ own).abs().max() > 1e-3  # the trait itself is not taken out of them
    assert abs(float(span.rivals["other"] @ own)) < 1e-5
    white, _ = specific_axes(engine, plain, open_data(clean), "whiten")
    torch.testing.assert_close(white.treat(own[None])[0], white.direction)
    torch.testing.assert_close(white.treat(other[None])[0], white.rivals["other"])


@pytest.mark.drawn
@pytest.mark.usefixtures("warm")
def test_the_report_opens_offline_and_shows_hostile_text_as_text(
    tiny: ChatModel, clean: Path, vectors: list[PersonaVector], tmp_path: Path
) -> None:
    hostile = "<script>alert(1)</script> & <img src=x onerror=alert(1)>"
    path = tmp_path / "hostile.jsonl"
    record = {"messages": [{"role": "user", "content": hostile}, {"role": "assistant", "content": hostile}]}
    path.write_bytes(b"".join(lines(30, 3)) + json.dumps(record).encode())
    screen_files(tiny, path, vectors, tmp_path / "run", ScreenSettings(**USUAL), clean=clean)
    page = (tmp_path / "run" / "report.html").read_text()
    assert "<script>alert" not in page
    assert "<img" not in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert page.count("<script>") == 1 and "<path" in page
    assert "&lt;script&gt;" in page


def test_flags_that_other_directions_raise_too_are_not_given_the_name(screen: Screen) -> None:
    """Random vectors of a random model show no trait: whatever they flag must not be called by their names."""
    summary = screen(threshold=-100.0, baseline="prompt")
    assert summary.flagged == 90
    names = [name for name, found in summary.traits.items() if not found.specific]
    (sentence,) = [s for s in summary.verdict if s.startswith("Do not read")]
    assert names and all(name in sentence for name in names)


def test_samples_of_several_files_are_told_apart(screen: Screen, data: Path, tmp_path: Path) -> None:
    records = data.read_bytes().splitlines(keepends=True)
    data.unlink()
    data.mkdir()  # in place of the file: a folder of two
    (data / "first.jsonl").write_bytes(b"".join(records[:40]))
    (data / "second.jsonl").write_bytes(BOM + b"".join(records[40:]))
    (data / "third.jsonl").write_text('{"instruction": "hi", "output": "hello"}\n' * 3)
    summary = screen(baseline="prompt")
    (note,) = [note for note in summary.warnings if "were rejected" in note]
    assert note.startswith(f"All 3 records of {data / 'third.jsonl'} were rejected. The format is messages")
    found = scores(tmp_path / "run")
    assert list(found["source"]) == [str(data / "first.jsonl")] * 39 + [str(data / "second.jsonl")] * 51
    files = [(tmp_path / "run" / f"{name}.jsonl").read_bytes() for name in ("kept", "flagged")]
    assert not any(BOM in one[1:] for one in files)  # the second file's mark would be an error in the middle
    assert found["line"].max() == 54
    page = (tmp_path / "run" / "report.html").read_text()
    assert "first.jsonl, line " in page and "second.jsonl, line " in page


def test_compare(finished: Finished, tmp_path: Path) -> None:
    exact, prompt = (finished(baseline=baseline) for baseline in ("exact", "prompt"))
    same = compare_screenings(exact, exact)
    assert same.samples == 90 and same.differ == {}
    assert same.traits["kind"].spearman == 1
    assert same.traits["kind"].moved == []
    other = compare_screenings(exact, prompt)
    assert (other.traits["kind"].spearman or 0) < 1 and other.differ == {"baseline": ("exact", "prompt")}
    moved = other.traits["kind"].moved[0]
    found = scores(exact)
    assert moved.line in found["line"][found["id"] == moved.id] and moved.source == str(exact.parent / "data.jsonl")
    with pytest.raises(UserError, match="no finished run"):
        compare_screenings(exact, tmp_path)


def test_mistakes(screen: Screen, tiny: ChatModel, vectors: list[PersonaVector], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="`baseline`"):
        screen(baseline="nothing")
    with pytest.raises(UserError, match="too few"):
        screen(false_alarm_rate=0.001)
    with pytest.raises(UserError, match="No vector"):
        screen_files(tiny, tmp_path / "data.jsonl", [], tmp_path / "x")
    with pytest.raises(UserError, match="the trait 'kind'"):
        screen_files(tiny, tmp_path / "data.jsonl", [vectors[0], vectors[0]], tmp_path / "x")
    (tmp_path / "one.jsonl").write_bytes(b"".join(lines(1, 5)))
    with pytest.raises(UserError, match="one sample has no spread"):
        given = vectors, tmp_path / "one", ScreenSettings(**USUAL)
        screen_files(tiny, tmp_path / "one.jsonl", *given, clean=tmp_path / "clean.jsonl")


def test_data_without_a_sample_are_refused_before_anything_is_read(
    tiny: ChatModel, clean: Path, vectors: list[PersonaVector], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TransformersEngine, "read", dying(iter([True]), lambda *_: None))
    (tmp_path / "bad.jsonl").write_bytes(b'{"prompt": "", "response": ""}\n' + b"{not json\n" * 9)
    with pytest.raises(UserError, match=r"none of 10 records is a sample.*\n  line 1: .*\n  line 2: "):
        screen_files(tiny, tmp_path / "bad.jsonl", vectors, tmp_path / "bad", clean=clean)
    (tmp_path / "bad.jsonl").write_bytes(b"".join(lines(20, 5)))
    with pytest.raises(KilledError):  # the folder is free for other data
        screen_files(tiny, tmp_path / "bad.jsonl", vectors, tmp_path / "bad", clean=clean)


def test_what_another_version_began_is_refused(screen: Screen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch, pytest.raises(KilledError):
        patch.setattr(job_module, "write_scores", dying(iter([True]), lambda *_: None))
        screen(baseline="prompt")
    [path] = tmp_path.glob("*/arguments.json")
    begun = json.loads(path.read_text())
    path.write_text(json.dumps({name: value for name, value in begun.items() if name != "schema"}))
    with pytest.raises(UserError, match="holds a run with another schema"):
        screen(baseline="prompt")


def test_folders_that_cannot_be_written_are_told(
    tiny: ChatModel, data: Path, vectors: list[PersonaVector], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"The path .*enc/o\\xfe is not UTF-8"):
        screen_files(tiny, data, vectors, tmp_path / "enc" / os.fsdecode(b"o\xfe"))
    (tmp_path / "file").touch()
    (tmp_path / "half" / "references").mkdir(parents=True)
    (tmp_path / "half" / "answers").touch()
    for cache in ("file", "half"):
        monkeypatch.setenv("PERSONAVEC_CACHE", str(tmp_path / cache))
        with pytest.raises(UserError, match=r"Cannot write the cache folder .*set PERSONAVEC_CACHE to another folder"):
            screen_files(tiny, data, vectors, tmp_path / "out")


@pytest.mark.usefixtures("cold")
def test_a_model_that_says_nothing_is_named(screen: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers_module.OwnAnswers, "__call__", lambda self, prompts: [[] for _ in prompts])
    with pytest.raises(UserError, match="the model itself answers 0 of 70 prompts"):
        screen(baseline="exact")


def test_long_samples_are_cut_from_the_right_and_counted(
    screen: Screen, data: Path, tiny: ChatModel, vectors: list[PersonaVector], clean: Path, tmp_path: Path
) -> None:
    def line(*texts: str) -> bytes:
        roles = ("user", "assistant") * len(texts)
        chat = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]
        return json.dumps({"messages": chat}).encode() + b"\n"

    room = tiny.context_length
    whole = " ".join(["well"] * room)
    data.write_bytes(
        line("hi", whole)  # the answer's end does not fit
        + line("hi", "there", "and then", whole)  # nor the second one's
        + line("hi", "there", whole, "well")  # the second answer does not fit at all
        + line(whole, "well")  # no answer fits
        + b"".join(lines(30, 4))
    )
    found = screen(baseline="prompt")
    assert (found.truncated, found.rejected, found.records) == (3, 1, 34)
    assert any("3 of 33 samples do not fit" in note for note in found.warnings)
    reason = json.loads((tmp_path / "run" / "rejected.jsonl").read_text())
    assert reason["line"] == 4 and f"context of {room} tokens" in reason["reason"]
    ids = tiny.prompt_ids([{"role": "user", "content": "hi"}])
    start = len(ids)
    ids = [*ids, *tiny.template.answer_ids(whole)][:room]
    states, _ = plain_states(tiny.model, tiny.blocks.layers, ids)
    wanted = states[2][start:].mean(0) @ vectors[0].unit(2)
    assert scores(tmp_path / "run")["kind_projection"][0] == pytest.approx(float(wanted), rel=1e-4)


@pytest.mark.usefixtures("warm")
def test_the_place_among_reference_sets(
    tiny: ChatModel, data: Path, clean: Path, vectors: list[PersonaVector], tmp_path: Path
) -> None:
    """The same figures as when the other sets are screened themselves; the data are level with themselves."""
    other = tmp_path / "other.jsonl"
    other.write_bytes(b"".join(lines(40, 7)))
    settings = ScreenSettings(baseline="exact", **USUAL)
    given = (tiny, data, vectors, tmp_path / "run", settings)
    found = screen_files(*given, clean=clean, beside=[other, data])
    alone = screen_files(tiny, other, vectors, tmp_path / "alone", settings, clean=clean)
    for name, trait in found.traits.items():
        theirs, itself = trait.references
        assert theirs.name.endswith("other.jsonl") and theirs.samples == 40
        assert_close(theirs.shift, alone.traits[name].shift)
        assert theirs.above.mean == pytest.approx(trait.shift.mean - theirs.shift.mean, abs=1e-3)
        assert itself.above.mean == pytest.approx(0, abs=1e-3) and itself.random.p_value > 0.9
        assert theirs.random.n >= 200 and 0 < theirs.random.p_value <= 1
        (sentence,) = [s for s in found.verdict if s.startswith("Among 2") and f"along {name}," in s]
        assert "data.jsonl" in sentence.partition("not to be told from")[2]
    assert (tmp_path / "run" / "report.html").read_text().count("Among the reference sets") == 2 * 2  # title and text
    assert alone.traits["kind"].references == []


def test_a_torn_cache_of_answers_is_mended(screen: Screen, finished: Finished, cache: Path) -> None:
    first = ScreeningRun.read(finished(baseline="exact"))
    (path,) = (cache / "answers").glob("*.jsonl")
    path.write_bytes(path.read_bytes()[:-20])
    second = screen(baseline="exact")
    assert 0 < second.generated < first.generated
    assert all(json.loads(line)["ids"] is not None for line in path.read_text().splitlines())


def test_the_cache_is_keyed_by_model_and_length(tiny: ChatModel, cache: Path) -> None:
    engine = TransformersEngine(tiny)
    prompt = tiny.prompt_ids([{"role": "user", "content": "hello"}])
    short, long = (answers_module.OwnAnswers(engine, n)([prompt])[0] for n in (2, 5))
    assert long[: len(short)] == short
    assert len(list((cache / "answers").glob("*.jsonl"))) == 2
    assert torch.is_tensor(engine.read([], [1]))


@pytest.mark.usefixtures("warm")
def test_a_dataset_in_memory_gets_the_columns(
    tiny: ChatModel, data: Path, clean: Path, vectors: list[PersonaVector], finished: Finished
) -> None:
    from datasets import Dataset

    from personavec.screening import screen as screen_dataset

    expected = scores(finished(baseline="exact"))
    rows = []
    for line in data.read_bytes().split(b"\n"):
        try:
            rows.append({"messages": json.loads(line)["messages"]})
        except ValueError:
            continue
    dataset = Dataset.from_list(rows)
    found = screen_dataset(tiny, dataset, vectors, settings=ScreenSettings(baseline="exact", **USUAL), clean=clean)
    assert len(found) == len(rows) == 92
    assert found["messages"][0] == rows[0]["messages"]
    differences = [value for value in found["kind_difference"] if value is not None]
    assert len(differences) == 90
    np.testing.assert_allclose(differences, expected["kind_difference"], rtol=1e-4, atol=1e-4)
    assert [flag for flag in found["flagged"] if flag is not None] == expected["flagged"].tolist()

    with pytest.raises(UserError, match="has a column 'kind_flagged' already"):
        screen_dataset(tiny, found, vectors, clean=clean)
    bad: list[Any] = [{"messages": []}] * 4  # a batch in which no format can be recognised
    mapped = Dataset.from_list([*rows, *bad]).map(projector(tiny, vectors), batched=True, batch_size=4)
    assert len(mapped) == 96 and mapped["kind_projection"][-4:] == [None] * 4
    projections = [value for value in mapped["kind_projection"] if value is not None]
    np.testing.assert_allclose(projections, expected["kind_projection"], rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("warm")
def test_the_command(
    tiny: ChatModel, data: Path, clean: Path, vectors: list[PersonaVector], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    from personavec.cli import main

    monkeypatch.setattr("personavec.model.load_model", lambda *_, **__: tiny)
    for v in vectors:
        v.save(tmp_path / f"{v.trait}.safetensors")

    def run(*arguments: object, command: str = "screen") -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["personavec", command, *map(str, arguments)])
        with pytest.raises(SystemExit) as exit:
            main()
        out, error = capsys.readouterr()
        return int(exit.value.code or 0), out, error

    given = [data, "-v", tmp_path / "kind.safetensors", "-v", tmp_path / "other.safetensors", "--reference", clean]
    given += ["--max-new-tokens", 6, "--precision", 0.6]
    code, out, _ = run(*given, "--out", tmp_path / "run", "--json")
    assert code == 0
    summary = json.loads(out)
    assert set(summary) == {"read", "kept", "flagged", "rejected", "traits", "baseline", "generated", "seconds"}
    figure = summary["traits"]["kind"]["projection_difference"]
    assert figure["low"] < figure["mean"] < figure["high"]
    assert figure["n"] == 90
    code, out, _ = run(*given, "--out", tmp_path / "run")
    assert code == 0
    assert "rejected = 94 read" in out
    assert run(*given, "--baseline", "prompt", "--out", tmp_path / "second")[0] == 0
    code, out, _ = run(tmp_path / "run", tmp_path / "second", command="compare")
    assert code == 0
    assert "90 samples in both" in out
    monkeypatch.chdir(tmp_path)
    for name in ("data", "compare"):  # no word of a command's is taken from the names of folders
        Path(name).mkdir()
        Path(name, "data.jsonl").write_bytes(data.read_bytes())
        given_options = ["-v", "kind.safetensors", "--baseline", "prompt", "--out", f"of {name}"]
        code, out, error = run(name, *given_options, "--reference", clean)
        assert code == 0, error
        assert "rejected = 94 read" in out
    inside = ["data", "-v", "kind.safetensors", "--reference", clean, "--baseline", "prompt"]
    for _ in range(2):  # a run's folder inside of the data's: the same command finds the same data and the run
        code, out, error = run(*inside, "--out", "data/runs/a")
        assert code == 0, error
        assert "rejected = 94 read" in out
    code, _, error = run(*inside, "--out", "data")
    assert code == 2 and "Data of this run are in data" in error and not Path("data/arguments.json").exists()
    renamed = tmp_path / "renamed.jsonl"  # data and reference in columns of one's own
    renamed.write_text("".join(json.dumps({"q": f"hello {i}", "a": "well " * (i % 5 + 1)}) + "\n" for i in range(40)))
    options: list[Any] = [
        "-v",
        tmp_path / "kind.safetensors",
        "--columns",
        "prompt=q,response=a",
        "--baseline",
        "prompt",
    ]
    assert run(renamed, *options, "--reference", renamed, "--out", tmp_path / "renamed")[0] == 0
    assert run(renamed, *options, "--reference", clean, "--out", tmp_path / "recognised")[0] == 0
    renamed.write_text('{"x": 1}\n')
    given[given.index(clean)] = renamed
    code, _, error = run(*given, "--out", tmp_path / "third")
    assert code == 2 and "tried for --reference too" in " ".join(error.split())
    code, _, error = run(tmp_path / "missing.jsonl", "-v", tmp_path / "kind.safetensors", "--out", tmp_path / "third")
    assert code == 2
    assert "missing.jsonl" in error
    assert "Traceback" not in error


def test_the_bundled_clean_set_is_whole() -> None:
    samples = list(open_data(CLEAN))
    assert not [sample for sample in samples if isinstance(sample, Rejected)]
    assert len({sample.id for sample in samples}) == len(samples) > 100


class StubJudge(Judge):
    """Scores by the first letter of the answer, and counts what it was asked."""

    name = "stub"

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def score(self, rollouts: Any, advance: Any = None) -> None:
        self.asked += rollouts
        for rollout in rollouts:
            first = rollout.text[0]
            rollout.score = None if first == "w" else 90.0 if first < "h" else 10.0


@pytest.mark.parametrize("everyone", [False, True])
def test_a_judge_beside_the_projections(
    everyone: bool, screen: Screen, finished: Finished, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    judges = {"kind": StubJudge(), "other": StubJudge()}
    monkeypatch.setattr("personavec.screening.files.scorers", lambda *_: judges)
    folder = finished(baseline="prompt", false_alarm_rate=0.3)
    both = screen("both", baseline="prompt", false_alarm_rate=0.3, judge="contrast", judge_all=everyone)
    before, after = scores(folder), scores(tmp_path / "both")
    answers = [json.loads(line)["messages"] for line in lines(86, 1)]
    for name, judge in judges.items():
        asked = {r.question_index for r in judge.asked}
        expected = np.arange(90) if everyone else np.flatnonzero(before[f"{name}_flagged"])
        assert len(asked) == len(judge.asked) == len(expected)
        given = after[f"{name}_judge"]
        assert np.isnan(given[np.setdiff1d(np.arange(90), expected)]).all()
        first = answers[0][1]["content"][0]
        if 0 in expected:
            assert given[0] == pytest.approx(90 if first < "h" else 10) or first == "w"
        flags = before[f"{name}_flagged"] | (given > 50) if everyone else before[f"{name}_flagged"]
        assert (after[f"{name}_flagged"] == flags).all()
        assert both.traits[name].judge.scored == np.isfinite(given).sum()
    assert (both.flagged > ScreeningRun.read(folder).flagged) == everyone


def test_a_judge_for_all_needs_a_judge(screen: Screen) -> None:
    with pytest.raises(UserError, match="needs a judge"):
        screen(judge_all=True)


def test_the_first_tokens_of_every_answer(tiny: ChatModel, clean: Path) -> None:
    engine = TransformersEngine(tiny)
    for sample in (record for record in open_data(clean) if isinstance(record, Sample)):
        whole, cut = (tokenise(engine, sample, "all", first).conversations for first in (None, 2))
        spans = [[(s, e) for c in made for s, e in c.spans] for made in (whole, cut)]
        answers = zip(spans[0][1::2], spans[1][1::2], strict=True)
        assert all(short == (start, min(end, start + 2)) for (start, end), short in answers)
        assert spans[0][::2] == spans[1][::2] and all(len(c.ids) == c.spans[-1][1] for c in cut)
