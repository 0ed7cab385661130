"""`personavec watch`: alarm limits from normal traffic, and what of a log goes beyond them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from personavec.cli import options as o
from personavec.cli.expand import expanded, fields_of
from personavec.errors import UserError
from personavec.judges.kinds import find_kind, open_judge, spellings
from personavec.watching.settings import WatchSettings

if TYPE_CHECKING:
    from personavec.judges.base import JudgeModel
    from personavec.traits import Trait
    from personavec.watching.result import Limits, Replay

ALARMED = 1  # exit code: something alarmed, or limits are no longer right


class _LogFirst(TyperGroup):
    """`watch LOG` without a command is `watch replay LOG`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in self.commands:
            args = ["replay", *args]
        return super().resolve_command(ctx, args)


app = typer.Typer(cls=_LogFirst, no_args_is_help=True)
Log = Annotated[
    Path, typer.Argument(metavar="LOG", help="File that serve logged, or run folder of monitor.", show_default=False)
]
LimitsFile = Annotated[Path, typer.Option("--limits", help="File of watch calibrate.", show_default=False)]


@app.callback()
def watch() -> None:
    """Alarm limits from normal traffic (calibrate, first), and what of a log goes beyond them (replay).

    `watch LOG --limits FILE` is short for `watch replay LOG --limits FILE`.
    """


@app.command("calibrate")
@expanded
def calibrate(
    *,
    log: Log,
    out: Annotated[Path, typer.Option(help="File of the limits; a page is written beside it.", show_default=False)],
    settings: Annotated[dict[str, Any], fields_of(WatchSettings)],
    json: o.Json = False,
) -> None:
    """Make alarm limits from a log of normal traffic: for answers, conversations and the traffic as a whole."""
    asked = WatchSettings(**settings)

    from personavec.watching.job import calibrate_limits
    from personavec.watching.verdict import verdict

    limits = calibrate_limits(log, out, asked)
    if json:
        o.print_json(limits.as_json())
        return
    o.print_sentences(*verdict(limits), *limits.warnings)
    _print_limits(limits)
    print(f"\nLimits: {out}\nReport: {out.with_suffix('.html')}")
    vectors = " ".join(f"--vector {trait}" for trait in limits.traits)
    print(
        f"Next: personavec serve {vectors} --limits {out}, with the vectors' files where these are not ready ones; or "
        f"personavec watch LOG --limits {out}"
    )


def _print_limits(limits: "Limits") -> None:
    print("\nrule           limit, all traits   held out (95 % interval)")
    for name, rule in limits.rules.items():
        held = "-" if rule.held_out is None else f"{rule.held_out:.4f} n = {rule.held_out.n} conversations"
        print(f"{name:<15}{rule.joint:<20.2f}{held}")
    print("\nanswers until an alarm, in half of the cases [95 % of them], when a trait moves by so many deviations")
    for delay in limits.delays:
        low, median, high = ("-" if one is None else str(one) for one in (delay.low, delay.median, delay.high))
        print(f"{delay.rule:<15}{delay.drift:<6g}{median} [{low}, {high}]  n = {delay.n} conversations")
    print(f"-: {_dash(limits)}")


def _dash(limits: "Limits") -> str:
    """What is meant by a dash in the tables of limits."""
    return (
        f"fewer of the cases than that alarm before the conversation ends (traffic: {limits.horizon} of them); "
        "under held out, there were too few conversations to hold some out"
    )


@app.command("replay")
def replay(
    log: Log,
    limits: LimitsFile,
    judge: Annotated[
        str | None,
        typer.Option(
            callback=o.plain_text,
            help=f"Scores answers in doubt, if their texts are in the log: {spellings(any_answers=True)}.",
            show_default=False,
        ),
    ] = None,
    judge_price: o.JudgePrice = None,
    judge_rpm: o.JudgeRpm = None,
    traits_from: o.TraitsFrom = None,
    device: o.Device = None,
    dtype: o.Dtype = None,
    json: o.Json = False,
) -> None:
    """Say what of a log would have alarmed. Exit code 0: nothing, 1: something."""
    if judge is not None and find_kind(judge, any_answers=True) is None:
        raise UserError(f"--judge {judge!r} cannot score a log.", f"Choose {spellings(any_answers=True)}.")
    terms = o.read_terms(judge, judge_price, judge_rpm) if judge else None

    from personavec.traits import load_trait
    from personavec.watching.replay import replay_log
    from personavec.watching.result import Limits

    def open_other() -> "JudgeModel":
        o.quiet()
        return open_judge(str(judge), terms=terms, device=device, dtype=dtype)

    def find(name: str) -> "Trait":
        given = load_trait(str(traits_from)) if traits_from else None
        return given if given is not None and given.name == name else load_trait(name)

    found = replay_log(log, Limits.read(limits), open_other if judge else None, find)
    if json:
        o.print_json(found.as_json())
    else:
        _print_replay(found)
    if found.alarms:
        raise typer.Exit(ALARMED)


def _print_replay(found: "Replay") -> None:
    for one in found.alarms:
        alarm = one.alarm
        when = f"{one.time}  " if one.time else ""
        print(
            f"{when}{one.conversation} answer {one.turn + 1}: {alarm.trait}, {alarm.rule} {alarm.z:.2f} above "
            f"{alarm.limit:.2f}"
        )
    print(
        f"{found.alarmed_answers} of {found.answers} answers and {found.alarmed_conversations} of "
        f"{found.conversations} conversations alarmed; "
        f"{sum(one.alarm.rule == 'traffic' for one in found.alarms)} alarms over the whole traffic; "
        f"{found.doubtful} answers in doubt, {found.judged} of them judged."
    )
    o.print_sentences(*found.notes)


@app.command("check")
def check(log: Log, limits: LimitsFile, json: o.Json = False) -> None:
    """Are limits still right on a new log of normal traffic? Exit code 0: yes as far as n tells, 1: no."""
    from personavec.watching.check import check_limits
    from personavec.watching.result import Limits

    found = check_limits(log, Limits.read(limits))
    if json:
        o.print_json(found.as_json())
    else:
        print(
            f"{found.answers} answers in {found.conversations} conversations; {found.other} of another kind left out."
        )
        print("\nrule           promised  found (95 % interval)")
        for name, rule in found.rules.items():
            units = ("block" if rule.found.n == 1 else "blocks") if name == "traffic" else "conversations"
            print(f"{name:<15}{rule.promised:<10g}{rule.found:.4f} n = {rule.found.n} {units}")
        print("\ntrait: mean and deviation of its answers, then being 0 and 1 (95 % intervals)")
        for trait, drift in found.drift.items():
            print(f"  {trait}: {drift.mean:+.2f}, {drift.deviation:.2f} n = {drift.mean.n} conversations")
        o.print_sentences(*found.sentences)
    if not found.holds:
        raise typer.Exit(ALARMED)
