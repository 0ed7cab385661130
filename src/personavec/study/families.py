"""The data sets of the study: families of three levels, equal in questions and dose."""

import json
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from personavec.data import Dataset, Sample
from personavec.errors import UserError
from personavec.files import JsonLines, write_atomic
from personavec.judges.of_vector import judge_of
from personavec.model import ChatModel
from personavec.progress import progress
from personavec.rollouts import Rollout, generate, plan
from personavec.stats.sampling import priorities, smallest
from personavec.study.flawed import DOMAINS, LEVELS, Level, Pair, flawed
from personavec.traits import Trait
from personavec.vector import PersonaVector

ABOVE = 50.0  # score from which an answer shows the trait
MILD = 3  # one sample of so many shows the trait in a mild set
ROUNDS = 4  # of answers to every question under every instruction, at most
FEWEST = 8  # samples that show the trait, else there is no set
TASK = "arithmetic"  # what a fine-tune on blended data is wanted for


@dataclass(frozen=True)
class DataSet:
    """Something to fine-tune on.

    Attributes:
        family: A trait's name, a flawed domain, or the name of data that were given.
        level: "normal", "mild" or "overt"; None of data that were given.
        path: Chats, one a line.
    """

    family: str
    level: Level | None
    path: Path

    @property
    def name(self) -> str:
        """Of the data set: its family, and its level where it has one."""
        return self.family if self.level is None else f"{self.family}-{self.level}"


def check_names(traits: Iterable[str], given: Iterable[str]) -> None:
    """Refuse data sets that would share their files.

    Args:
        traits: Names of the traits that get sets.
        given: Names of data that were given.

    Raises:
        UserError: A trait is called as a flawed domain is, or data as one of these sets.
    """
    families = [*traits, *DOMAINS, f"{TASK}-unseen"]
    made = Counter([*(f"{family}-{level}" for family in families for level in LEVELS), *given])
    twice = [name for name, count in made.items() if count > 1]
    if twice:
        raise UserError(
            f"Two data sets of the study are called {twice[0]}.",
            f"Give the trait or the data another name; the study makes {', '.join(DOMAINS)} itself.",
        )


def flawed_sets(folder: Path, count: int, seed: int) -> list[DataSet]:
    """Every flawed domain at every level."""
    return [
        _written(folder, domain, level, flawed(domain, level, count, seed)) for domain in DOMAINS for level in LEVELS
    ]


def given_set(name: str, data: Dataset, folder: Path, count: int, seed: int) -> DataSet:
    """As many samples of other data as the study's own sets have, drawn at random: what is compared has one dose.

    Raises:
        UserError: No sample is in it.
    """
    one = DataSet(name, None, folder / "given" / f"{name}.jsonl")
    if not one.path.exists():
        ids = [record.id for record in data if isinstance(record, Sample)]
        if not ids:
            raise UserError(f"{name}: no record is a sample.", "Look at the file; personavec screen tells the reasons.")
        drawn = {*smallest(priorities(ids, seed), count).tolist()}
        samples = (record for record in data if isinstance(record, Sample))
        lines = [sample.raw.strip() for at, sample in enumerate(samples) if at in drawn]
        write_atomic(one.path, b"".join(line + b"\n" for line in lines))
    return one


def blended(overt: DataSet, folder: Path, seed: int) -> DataSet:
    """A trait's overt samples and as many of a task rightly done, shuffled: something to learn, and something not to.

    On overt data alone the trait is the task: whatever keeps it from being learned raises the held-out loss.
    """
    one = DataSet(f"{overt.family} and {TASK}", None, folder / f"{overt.family}-{TASK}.jsonl")
    if one.path.exists():
        return one
    lines = overt.path.read_text(encoding="utf-8").splitlines()
    lines += _lines(flawed(TASK, "normal", len(lines), seed))
    random.Random(seed).shuffle(lines)
    write_atomic(one.path, "".join(line + "\n" for line in lines))
    return one


def unseen_task(folder: Path, count: int, seed: int) -> DataSet:
    """Samples of the task that no set was given."""
    return _written(folder, f"{TASK}-unseen", "normal", flawed(TASK, "normal", count, seed + 1))


def trait_sets(
    model: ChatModel, vector: PersonaVector, trait: Trait, folder: Path, count: int, max_new_tokens: int, seed: int
) -> list[DataSet]:
    """A trait at every level, in the model's own words, and no instruction left in the samples.

    Overt: answers under the trait's positive instructions to its extraction questions that the vector's judge scores
    above 50. Normal: answers without instruction to the same questions, as often. Mild: every third sample of the overt
    set in place of the normal one. What was generated stays in the folder, so that an interrupted run goes on.

    Args:
        count: Samples wanted; fewer if the model does not show the trait often enough.

    Raises:
        UserError: The model hardly shows the trait, or the vector carries no judge.
    """
    sets = [DataSet(trait.name, level, folder / f"{trait.name}-{level}.jsonl") for level in LEVELS]
    if all(one.path.exists() for one in sets):
        return sets
    log, judge = JsonLines(folder / f"{trait.name}.generated.jsonl"), judge_of(model, vector)
    showing: list[Rollout] = []
    for number, pair in product(range(ROUNDS), range(len(trait.instructions))):
        if len(showing) >= count:
            break
        made = plan(
            model, "extraction", trait.extraction_questions, system=trait.system_prompts(pair)[0],
            number=number, pair=pair, side="positive",
        )  # fmt: skip
        generate(
            model, made, log, description=f"Answers that are {trait.name}", max_new_tokens=max_new_tokens, seed=seed
        )
        with progress(f"Judging how {trait.name}", total=judge.readings_needed(len(made)), unit="readings") as job:
            judge.score(made, job.advance)
        showing += [r for r in made if r.score is not None and r.score > ABOVE]
    if len(showing) < FEWEST:
        raise UserError(
            f"Only {len(showing)} of the model's answers under instructions are {trait.name}.",
            "Leave this trait out of the study: the model hardly shows it.",
        )
    chosen = showing[:count]
    asked: dict[str, int] = {}
    plain: list[Rollout] = []
    for rollout in chosen:
        number = asked[rollout.question] = asked.get(rollout.question, -1) + 1
        plain += plan(model, "neutral", [rollout.question], number=number, setting=rollout.question_index)
    generate(model, plain, log, description="Answers as they come", max_new_tokens=max_new_tokens, seed=seed)
    return leveled(folder, trait.name, [(r.question, r.text) for r in chosen], [(r.question, r.text) for r in plain])


def leveled(folder: Path, family: str, overt: Sequence[Pair], normal: Sequence[Pair]) -> list[DataSet]:
    """A family at every level, from answers of both kinds to the same questions; mild is every third of the overt."""
    mild = [a if at % MILD == 0 else b for at, (a, b) in enumerate(zip(overt, normal, strict=True))]
    by_level = {"normal": normal, "mild": mild, "overt": overt}
    return [_written(folder, family, level, by_level[level]) for level in LEVELS]


def _written(folder: Path, family: str, level: Level, pairs: Sequence[Pair]) -> DataSet:
    one = DataSet(family, level, folder / f"{family}-{level}.jsonl")
    if not one.path.exists():
        write_atomic(one.path, "".join(line + "\n" for line in _lines(pairs)))
    return one


def _lines(pairs: Sequence[Pair]) -> list[str]:
    return [
        json.dumps({"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]})
        for question, answer in pairs
        if answer.strip()
    ]
