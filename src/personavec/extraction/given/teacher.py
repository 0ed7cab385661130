"""Contrastive texts that a stronger model writes: told to show a trait, and told not to."""

import gc
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import JsonValue

from personavec.errors import UserError
from personavec.files import JsonLines, RunFolder, check_utf8, to_json, write_atomic
from personavec.judges.api.terms import ApiTerms
from personavec.judges.api.writer import Writer
from personavec.judges.base import announce
from personavec.model import load_model
from personavec.refusals import refuses
from personavec.rollouts import Side, generate, plan
from personavec.texts import Texts, read_texts
from personavec.traits import Trait

log = logging.getLogger(__name__)

ANSWERS = 2  # to each question on either side, under different instructions
LONGEST = 120  # tokens of an answer: more than are read of it
TEXTS, FOLDER = "texts.jsonl", "teacher"
SIDES: tuple[Side, ...] = ("positive", "negative")
KINDS = "local:MODEL or api:MODEL"


@dataclass(frozen=True)
class _Task:
    """One answer that is asked for.

    Attributes:
        place: Of the question among the trait's.
        pair: Of the instruction among the trait's.
    """

    question: str
    place: int
    pair: int
    side: Side
    instruction: str

    @property
    def chat(self) -> list[dict[str, str]]:
        """As messages."""
        return [{"role": "system", "content": self.instruction}, {"role": "user", "content": self.question}]


def taught_texts(
    trait: Trait,
    teacher: str,
    out: Path | str,
    *,
    terms: ApiTerms | None = None,
    device: str | None = None,
    dtype: str | None = None,
    seed: int = 0,
) -> Texts:
    """Contrastive texts for a trait, written by a model that can play it, for `extract_from_texts`.

    The trait's extraction questions are asked twice under its positive instructions and twice under its negative ones,
    and every other question is kept for the test half. Answers that refuse or are empty are left out, and counted. No
    judge looks at the others: that the test half is told apart says that the sides differ, not that they are the trait.

    Args:
        teacher: "local:MODEL" (anything that `load_model` takes; it is let go of before this returns) or "api:MODEL"
            (behind the endpoint that OPENAI_BASE_URL names, with the key in OPENAI_API_KEY).
        out: Run folder of the extraction: texts.jsonl goes there, in the form that `read_texts` takes, with what was
            left out and why. What was cut off goes on where it stopped; finished texts are read back.
        terms: Price and pace of an endpoint. What it will cost is said before anything is asked.
        device, dtype: Of a local teacher, see `load_model`.
        seed: Of a local teacher's answers.

    Raises:
        UserError: No such teacher, an endpoint that fails, texts of another teacher in the folder, or too few answers
            that do not refuse.
    """
    kind, _, which = teacher.partition(":")
    if kind not in ("local", "api") or not which:
        raise UserError(f"Unknown teacher {teacher!r}.", f"Choose {KINDS}.")
    check_utf8(out)
    tasks, path = _tasks(trait), Path(out) / TEXTS
    arguments: dict[str, JsonValue] = {"teacher": teacher, "trait": trait.model_dump(mode="json"), "seed": seed}
    with RunFolder(Path(out) / FOLDER, arguments) as folder:
        if not path.exists():
            if kind == "api":
                answers = _from_endpoint(which, tasks, terms or ApiTerms())
            else:
                answers = _from_model(which, tasks, JsonLines(folder / "log.jsonl"), device, dtype, seed)
            records = [_record(task, answer, teacher) for task, answer in zip(tasks, answers, strict=True)]
            write_atomic(path, "".join(to_json(record) + "\n" for record in records))
            _tell(teacher, records)
    return replace(read_texts(path), source=teacher)


def _tasks(trait: Trait) -> list[_Task]:
    pairs = trait.instructions
    return [
        _Task(question, place, pair, side, getattr(pairs[pair], side))
        for place, question in enumerate(trait.extraction_questions)
        for pair in [(place + number) % len(pairs) for number in range(ANSWERS)]
        for side in SIDES
    ]


def _from_endpoint(which: str, tasks: Sequence[_Task], terms: ApiTerms) -> list[str | None]:
    writer = Writer(which, LONGEST, price=terms.price, requests_per_minute=terms.requests_per_minute)
    chats = [task.chat for task in tasks]
    announce([writer.costs(chats)])
    return writer.texts(chats)


def _from_model(
    which: str, tasks: Sequence[_Task], answered: JsonLines, device: str | None, dtype: str | None, seed: int
) -> list[str | None]:
    """The model is gone when this returns: the one that is to read the texts need not share the memory with it."""
    model = load_model(which, device=device, dtype=dtype)
    rollouts = [
        plan(
            model, "teacher", [task.question],
            system=task.instruction, setting=str(task.place), pair=task.pair, side=task.side,
        )[0]
        for task in tasks
    ]  # fmt: skip
    generate(
        model, rollouts, answered,
        description=f"{which} writes texts", max_new_tokens=LONGEST, seed=seed,
    )  # fmt: skip
    del model
    gc.collect()
    return [rollout.text for rollout in rollouts]


def _record(task: _Task, answer: str | None, teacher: str) -> dict[str, JsonValue]:
    """As a line of the file. A text that is left out says why, and then it is no text to `read_texts`."""
    text = (answer or "").strip()
    why = "the teacher gave no answer" if not text else "the teacher refused" if refuses(text) else None
    return {
        "question": task.question,
        "answer": text,
        "side": task.side,
        "split": ("extract", "test")[task.place % 2],
        "instruction": task.instruction,
        "teacher": teacher,
        **({"left_out": why} if why else {}),
    }


def _tell(teacher: str, records: Sequence[dict[str, JsonValue]]) -> None:
    left_out = Counter((str(r["left_out"]), str(r["side"])) for r in records if "left_out" in r)
    reasons = "; ".join(f"{why} ({side} side) {count} times" for (why, side), count in sorted(left_out.items()))
    if left_out:
        log.warning("%s: %d of %d answers are left out: %s.", teacher, sum(left_out.values()), len(records), reasons)
