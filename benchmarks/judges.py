"""Do the judges say what an outside judge says, of answers that neither of them has seen?

    python benchmarks/judges.py SCORED [--answers N] [--write]

SCORED is a folder of TRAIT.csv: answers of another model, told to show the trait and told not to (`side` pos, neg), with
the scores of an outside judge. The probe is made of the library's texts, the contrast judge of nothing but the trait's
instructions; ranks and AUC need no calibration, so its evidence is taken as it is, by one pair of instructions and by
three. Beside them what needs no model: the length of the answer, and its exclamation marks.
"""

import csv
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy.stats import rankdata

from common import arguments, publish
from personavec import ChatModel, load_model
from personavec.judges.contrast import read_evidence
from personavec.judges.probe import ProbeModel
from personavec.rollouts import Rollout
from personavec.stats.bootstrap import bootstrap_auc, bootstrap_pearson
from personavec.stats.estimate import Estimate
from personavec.stats.numbers import Floats
from personavec.texts import TOKENS
from personavec.traits import Trait, load_trait

SHOWS = 50.0  # the outside score above which an answer shows the trait


def main() -> None:
    parser = arguments(str(__doc__).splitlines()[0], model=True)
    parser.add_argument("scored", type=Path, help="folder of TRAIT.csv")
    parser.add_argument("--answers", type=int, default=40, help="of each side and trait, drawn at random")
    chosen = parser.parse_args()
    model = load_model(chosen.model)
    probes = ProbeModel(model, "library", "probe")
    rows = [
        row
        for path in sorted(chosen.scored.glob("*.csv"))
        for row in of_trait(model, probes, load_trait(path.stem), path, chosen.answers)
    ]
    publish(
        "judges",
        "Judges against an outside judge's scores",
        ("trait", "judge", "Spearman, all", "Spearman, told to only", "AUC, outside score above 50", "scored"),
        rows,
        [
            f"{model.id}. Answers of another model, up to {chosen.answers} told to show the trait and as many told not "
            f"to, drawn at random; the first {TOKENS} tokens are read. Brackets: 95 % intervals from resampling "
            "questions, of which there are few: they are wide, and somewhat too narrow still.",
            "Ranks are taken once, over all answers of a cell. A cell without a figure had too few answers of one kind.",
            "The outside judge is a large language model with a rubric, no person. Where nearly all told answers have "
            "one score, the rank among them says little of any judge.",
        ],
        chosen.write,
        model.device,
        timed=False,
    )


def of_trait(model: ChatModel, probes: ProbeModel, trait: Trait, path: Path, count: int) -> list[tuple[str, ...]]:
    """A row for each judge."""
    answers, outside = drawn(model, path, count)
    told = np.array([answer.side == "positive" for answer in answers])
    questions = [answer.question for answer in answers]
    shown: list[tuple[str, ...]] = []
    for name, found in by_judge(model, probes, trait, answers).items():
        known = np.isfinite(found)
        cells = (
            ranks(found, outside, questions, known),
            ranks(found, outside, questions, known & told),
            tells_apart(found, outside, questions, known),
        )
        words = ["" if cell is None else f"{cell.mean:.2f} [{cell.low:.2f}, {cell.high:.2f}]" for cell in cells]
        shown.append(
            (trait.name, name, *words, f"{int(known.sum())} of {len(answers)}, {len(set(questions))} questions")
        )
    return shown


def drawn(model: ChatModel, path: Path, count: int) -> tuple[list[Rollout], Floats]:
    """Answers of both sides, and their outside scores (n,)."""
    with path.open(encoding="utf-8", newline="") as file:
        lines = [line for line in csv.DictReader(file) if line["answer"].strip() and line["score"]]
    sides = {side: [line for line in lines if line["side"] == side] for side in ("pos", "neg")}
    order = random.Random(0)
    chosen = [line for some in sides.values() for line in order.sample(some, min(count, len(some)))]
    places = {question: place for place, question in enumerate(dict.fromkeys(line["question"] for line in chosen))}
    answers = [
        Rollout(
            id=str(number),
            stage="text",
            question=line["question"],
            question_index=places[line["question"]],
            prompt_ids=model.prompt_ids([{"role": "user", "content": line["question"]}]),
            side="positive" if line["side"] == "pos" else "negative",
            response_ids=model.template.answer_ids(line["answer"])[:TOKENS],
            text=line["answer"],
        )
        for number, line in enumerate(chosen)
    ]
    return answers, np.array([float(line["score"]) for line in chosen])


def by_judge(model: ChatModel, probes: ProbeModel, trait: Trait, answers: Sequence[Rollout]) -> Mapping[str, Floats]:
    """What each says (n,) of the answers; NaN where it says nothing."""
    probes.of_trait(trait).score(answers)
    probe = [np.nan if answer.score is None else answer.score for answer in answers]
    one, three = (read_evidence(model, trait, answers, pairs=pairs) for pairs in (1, 3))
    return {
        "probe": np.array(probe),
        "contrast, one pair": np.array(one),
        "contrast, three pairs": np.array(three),
        "length": np.array([float(len(answer.text)) for answer in answers]),
        "exclamation marks": np.array([float(answer.text.count("!")) for answer in answers]),
    }


def ranks(found: Floats, outside: Floats, questions: Sequence[str], use: np.ndarray) -> Estimate | None:
    """Rank correlation over the answers that are used."""
    if use.sum() < 3:
        return None
    clusters = [question for question, used in zip(questions, use, strict=True) if used]
    return bootstrap_pearson(rankdata(found[use]), rankdata(outside[use]), clusters)


def tells_apart(found: Floats, outside: Floats, questions: Sequence[str], known: np.ndarray) -> Estimate | None:
    """How well it tells answers that show the trait, to the outside judge, from those that do not."""
    shows, lacks = known & (outside > SHOWS), known & (outside <= SHOWS)
    if not (shows.any() and lacks.any()):
        return None
    asked = [[question for question, used in zip(questions, side, strict=True) if used] for side in (shows, lacks)]
    return bootstrap_auc(found[shows], found[lacks], *asked)


if __name__ == "__main__":
    main()
