"""From a log to limits, and from limits to alarms."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from personavec.cli import main
from personavec.errors import UserError
from personavec.judges.base import UNFITTED, Advance, Judge, JudgeModel, JudgeState
from personavec.rollouts import Rollout
from personavec.traits import Trait, load_trait
from personavec.watching import Limits, Watch, WatchSettings, calibrate_limits, check_limits, replay_log
from personavec.watching.delays import quantiles_with_ends
from personavec.watching.log import LoggedAnswer, LoggedReading, Traffic, read_log
from personavec.watching.rules import exceeding
from samples import chats
from watching_samples import TRAITS, drawn, write, written_limits

SETTINGS = WatchSettings(rate=0.1, doubt=0.3, draws=99)


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("limits")
    calibrate_limits(write(drawn(60, 6), folder / "log.jsonl"), folder / "limits.json", SETTINGS)
    return folder / "limits.json"


def test_limits_are_a_file_and_a_page(calibrated: Path) -> None:
    limits = Limits.read(calibrated)
    assert (limits.traits, limits.answers, limits.conversations, limits.left_out) == (TRAITS, 360, 60, 0)
    assert limits.vectors == dict.fromkeys(TRAITS, "0123") and limits.horizon == 60
    for rule, found in limits.rules.items():
        assert found.joint >= min(found.limits.values())
        if rule != "traffic":
            assert found.held_out is not None and found.held_out.low <= found.rate and found.held_out.n == 60
    assert limits.rules["traffic"].held_out is None
    halves = {(delay.rule, delay.drift): delay.median for delay in limits.delays}
    strong, weak = halves["traffic", 2.0], halves["traffic", 0.5]
    assert strong is not None and (weak is None or strong < weak)
    html = calibrated.with_suffix(".html").read_text(encoding="utf-8")
    assert "What is promised" in html and "Drift over a conversation" in html and "<svg" in html


def test_the_same_log_and_seed_give_the_same_limits(calibrated: Path, tmp_path: Path) -> None:
    again = calibrate_limits(calibrated.parent / "log.jsonl", tmp_path / "limits.json", SETTINGS)
    assert again.rules == Limits.read(calibrated).rules and again.delays == Limits.read(calibrated).delays


def test_too_few_conversations_are_refused_with_how_many_it_takes(tmp_path: Path) -> None:
    log = write(drawn(60, 6), tmp_path / "log.jsonl")
    with pytest.raises(UserError, match=r"60 conversations are too few .* Give at least 131,"):
        calibrate_limits(log, tmp_path / "limits.json")
    assert not (tmp_path / "limits.json").exists()
    few = calibrate_limits(write(drawn(12, 6), log), tmp_path / "limits.json", SETTINGS)
    assert few.rules["during"].held_out is None and "this takes 14" in few.warnings[0]


def test_answers_that_are_not_like_most_are_left_out(tmp_path: Path) -> None:
    usual = drawn(20, 4)
    steered = [one.model_copy(update={"steering": ("evil +1",), "conversation": "x"}) for one in usual[:9]]
    again = [one.model_copy(update={"id": "again"}) for one in usual[:2]]
    limits = calibrate_limits(write([*usual, *steered, *again], tmp_path / "l"), tmp_path / "x.json", SETTINGS)
    assert (limits.answers, limits.left_out, limits.steering) == (80, 11, ())
    assert limits.warnings[0].startswith("11 answers of the log were left out")


def test_chats_that_were_monitored_are_a_log(tmp_path: Path) -> None:
    found = chats(6, vectors=2)
    (tmp_path / "projections.jsonl").write_text("".join(json.dumps(one) + "\n" for one in found) + '{"half', "utf-8")
    answers = read_log(tmp_path / "projections.jsonl")
    assert len(answers) == sum(len(one["turns"]) for one in found)
    turn, reading = found[2]["turns"][1], answers[sum(len(one["turns"]) for one in found[:2]) + 1]
    for trait, one in reading.traits.items():
        assert (one.before, one.mean, one.max) == tuple(
            round(turn[side][trait], 4) for side in ("before", "during", "highest")
        )
    with pytest.raises(UserError, match="no finished run"):
        read_log(tmp_path)


@pytest.mark.parametrize(
    ("text", "problem"),
    [("nonsense\n", "line 1: not JSON"), ('{"id": 3}\n', "line 1: not a line of a log"), ("", "no answer")],
)
def test_a_file_that_is_no_log_is_refused(text: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / "log").write_text(text)
    with pytest.raises(UserError, match=problem):
        read_log(tmp_path / "log")


def answer(turn: int, evil: float, humorous: float = 0.0, conversation: str = "c") -> LoggedAnswer:
    traits = {
        trait: LoggedReading(before=-9.0, mean=value, max=value)
        for trait, value in zip(TRAITS, (evil, humorous), strict=True)
    }
    return LoggedAnswer(
        id=f"{conversation}{turn}", conversation=conversation, turn=turn, time="", model="", traits=traits, vectors={},
        tokens=1, steering=(),
    )  # fmt: skip


def fed(watch: Watch, *answers: LoggedAnswer) -> list[list[tuple[str, str]]]:
    return [
        [(alarm.rule, alarm.trait) for alarm in watch.after(one.conversation, one.turn, one.traits)] for one in answers
    ]


def test_alarms_name_their_rule_and_trait() -> None:
    watch = Watch(written_limits(during=3.0, conversation=5.0, traffic=9.0))
    assert fed(watch, answer(0, 1.0, 3.5)) == [[("during", "humorous")]]
    assert watch.before({"evil": 2.0, "humorous": 4.0})[0].model_dump() == {
        "rule": "before", "trait": "humorous", "z": 4.0, "limit": 3.0,
    }  # fmt: skip
    assert fed(watch, answer(1, 2.75), answer(2, 2.75), answer(3, 2.75)) == [[], [("conversation", "evil")], []]
    assert fed(watch, answer(4, 2.75)) == [[("traffic", "evil")]], "the conversation's begins anew after its alarm"
    assert watch.traffic == {"evil": 0.0, "humorous": 0.0}


def test_asking_again_counts_once_and_conversations_do_not_mix() -> None:
    watch = Watch(written_limits(during=99.0, conversation=5.0, traffic=99.0))
    again = [answer(0, 3.0) for _ in range(5)]
    assert fed(watch, *again, answer(0, 3.0, conversation="d")) == [[]] * 6
    assert fed(watch, answer(1, 3.0)) == [[("conversation", "evil")]]
    assert fed(watch, answer(1, 0.0), answer(1, 3.0)) == [[], [("conversation", "evil")]], "from turn 0, not from 0"


def test_a_turn_that_is_steered_in_another_way_does_not_begin_a_conversation_anew(tmp_path: Path) -> None:
    limits = written_limits(during=99.0, conversation=5.0, traffic=99.0)
    turns = [answer(turn, 3.0) for turn in range(5)]
    assert fed(Watch(limits), turns[0], turns[4]) == [[], [("conversation", "evil")]]
    steered = [one.model_copy(update={"steering": ("evil +0.01",)}) for one in turns[1:4]]
    found = replay_log(write([turns[0], *steered, turns[4]], tmp_path / "log"), limits)
    assert [(one.answer, one.alarm.rule) for one in found.alarms] == [("c4", "conversation")]


def test_what_is_remembered_of_conversations_is_bounded() -> None:
    watch = Watch(written_limits(), remembered=7)
    for i in range(100):
        watch.after(str(i), 0, answer(0, 1.0).traits)
    assert len(watch._turns) == 7


def test_live_alarms_are_those_of_the_whole_log(calibrated: Path) -> None:
    limits, answers = Limits.read(calibrated), drawn(40, 6, seed=3)
    traffic, watch = Traffic.of(answers, TRAITS), Watch(limits)
    told: dict[str, list[Any]] = {"before": [], "during": [], "conversation": [], "traffic": []}
    for one in answers:
        prompt = {trait: found.before for trait, found in one.traits.items()}
        for alarm in [*watch.before(prompt), *watch.after(one.conversation, one.turn, one.traits)]:
            told[alarm.rule].append(one.id if alarm.rule in ("before", "during") else one.conversation)
    for rule in ("before", "during"):
        seen = exceeding(rule, limits.rules[rule], traffic, 1).joint
        assert told[rule] == [one.id for one, beyond in zip(answers, seen, strict=True) if beyond]
    alarmed = exceeding("conversation", limits.rules["conversation"], traffic, 1).joint
    assert {f"c-{at}" for at in np.flatnonzero(alarmed)} == set(told["conversation"])
    whole = exceeding("traffic", limits.rules["traffic"], traffic, 40).joint
    assert bool(told["traffic"]) == bool(whole[0])
    assert told["before"] and told["during"]


def test_a_check_passes_like_traffic_and_says_what_moved(calibrated: Path, tmp_path: Path) -> None:
    limits = Limits.read(calibrated)
    same = check_limits(write(drawn(80, 6, seed=5), tmp_path / "same"), limits)
    assert same.holds and same.rules["during"].found.n == 80 and len(same.sentences) == 1
    highest = max(one.found.high for rule, one in same.rules.items() if rule != "traffic")
    assert f"{highest:.3f} (" in same.sentences[0]
    far = limits.model_copy(update={"horizon": 81})
    assert "81 conversations together, and the log holds 80" in check_limits(tmp_path / "same", far).sentences[1]
    moved = check_limits(write(drawn(80, 6, seed=5, shift=1.0), tmp_path / "moved"), limits)
    assert not moved.holds and not moved.rules["conversation"].holds
    assert moved.drift["evil"].mean.low > 0.5 and "calibrate again" in moved.sentences[0]
    other = [one.model_copy(update={"steering": ("x",)}) for one in drawn(3, 3)]
    with pytest.raises(UserError, match="Calibrate limits on traffic of this kind"):
        check_limits(write(other, tmp_path / "other"), limits)


class FixedJudge(Judge):
    """Gives every answer the number that it ends with."""

    name = "fixed"

    def score(self, rollouts: Sequence[Rollout], advance: Advance | None = None) -> None:
        for rollout in rollouts:
            rollout.score = float(rollout.text.split()[-1])


class FixedModel(JudgeModel):
    name = "fixed"

    def of_trait(self, trait: Trait, state: JudgeState = UNFITTED) -> Judge:
        return FixedJudge()

    def of_coherence(self, trait: Trait, state: JudgeState = UNFITTED) -> None:
        return None


def test_a_judge_decides_what_is_in_doubt(tmp_path: Path) -> None:
    limits = written_limits()
    doubtful = [answer(turn, 1.5).model_copy(update={"text": text}) for turn, text in enumerate(("it is 80", "no 20"))]
    log = write([*doubtful, answer(2, 0.5), answer(3, 9.0), answer(4, 1.2)], tmp_path / "log")
    left = replay_log(log, limits)
    assert (left.doubtful, left.judged) == (3, 0) and "name a `judge`" in left.notes[0]
    found = replay_log(log, limits, FixedModel, load_trait)
    judged = [(one.answer, one.alarm.rule, one.alarm.z) for one in found.alarms if one.alarm.rule == "judge"]
    assert judged == [("c0", "judge", 80.0)] and (found.doubtful, found.judged) == (3, 2)
    assert found.notes == ("1 answers in doubt have no text in the log.",)
    with pytest.raises(UserError, match="holds the text of none of the 1"):
        replay_log(write([answer(0, 1.5)], tmp_path / "bare"), limits, FixedModel)


def test_answers_that_are_called_the_same_are_told_apart(tmp_path: Path) -> None:
    texts = ("no 20", "it is 80", "it is 90")
    answers = [answer(turn, 1.5).model_copy(update={"text": text, "id": "mine"}) for turn, text in enumerate(texts)]
    found = replay_log(write([*answers, answer(3, 9.0)], tmp_path / "log"), written_limits(), FixedModel, load_trait)
    judged = [(one.turn, one.alarm.z) for one in found.alarms if one.alarm.rule == "judge"]
    assert (judged, found.alarmed_answers) == ([(1, 80.0), (2, 90.0)], 3)


def test_delays_know_that_conversations_end() -> None:
    assert quantiles_with_ends([1, 2, 3, 4], [True] * 4) == [1, 2, 4]
    assert quantiles_with_ends([3, 3, 3, 2], [True, False, False, True]) == [2, 3, None]
    assert quantiles_with_ends([5] * 9, [True] * 9, least=10) == [None] * 3


def run(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr("sys.argv", ["personavec", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        main()
    code = end.value.code
    return code if isinstance(code, int) else 0


def test_the_command_line_says_by_its_exit_code_whether_something_alarmed(
    calibrated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    far = write(drawn(30, 4, seed=1, shift=3.0), tmp_path / "far")
    near = write([answer(0, -1.0).model_copy(update={"vectors": {}})], tmp_path / "near")
    assert run(monkeypatch, "watch", far, "--limits", calibrated) == 1
    assert "conversations alarmed" in capsys.readouterr().out
    assert run(monkeypatch, "watch", "replay", near, "--limits", calibrated, "--json") == 0
    assert json.loads(capsys.readouterr().out)["alarms"] == []
    assert run(monkeypatch, "watch", "check", far, "--limits", calibrated) == 1
    assert run(monkeypatch, "watch", far, "--limits", far) == 2
    out = tmp_path / "limits.json"
    log = calibrated.parent / "log.jsonl"
    options = ("--rate", 0.1, "--doubt", 0.3, "--draws", 99, "--out", out)
    assert run(monkeypatch, "watch", "calibrate", log, *options) == 0
    shown = capsys.readouterr().out
    assert f"Limits: {out}" in shown
    assert "\n-: fewer of the cases than that alarm before the conversation ends" in shown.split("answers until")[1]


@pytest.mark.parametrize(
    ("settings", "problem"), [({"rate": 0.0}, "`rate`"), ({"doubt": 0.001}, "Doubt begins"), ({"draws": 5}, "`draws`")]
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        WatchSettings(**settings)
