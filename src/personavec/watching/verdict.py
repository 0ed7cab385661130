"""What limits promise, in plain words."""

from personavec.report.words import span
from personavec.watching.result import Limits


def verdict(limits: Limits) -> tuple[str, ...]:
    """Sentences, most important first."""
    answers, traffic = limits.rules["during"], limits.rules["traffic"]
    several = f"any of {len(limits.traits)} traits" if len(limits.traits) > 1 else limits.traits[0]
    said = [
        f"A normal answer alarms for {several} with a probability of at most {answers.rate:g} before its first token, "
        "and at most as often for what it says; a normal conversation alarms as a whole at most at the same rate. "
        f"So it is on average over logs such as this one ({limits.answers} answers in {limits.conversations} "
        "conversations), if new conversations come from where these did.",
        f"Over the next {limits.horizon} conversations together the chance of a false alarm is {traffic.rate:g}, by "
        "resampled conversations.",
    ]
    if answers.held_out is not None:
        said.append(
            f"Of answers that limits made in this way did not know, a share of {answers.held_out.mean:.4f} alarmed "
            f"({span(answers.held_out, '.4f', 'conversations')})."
        )
    slow = next(d for d in limits.delays if d.rule == "traffic" and d.drift == 1.0)
    if slow.median is not None:
        said.append(
            f"Traffic that moves by one deviation along one trait alarms after {slow.median} answers in half of the "
            "cases."
        )
    return tuple(said)
