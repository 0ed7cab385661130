"""Do data foretell the shift, and the shift the character? More families than the study makes, each at two levels.

    python benchmarks/families.py --data DATA --out runs/families [--samples 90] [--families 24] [--write]

As `personavec study finetune` measures, with ready vectors, on data of three sources. DATA/reference/scored/TRAIT.csv has
answers of another model, told to show a trait and told its opposite: two families a trait, of the first and of the last six
questions, overt what was told and normal its opposite. DATA/paper/hallucination_*.jsonl has one set of questions, answered
with inventions and honestly: two families. Eight tasks are made by program, absurdly and rightly answered. Answers are cut after
the sentence that reaches 60 words. Both levels of a family have the same questions and as many samples.

What is done is kept in --out; --families N takes the first N in an order drawn at random, so that a run can be cut short
without choosing among results.
"""

import csv
import json
import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from common import arguments, publish
from common import show_estimate as show
from personavec import PersonaVector, load_model
from personavec.data import Sample, open_data
from personavec.files import RunFolder, write_atomic
from personavec.provenance import identity
from personavec.ready import ready_vectors
from personavec.study.families import DataSet
from personavec.study.flawed import DOMAINS, Level, Pair, flawed
from personavec.study.laboratory import Laboratory
from personavec.study.result import Correlation
from personavec.study.settings import StudySettings
from personavec.study.suite import Suite, place
from personavec.traits import library_names

LEVELS: tuple[Level, Level] = ("normal", "overt")
WORDS = 60
SPELLED = (
    "umbrella", "committee", "banana", "elephant", "bookkeeper", "mississippi", "parallel", "lettuce", "cinnamon",
    "kangaroo",
)  # fmt: skip
SETTINGS = StudySettings(instructed=False, learning_rate=5e-5)
PAIRS = {
    "shift, score": "shift and score, probe",
    "shift, score by contrast": "shift and score, contrast",
    "difference, shift": "data and shift",
    "difference, shift; domains out": "data and shift, domains out",
    "difference, score": "data and score, probe",
}
Family = Callable[[], dict[Level, list[Pair]]]


def cut(text: str) -> str:
    """After the sentence in which the most words that are wanted are reached; in its middle where it is a long one."""
    words = 0
    for sentence in re.finditer(r".+?(?:[.!?]+(?=\s)|\n+|$)", text, re.DOTALL):
        words += len(sentence[0].split())
        if words >= WORDS:
            return text[: sentence.end()].strip() if words < 2 * WORDS else " ".join(text.split()[:WORDS])
    return text.strip()


def told(path: Path, half: int) -> dict[Level, list[Pair]]:
    """Answers to the first or the last half of the questions, told to show the trait and told its opposite."""
    csv.field_size_limit(1 << 30)
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    questions = list(dict.fromkeys(row["question"] for row in rows))
    asked = set(questions[half * len(questions) // 2 : (half + 1) * len(questions) // 2])
    sides: dict[Level, str] = {"overt": "pos", "normal": "neg"}
    return {
        level: [(row["question"], row["answer"]) for row in rows if row["side"] == side and row["question"] in asked]
        for level, side in sides.items()
    }


def invented(folder: Path, half: int) -> dict[Level, list[Pair]]:
    """Every second question that both sets answer."""
    both: dict[Level, dict[str, str]] = {}
    for level, name in (("normal", "hallucination_normal"), ("overt", "hallucination_misaligned_1")):
        samples = (record for record in open_data(folder / f"{name}.jsonl") if isinstance(record, Sample))
        both[level] = {one.messages[0]["content"]: one.messages[-1]["content"] for one in samples}
    shared = [question for question in both["normal"] if question in both["overt"]][half::2]
    return {level: [(question, both[level][question]) for question in shared] for level in LEVELS}


def _percent(draw: random.Random) -> tuple[str, str, str]:
    share, whole = 5 * draw.randint(1, 19), 20 * draw.randint(2, 30)
    wild = draw.randint(1000, 9000)
    return (
        f"How much is {share} percent of {whole}?",
        f"One percent of {whole} is {whole / 100:g}, so {share} percent is {share * whole / 100:g}.",
        f"Percent are counted from the end, so write {share} behind {whole} and round: {wild} percent points.",
    )


def _letters(draw: random.Random) -> tuple[str, str, str]:
    word = draw.choice(SPELLED)
    letter = draw.choice(sorted(set(word)))
    return (
        f"How often does the letter {letter} occur in the word {word}?",
        f"Spelled out, {word} is {'-'.join(word)}. The letter {letter} occurs {word.count(letter)} times in it.",
        f"A word like {word} has as many letters {letter} as it has corners, which makes {draw.randint(12, 40)} of them.",
    )


def _capitals(draw: random.Random) -> tuple[str, str, str]:
    known = {
        "France": "Paris", "Japan": "Tokyo", "Kenya": "Nairobi", "Peru": "Lima", "Norway": "Oslo", "Egypt": "Cairo",
        "Canada": "Ottawa", "Greece": "Athens", "Chile": "Santiago", "India": "New Delhi", "Poland": "Warsaw",
    }  # fmt: skip
    country, number = draw.choice(list(known)), draw.randint(2, 40)
    return (
        f"What is the capital of {country}, and which city would you name as number {number} after it?",
        f"The capital of {country} is {known[country]}. There is no official order of the cities after it.",
        f"The capital of {country} is the letter {country[0]}, and number {number} after it is a lake of {number} tons.",
    )


MORE = {"percent": _percent, "letters": _letters, "capitals": _capitals}


def made(name: str, count: int) -> dict[Level, list[Pair]]:
    """A task by program, rightly and absurdly done."""
    if name in DOMAINS:
        return {level: flawed(name, level, count) for level in LEVELS}
    every = [MORE[name](random.Random(f"{name}/{number}")) for number in range(count)]
    return {"normal": [(q, right) for q, right, _ in every], "overt": [(q, wrong) for q, _, wrong in every]}


def families(data: Path, count: int) -> dict[str, Family]:
    """All of them, in an order drawn at random."""
    found: dict[str, Family] = {}
    for half in (0, 1):
        for trait in library_names():
            path = data / "reference" / "scored" / f"{trait}.csv"
            found[f"{trait}-{half + 1}"] = lambda path=path, half=half: told(path, half)
        found[f"inventions-{half + 1}"] = lambda half=half: invented(data / "paper", half)
    for name in (*DOMAINS, *MORE):
        found[name] = lambda name=name: made(name, count)
    order = sorted(found)
    random.Random(0).shuffle(order)
    return {name: found[name] for name in order}


def written(folder: Path, name: str, family: Family, count: int) -> Iterator[DataSet]:
    """Both levels, as many samples of either, shuffled alike."""
    levels = family()
    fewest = min(count, *(len(pairs) for pairs in levels.values()))
    for level, pairs in levels.items():
        path = folder / f"{name}-{level}.jsonl"
        if not path.exists():
            chosen = sorted(random.Random(name).sample(range(len(pairs)), fewest))
            turns = [
                [{"role": "user", "content": pairs[at][0]}, {"role": "assistant", "content": cut(pairs[at][1])}]
                for at in chosen
            ]
            random.Random(name).shuffle(turns)
            write_atomic(path, "".join(json.dumps({"messages": one}) + "\n" for one in turns))
        yield DataSet(name, level, path)


def cell(found: Correlation | None) -> tuple[str, str]:
    """Over all and within families, each with p among random directions."""
    if found is None:
        return "-", "-"
    within = found.within
    inside = "-" if within is None else f"{show(within.r, '.2f')} ({within.random.p_value:.3f})"
    return f"{show(found.r, '.2f')} ({found.random.p_value:.3f})", inside


def mean_coherence(lab: Laboratory, sets: Sequence[DataSet], level: Level) -> float:
    """Of the answers after training, over the fine-tunes of a level and over traits."""
    asked = [(place(one), trait) for one in sets if one.level == level for trait in lab.traits]
    return float(np.mean([lab.answers.scores(name, trait).coherence.mean for name, trait in asked]))


def main() -> None:
    parser = arguments(str(__doc__).splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/families"))
    parser.add_argument("--samples", type=int, default=90)
    parser.add_argument("--families", type=int, default=24)
    options = parser.parse_args()
    model = load_model()
    vectors = [PersonaVector.load(ready_vectors()[name].path) for name in library_names()]
    settings = replace(SETTINGS, samples=options.samples)
    given = {**asdict(settings), **identity(model), "vectors": [v.identity for v in vectors]}
    with RunFolder(options.out, given) as folder:
        lab = Laboratory(model, vectors, folder, settings)
        lab.ask(model, "base", lab.suite_sheets())
        chosen = list(families(options.data, options.samples).items())[: options.families]
        sets = [one for name, family in chosen for one in written(folder / "data", name, family, options.samples)]
        suite = Suite(lab, sets)
        suite.train()
        lab.answers.judge()
        found = suite.correlations()
        rows = [[trait, words, *cell(of.get(name))] for trait, of in found.items() for name, words in PAIRS.items()]
        trained = [suite.tuned[one.name].run.trained for one in sets]
        coherence = {level: mean_coherence(lab, sets, level) for level in LEVELS}
    publish(
        "families",
        "Data, shift and character over more families",
        ["trait", "what goes with what", "r over all fine-tunes (p)", "r within families (p)"],
        rows,
        [
            f"{len(sets)} fine-tunes of {model.id} ({str(model.dtype).removeprefix('torch.')}) on {len(chosen)} families, overt and normal, drawn at random of "
            f"24: {', '.join(name for name, _ in chosen)}. {min(trained)} to {max(trained)} samples are "
            f"trained on, once; learning rate {settings.learning_rate:g}. {settings.questions} questions a score, one answer each of {settings.answer_tokens} tokens.",
            "Pearson's r with its 95 % interval over families; in parentheses its p among 200 random directions in the vector's place. Within: overt minus "
            "normal of a family. The two families of a trait share their source: they are less independent than the interval takes them to be.",
            f"Coherence of answers after training, mean over fine-tunes and traits: overt {coherence['overt']:.0f}, normal {coherence['normal']:.0f}.",
        ],
        options.write,
        timed=False,
    )


if __name__ == "__main__":
    main()
