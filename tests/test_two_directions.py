"""A vector that is read along one direction and steered by another: the file, and which job takes which."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save

from personavec.combination import combine, specific
from personavec.data import open_data
from personavec.errors import UserError
from personavec.extraction.specificity import matrix
from personavec.finetune.prevention import Prevention
from personavec.finetune.request import TuningRequest
from personavec.finetune.settings import Training
from personavec.finetune.watch import ShiftMonitor
from personavec.interchange.paper import read_paper_vector
from personavec.interventions import ablation, capping, steering
from personavec.model import ChatModel
from personavec.monitoring import monitor, project
from personavec.screening import ScreenSettings, projector, screen_files
from personavec.shifts.measure import shift
from personavec.vector import PersonaVector, cosine, two_directions
from tiny import JUDGE, chat_model, vector
from typed import exit_code

NUMBERS = torch.arange(11.0, 15.0)
CHAT = [{"role": "user", "content": "how are you?"}, {"role": "assistant", "content": "I am well today"}]


@pytest.fixture
def read(tiny: ChatModel) -> PersonaVector:
    statistics: dict[str, Any] = {"neutral_mean": NUMBERS, "neutral_deviation": NUMBERS + 1}
    return replace(vector(tiny, seed=1, layer=1, info={"written": "read", "judge": JUDGE}, **statistics), trait="evil")


@pytest.fixture
def steer(tiny: ChatModel) -> PersonaVector:
    statistics: dict[str, Any] = {"neutral_token_mean": NUMBERS, "neutral_token_deviation": NUMBERS + 1}
    made = vector(tiny, seed=2, layer=2, info={"recommended_coefficient": 1.5}, residual_norm=NUMBERS, **statistics)
    return replace(made, trait="evil")


@pytest.fixture
def both(read: PersonaVector, steer: PersonaVector) -> PersonaVector:
    return steer.with_read(read)


@pytest.fixture
def chats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PERSONAVEC_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "chats.jsonl"
    words = [[CHAT[0], {"role": "assistant", "content": f"I am well {'today ' * (n % 7)}{n}"}] for n in range(30)]
    path.write_text("".join(json.dumps({"messages": each}) + "\n" for each in words))
    return path


def test_the_file_holds_both_with_their_evidence(
    both: PersonaVector, read: PersonaVector, steer: PersonaVector, tmp_path: Path
) -> None:
    both.save(tmp_path / "v")
    again = PersonaVector.load(tmp_path / "v")
    for made, wanted in ((again.reading, read), (again.steering, steer)):
        assert (made.trait, made.layer, made.model, made.read) == ("evil", wanted.layer, wanted.model, None)
        assert torch.equal(made.directions, wanted.directions)
    assert again.reading.neutral(1) == read.neutral(1) and again.reading.residual_norm is None
    assert again.steering.neutral(2, "token") == steer.neutral(2, "token") and again.steering.neutral_mean is None
    assert again.reading.info.written == "read" and again.reading.info.recommended_coefficient is None
    assert again.steering.info.recommended_coefficient == 1.5
    assert again.steering.info.judge == read.info.judge, "what one knows of the trait's judge, both know"


def test_a_file_with_one_direction_is_as_it_was(steer: PersonaVector, both: PersonaVector, tmp_path: Path) -> None:
    versions = {}
    for name, one in (("one", steer), ("two", both)):
        one.save(tmp_path / name)
        with safe_open(tmp_path / name, framework="pt") as handle:
            versions[name] = handle.metadata()["version"]
    assert versions == {"one": "1", "two": "2"}
    again = PersonaVector.load(tmp_path / "one")
    assert again.read is None and again.reading is again and again.steering is again
    assert len({str(one.identity) for one in (steer, both, both.reading)}) == 3
    assert both.steering.identity == steer.identity and both.reading.read is None


def test_what_does_not_belong_together_is_refused(steer: PersonaVector, read: PersonaVector) -> None:
    with pytest.raises(UserError, match="cannot be read along one of 'kind'"):
        steer.with_read(replace(read, trait="kind"))
    with pytest.raises(UserError, match="belong to different models"):
        steer.with_read(replace(read, model={**read.model, "weights": "others"}))
    with pytest.raises(UserError, match="belong to different models"):
        steer.with_read(replace(read, directions=torch.ones(4, 16), neutral_mean=None, neutral_deviation=None))
    with pytest.raises(UserError, match="cannot be read along"):
        replace(steer, read=steer.with_read(read))


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"version": "1"}, None),
        ({"version": "2"}, ["response_mean"]),
        ({"version": "2"}, ["response_mean", "read.response_mean", "read.stray"]),
        ({"version": "2", "read": {"layer": 9}}, None),
        ({"version": "2", "read": {"trait": "kind"}}, None),
        ({"version": "2", "read": None}, None),
    ],
    ids=str,
)
def test_damaged_files(both: PersonaVector, tmp_path: Path, change: dict[str, Any], names: list[str] | None) -> None:
    header = both._header() | {"read": both.reading._header()}
    if "read" in change:
        header["read"] = both.reading._header() | change["read"] if change["read"] else None
    rows = {name: torch.ones(4, 32) for name in names or ["response_mean", "read.response_mean"]}
    told = {"format": "personavec", "version": change["version"], "header": json.dumps(header)}
    (tmp_path / "v").write_bytes(save(rows, told))
    with pytest.raises(UserError):
        PersonaVector.load(tmp_path / "v")


def test_edits_of_the_stream_are_by_the_one(both: PersonaVector, steer: PersonaVector) -> None:
    for edit in (lambda v: steering(v, 0.1), ablation, lambda v: capping(v, 2.0)):
        (made,), (wanted,) = edit(both), edit(steer)
        assert made.layer == wanted.layer == 2 and torch.equal(made.direction, wanted.direction)
    assert Prevention(both, 2.0).describe() == Prevention(steer, 2.0).describe()


def test_monitoring_is_along_the_other(
    tiny: ChatModel, both: PersonaVector, read: PersonaVector, chats: Path, tmp_path: Path
) -> None:
    assert project(tiny, [CHAT], [both]) == project(tiny, [CHAT], [read])
    run, wanted = (monitor(tiny, chats, [one], tmp_path / name) for name, one in (("a", both), ("b", read)))
    assert run.vectors == wanted.vectors and run.largest == wanted.largest and run.vectors[0].layer == 1
    (note,) = two_directions([both, read])
    assert run.warnings == (*wanted.warnings, note)
    cosines = [f"{cosine(both.reading, both.steering, layer):+.2f}" for layer in (1, 2)]
    assert f"cosine of the two is {cosines[0]} at the one layer and {cosines[1]} at the other" in note
    assert note.split(";")[0] in (tmp_path / "a" / "report.html").read_text()


def test_screening_is_along_the_other(
    tiny: ChatModel, both: PersonaVector, read: PersonaVector, chats: Path, tmp_path: Path
) -> None:
    settings = ScreenSettings(baseline="none")
    run, wanted = (
        screen_files(tiny, chats, [one], tmp_path / name, settings, clean=chats)
        for name, one in (("a", both), ("b", read))
    )
    assert run.traits == wanted.traits
    assert [note for note in run.warnings if note not in wanted.warnings] == two_directions([both])
    rows = {"messages": [CHAT]}
    assert projector(tiny, [both])(rows) == projector(tiny, [read])(rows)


def test_shifts_are_along_the_other(tiny: ChatModel, both: PersonaVector, read: PersonaVector) -> None:
    tuned = chat_model(seed=1)
    assert shift(tiny, [both], tuned) == shift(tiny, [read], tuned)
    (watched,) = ShiftMonitor(both, ["hello"]).vectors
    assert watched is both.reading


def test_a_fine_tune_prevents_by_the_one_and_measures_along_the_other(
    tiny: ChatModel, both: PersonaVector, chats: Path
) -> None:
    request = TuningRequest(tiny, open_data([chats]), Training(method="steer"), [(both, 1.0)], [], None, True, [])
    assert [v.hash for v in request.vectors] == [both.hash] and request.vectors[0].read is None
    assert request.measured == [both.reading]
    prevented: Any = request.arguments["prevent"]
    assert prevented == [[*both.identity, 1.0]] and len(prevented[0]) == 6


def test_sums_are_of_both(tiny: ChatModel, both: PersonaVector, steer: PersonaVector, read: PersonaVector) -> None:
    calm = replace(vector(tiny, seed=3, layer=3), trait="calm")
    made = combine([(both, 2.0), (calm, -1.0)])
    torch.testing.assert_close(made.steering.directions, 2 * steer.directions - calm.directions)
    torch.testing.assert_close(made.reading.directions, 2 * read.directions - calm.directions)
    assert (made.steering.layer, made.reading.layer, made.reading.trait) == (2, 1, "evil-calm")


def test_what_is_read_along_is_made_specific(
    tiny: ChatModel, both: PersonaVector, read: PersonaVector, chats: Path
) -> None:
    calm = replace(vector(tiny, seed=3, layer=3), trait="calm")
    made = specific(tiny, both, "span", others=[calm], references={"mine": open_data([chats])})
    assert made.hash == both.hash and made.info == both.info
    assert made.reading.info.specific is not None and made.reading.info.specific.original == read.hash
    assert abs(float(made.reading.unit(1) @ calm.unit(1))) < 1e-5


def test_both_stand_in_comparisons(both: PersonaVector) -> None:
    table = matrix([both])
    assert table.vectors == ("evil (read)", "evil (steer)")
    assert table.cosine[0][1] == pytest.approx(both.agreement[0], abs=1e-4)
    assert table.cosine[1][0] == pytest.approx(both.agreement[1], abs=1e-4)


def test_on_the_command_line(
    both: PersonaVector,
    read: PersonaVector,
    steer: PersonaVector,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    read.save(tmp_path / "read")
    steer.save(tmp_path / "steer")
    words = ["vectors", "combine", "--read", tmp_path / "read", "--out", tmp_path / "both"]
    assert exit_code(monkeypatch, *words) == 2
    assert "Give FILE=COEFFICIENT, once or more, or --read and --steer" in capsys.readouterr().err
    words += ["--steer", tmp_path / "steer"]
    assert exit_code(monkeypatch, *words, tmp_path / "read") == 2
    assert exit_code(monkeypatch, *words, "--name", "x") == 2
    capsys.readouterr()
    assert exit_code(monkeypatch, *words) == 0
    shown = f"cosine of the two by layer: 1: {both.agreement[0]:+.2f}, 2: {both.agreement[1]:+.2f}"
    assert shown in capsys.readouterr().out
    assert PersonaVector.load(tmp_path / "both").identity == both.identity
    assert exit_code(monkeypatch, "vectors", "show", tmp_path / "both") == 0
    assert shown in capsys.readouterr().out
    assert exit_code(monkeypatch, "vectors", "show", tmp_path / "both", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["read"]["layer"] == 1 and told["agreement"] == pytest.approx(both.agreement)
    for position, wanted in (("read", read), ("response_mean", steer)):
        out = ["--position", position, "--out", tmp_path / "out.pt"]
        assert exit_code(monkeypatch, "vectors", "export", "--as", "paper", tmp_path / "both", *out) == 0
        torch.testing.assert_close(read_paper_vector(tmp_path / "out.pt"), wanted.directions)
    capsys.readouterr()
    assert (
        exit_code(
            monkeypatch, "vectors", "export", "--as", "paper", tmp_path / "steer", "--position", "read", "--out", "x.pt"
        )
        == 2
    )
    assert "Choose response_mean." in capsys.readouterr().err
