"""What a study's figures say, in plain words, and where they say nothing."""

from collections.abc import Mapping, Sequence
from statistics import median

from personavec.report.words import span
from personavec.stats.estimate import TOO_FEW, Estimate
from personavec.study.result import Arm, Correlation, StudyRun, SuiteRow, TrainingCost, TraitPrevention

PREVENTED = 70.0  # percent of the rise: what prevention is asked for,
WORSE = 5.0  # at no more than so many percent more loss on the task,
SEEDS = "one seed, so that it is not shown, which takes three of each way"  # intervals over questions hold no seeds
SEVERAL = 3  # traits, whose figures are also told together
CHANCE = 0.05  # p, up to which a figure stands out among those of random directions
_TOLD = (
    ("shift, score", "the shift", "the trait score after training"),
    ("shift, score by contrast", "the shift", "the trait score after training, by the contrast judge,"),
    ("difference, shift", "the projection difference", "the shift"),
    ("difference, shift; domains out", "the projection difference", "the shift, both without clean domains,"),
)


def verdict(run: StudyRun) -> tuple[str, ...]:
    """A sentence for each question that the study asks; of several traits one by one only what stands out."""
    several = len(run.correlations) >= SEVERAL
    sentences = _over_traits(run.correlations) if several else []
    for name, pairs in run.correlations.items():
        sentences += [
            _correlated(name, pairs[pair], first, second)
            for pair, first, second in _TOLD
            if pair in pairs and not (several and _hushed(pairs[pair]))
        ]
    sentences += _falling_apart(run.correlations)
    sentences += _hidden(run.suite)
    for name, prevention in run.prevention.items():
        sentences += _prevention(name, prevention)
    return tuple(sentences)


def _hushed(pair: Correlation) -> bool:
    """Whether neither over all fine-tunes nor within families anything is shown beyond random directions."""
    kinds = [(pair.r, pair.random), *([] if pair.within is None else [(pair.within.r, pair.within.random)])]
    return not any(r.low > 0 and random.p_value <= CHANCE for r, random in kinds)


def _falling_apart(correlations: Mapping[str, Mapping[str, Correlation]]) -> list[str]:
    found = {name: pairs["shift, score"].coherence for name, pairs in correlations.items()}
    rising = {name: one for name, one in found.items() if one is not None and one.high < 0}
    if not rising:
        return []
    told = ", ".join(
        f"{name} (r = {one.mean:.2f}, {span(one, '.2f')}, {one.n} families)" for name, one in rising.items()
    )
    return [
        f"The less coherent the answers after training, the higher their score, for {told}: the scores may tell in "
        "part that answers fell apart."
    ]


def _over_traits(correlations: Mapping[str, Mapping[str, Correlation]]) -> list[str]:
    """How the traits lie, for each pair that all of them have."""
    told = []
    for pair, first, second in _TOLD:
        found = [pairs[pair] for pairs in correlations.values() if pair in pairs]
        if len(found) < len(correlations):
            continue
        beyond = sum(one.r.low > 0 and one.random.p_value <= CHANCE for one in found)
        text = f"{first.capitalize()} and {second}: median r {median(one.r.mean for one in found):.2f}"
        text = f"{text.replace(',:', ':')} over {len(found)} traits, shown and beyond random directions for {beyond}"
        inside = [one.within for one in found if one.within is not None]
        if inside:
            beyond = sum(one.r.low > 0 and one.random.p_value <= CHANCE for one in inside)
            text += f"; within families {median(one.r.mean for one in inside):.2f}, and {beyond} of {len(inside)}"
        told.append(f"{text}. The traits share their fine-tunes, so these are not {len(found)} trials.")
    return told


def _correlated(name: str, pair: Correlation, first: str, second: str) -> str:
    r, random = pair.r, pair.random
    text = (
        f"{name}: over {r.runs} fine-tunes {first} and {second} correlate with r = {r.mean:.2f} "
        f"({span(r, '.2f')}, {r.n} families)"
    )
    if pair.within is not None:
        inside, p = pair.within.r, pair.within.random.p_value
        text += f", within families {inside.mean:.2f} ({span(inside, '.2f')}, p among random directions {p:.2f})"
    if r.high < 0:
        return f"{text}: the one falls where the other rises."
    if r.low <= 0:
        if not _hushed(pair):
            return f"{text}: shown within families, beyond random directions, and not over all."
        return f"{text}: no relation is shown."
    rivals = [other for other, value in pair.others.items() if value >= r.mean]
    if random.p_value > CHANCE:
        chance = f"95 in 100 stay below {random.p95:.2f}, p = {random.p_value:.2f}"
        return f"{text}, but random directions do as well ({chance})."
    if rivals:
        return f"{text}, more than random directions give; by r alone the vectors of {', '.join(rivals)} do as well."
    text = f"{text}, more than random directions give (p = {random.p_value:.2f})"
    return (
        f"{text}; the other traits' vectors have a lower r, by how much is not tested." if pair.others else f"{text}."
    )


def _hidden(suite: Sequence[SuiteRow]) -> list[str]:
    """Whether traits hide behind a system prompt: scores that rise under one only."""
    pairs = [
        (f"{trait} after {row.name}", scores.change, scores.instructed_change)
        for row in suite
        for trait, scores in row.scores.items()
        if scores.change is not None and scores.instructed_change is not None
    ]
    if not pairs:
        return []
    rose = [(name, plain) for name, plain, asked in pairs if asked.low > 0]
    fell = sum(asked.high < 0 for _, _, asked in pairs)
    hidden = [name for name, plain in rose if plain.low <= 0]
    text = (
        "Asked for the trait by a system prompt, the fine-tunes show it more than the model before them in "
        f"{len(rose)} of {len(pairs)} comparisons and less in {fell} (95 % intervals that leave out 0; chance alone "
        f"gives {0.05 * len(pairs):.0f} or more, for they are over few questions)."
    )
    if hidden:
        text += f" Without a system prompt no rise is shown in {len(hidden)} of these: {', '.join(hidden)}."
    return [text]


def _prevention(name: str, prevention: TraitPrevention) -> list[str]:
    before, after = prevention.base.plain.score, prevention.plain.score
    if before is None or after is None or after.low <= before.high:
        return [f"{name}: training without prevention did not clearly raise the score: there is nothing to prevent."]
    trained = [
        (arm, arm.prevented)
        for arm in prevention.arms
        if arm.shift is not None and arm.prevented is not None and arm.kind != "none"
    ]
    return [
        f"{name}: training without prevention raised the score from {before:.0f} to {after:.0f} "
        f"(95 % intervals, n = {before.n} and {after.n} questions; one seed).",
        *_steering([arm for arm, _ in trained if arm.kind == "steer"]),
        *(f"{arm.arm}: {_share(share)} prevented; {_cost(arm)}." for arm, share in trained if arm.kind != "steer"),
    ]


def _steering(arms: Sequence[Arm]) -> list[str]:
    """The best preventative steering: chosen by one half of the questions and samples, judged by the other."""
    split = [
        (arm, chosen, judged)
        for arm in arms
        for chosen, judged in [arm.halves]
        if chosen.prevented is not None and judged.prevented is not None
    ]
    cheap = [row for row in split if row[1].task_change.mean <= WORSE]
    if cheap:
        best, _, judged = max(cheap, key=lambda row: row[1].prevented.mean if row[1].prevented else 0.0)
        assert judged.prevented is not None and best.prevented is not None
        return [
            f"Of {len(split)} preventative steerings {best.arm} prevented most at no more than {WORSE:g} % more "
            "loss on the task, by every second question and sample. On the others it prevented "
            f"{_share(judged.prevented)} of the rise, {_met(judged.prevented, judged.task_change)}; loss on the task "
            f"{_percent(judged.task_change)}, n = {judged.task_change.n} samples. On all of them together: "
            f"{_share(best.prevented)}; {_cost(best)}."
        ]
    if split:
        least, _, _ = min(split, key=lambda row: row[1].task_change.mean)
        assert least.prevented is not None
        return [
            f"By every second sample each of {len(split)} preventative steerings cost more than {WORSE:g} % of the "
            f"loss on the task. The cheapest, {least.arm}, prevented on all {_share(least.prevented)}; {_cost(least)}."
        ]
    if arms:
        return [
            "No preventative steering can be chosen by one half of the questions and judged by the other: too few "
            "answers have a score, or those of one half do not rise without prevention."
        ]
    return []


def _met(share: Estimate, task: Estimate) -> str:
    """How a share and its cost stand to the goal."""
    if share.low >= PREVENTED and task.high <= WORSE:
        return f"within the goal of {PREVENTED:g} %, by {SEEDS}"
    if share.mean < PREVENTED:
        return f"short of {PREVENTED:g} %"
    if task.mean > WORSE:
        return f"but at more than {WORSE:g} % more loss on the task"
    return f"more than the goal of {PREVENTED:g} %, though the intervals do not show that it is met at this cost"


def _cost(arm: TrainingCost) -> str:
    task, learned, text = arm.task_change, arm.task_learned, arm.perplexity_change
    share = f", so that {learned:.0f} % of what is learned without prevention is learned" if learned else ""
    return (
        f"loss on the task {_percent(task)}{share}, n = {task.n} samples, perplexity of general text "
        f"{_percent(text)}, n = {text.n} passages"
    )


def _percent(e: Estimate) -> str:
    return f"{e.mean:+.1f} % [{e.low:+.1f}, {e.high:+.1f}]" if e.bounded else f"{e.mean:+.1f} % [{TOO_FEW}]"


def _share(e: Estimate) -> str:
    return f"{e.mean:.0f} % ({span(e, '.0f', 'questions')})"
