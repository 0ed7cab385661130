"""Do alarm limits keep their promise? Simulated traffic whose truth is known; textbook limits beside.

python benchmarks/alarms.py [--runs 200]

Every run draws a log of normal conversations, calibrates the limits of `personavec watch` on it, and draws as many new
conversations. A conversation has its own mean (half of the variance), several traits share a part of it.
"""

import argparse

import numpy as np

from common import RESULTS, table
from personavec.files import write_atomic
from personavec.stats.alarms import ALLOWANCE, Scale, cusum, rate_of_groups, upper_quantile
from personavec.stats.numbers import Floats
from personavec.watching.log import LoggedAnswer, Traffic
from personavec.watching.result import RULES
from personavec.watching.rules import exceeding, rule_limits
from personavec.watching.settings import WatchSettings

SETTINGS = WatchSettings(rate=0.05, doubt=0.2, traffic_rate=0.05, draws=199)
CASES = ((60, 4, 1), (60, 4, 5), (60, 12, 5), (150, 6, 5))  # conversations, answers in each, traits
ANSWER = LoggedAnswer(id="", conversation="", turn=0, time="", model="", traits={}, vectors={}, tokens=0, steering=())


def traffic(rng: np.random.Generator, count: int, size: int, traits: int) -> Traffic:
    """Normal traffic: mean 0 and deviation 1 in every trait, on scales that differ."""
    common = rng.standard_normal((count, 1, 1)) * 0.5
    own = rng.standard_normal((count, 1, traits)) * 0.5
    means: Floats = (common + own + rng.standard_normal((count, size, traits)) * 0.5**0.5) * (1 + np.arange(traits))
    flat = means.reshape(-1, traits)
    highest = flat + rng.exponential(0.5, flat.shape)
    before = flat + rng.standard_normal(flat.shape) * 0.3
    return Traffic(
        tuple(map(str, range(traits))), [ANSWER] * len(flat), np.repeat(np.arange(count), size), before, flat, highest
    )


def textbook(rng: np.random.Generator, length: int, traits: int) -> float:
    """The limit for independent values of known mean and deviation, over the same horizon, at the same rate."""
    highest = [cusum(rng.standard_normal((length, traits)) - ALLOWANCE).max() for _ in range(1000)]
    return upper_quantile(np.array(highest), SETTINGS.traffic_rate)


def case(count: int, size: int, traits: int, runs: int) -> list[list[str]]:
    """Rows of the table: false alarms of every rule, over runs."""
    rng = np.random.default_rng([count, size, traits])
    known = textbook(rng, count * size, traits)
    shares: dict[str, list[float]] = {rule: [] for rule in (*RULES, "textbook")}
    for _ in range(runs):
        normal, new = traffic(rng, count, size, traits), traffic(rng, count, size, traits)
        for rule in RULES:
            shares[rule].append(exceeding(rule, rule_limits(rule, normal, SETTINGS), new, count).joint.mean())
        z = Scale.of(normal.mean).of_values(new.mean)
        shares["textbook"].append(float(cusum(z - ALLOWANCE).max() > known))
    rows = []
    for name, found in shares.items():
        mean, error = np.mean(found), 1.96 * np.std(found, ddof=1) / runs**0.5
        said = f"{mean:.3f} [{max(0, mean - error):.3f}, {mean + error:.3f}]"
        if name in ("traffic", "textbook"):
            said = f"{rate_of_groups(np.array(found), np.arange(runs)):.3f}"
        rows.append(
            [
                f"{count} x {size}, {traits}",
                "traffic, textbook limit" if name == "textbook" else name,
                "0.05",
                said,
                str(runs),
            ]
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200)
    runs = parser.parse_args().runs
    rows = [row for one in CASES for row in case(*one, runs)]
    text = (
        "# Alarm limits on simulated traffic\n\n"
        "Joint false alarms over all traits on new normal traffic, with 95 % intervals over simulations (`before` and "
        "`during` of answers, `conversation` of conversations, `traffic` of whole traffics of as many conversations as were "
        "calibrated on). Half of the variance is a conversation's own, half of that shared by the traits. The textbook "
        "limit is that for independent answers with a known mean. Made by `benchmarks/alarms.py`; how soon drift is seen "
        "depends on the traffic and stands in every report of `personavec watch calibrate`.\n\n"
    )
    head = ["conversations x answers, traits", "rule", "promised", "found", "simulations"]
    write_atomic(RESULTS / "alarms.md", f"{text}{table(head, rows)}\n")
    print(table(head, rows))


if __name__ == "__main__":
    main()
