"""What the fine-tunes of a study answer, asked one after the other and judged all together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from personavec.files import JsonLines
from personavec.judges.base import Judge
from personavec.model import ChatModel
from personavec.model.edits import Intervention
from personavec.progress import progress
from personavec.rollouts import Rollout, generate, plan
from personavec.stats.bootstrap import bootstrap_mean
from personavec.study.jury import jury
from personavec.study.result import AnswerScores, OtherScores
from personavec.traits.of_vector import trait_of
from personavec.vector import PersonaVector

TEMPERATURE = 0.7
PAIR = 0  # of instructions, under which the instructed answers are given

Key = tuple[str, str, bool]  # name of the model, trait, whether instructed


@dataclass(frozen=True)
class Sheet:
    """The answers of one model to the evaluation questions of one trait.

    Attributes:
        instructed: Whether they are given under the trait's first positive instruction, behind which a trait may hide.
        scored: Once answered, the same with the scores of each judge, by its name.
    """

    trait: str
    instructed: bool
    rollouts: list[Rollout]
    scored: dict[str, list[Rollout]] = field(default_factory=dict)


class Answers:
    """Answers to evaluation questions, scored by the model as it came on the scale of each vector's extraction.

    They are judged together, question by question: a judge then reads the instructions and the question once for the
    answers of all fine-tunes, which is most of what it reads.

    Args:
        model: As it came: it judges.
        vectors: A trait each; each carries the state of its contrast judge. See `jury`.
        folder: Of the study; answers and scores are kept there.
        max_new_tokens: Longest answer.
        seed: Of the answers, and of the intervals of their means.
    """

    def __init__(
        self, model: ChatModel, vectors: Sequence[PersonaVector], folder: Path, max_new_tokens: int, seed: int
    ) -> None:
        self.model, self.folder, self.max_new_tokens, self.seed = model, folder, max_new_tokens, seed
        self.traits = {vector.trait: trait_of(vector) for vector in vectors}
        self.juries: dict[str, dict[str, Judge]] = {}
        with progress("Making the judges", total=len(vectors), unit="traits") as job:
            for vector in vectors:
                self.juries[vector.trait] = jury(model, vector)
                job.advance(1)
        self.asked: dict[Key, Sheet] = {}

    def sheet(
        self,
        trait: str,
        questions: int | None = None,
        *,
        instructed: bool = False,
        interventions: Sequence[Intervention] = (),
    ) -> Sheet:
        """A trait's first evaluation questions (None: all), not answered yet.

        Args:
            instructed: Under the trait's first positive instruction, behind which a trait may hide. The instructions of
                that pair do not judge these answers.
        """
        made = plan(
            self.model,
            "evaluation",
            self.traits[trait].evaluation_questions[:questions],
            system=self.traits[trait].system_prompts(PAIR)[0] if instructed else None,
            interventions=list(interventions),
            setting=f"{trait}, instructed" if instructed else trait,
        )
        for rollout in made:  # after planning: the setting tells them apart already, and an id of old stays valid
            rollout.pair = PAIR if instructed else None
        return Sheet(trait, instructed, made)

    def complete(self, name: str, sheets: Sequence[Sheet]) -> bool:
        """Whether a model of this name has answered them all."""
        known = {record["id"] for record in self._log(name)}
        return all(rollout.id in known for sheet in sheets for rollout in sheet.rollouts)

    def ask(self, model: ChatModel, name: str, sheets: Sequence[Sheet]) -> None:
        """Let a model answer, or take up what it has answered before.

        Args:
            name: Of the model: its folder inside the study's.
        """
        everyone = [rollout for sheet in sheets for rollout in sheet.rollouts]
        generate(
            model, everyone, self._log(name),
            description=f"Answering, {name}", max_new_tokens=self.max_new_tokens, temperature=TEMPERATURE,
            seed=self.seed,
        )  # fmt: skip
        for sheet in sheets:
            sheet.scored.update({judge: [replace(r) for r in sheet.rollouts] for judge in self.juries[sheet.trait]})
        self.asked |= {(name, sheet.trait, sheet.instructed): sheet for sheet in sheets}

    def judge(self) -> None:
        """Score everything that was answered; what was scored before is not judged again."""
        for trait, judges in self.juries.items():
            sheets = {key: sheet for key, sheet in self.asked.items() if sheet.trait == trait}
            for name, judge in judges.items():
                title = f"Judging, {trait}" + (f", by {name}" if len(judges) > 1 else "")
                mine = {key: sheet.scored[name] for key, sheet in sheets.items()}
                _judge(judge, mine, JsonLines(self.folder / "scores" / name / f"{trait}.jsonl"), title)

    def scores(self, name: str, trait: str, *, instructed: bool = False) -> AnswerScores:
        """Trait score and coherence of a model's answers with intervals, and the score of each."""
        scored = self.asked[name, trait, instructed].scored
        *_, coherence = scored.values()
        first, *others = (self._opinion(answers) for answers in scored.values())
        return AnswerScores(
            **dict(first),
            coherence=bootstrap_mean([r.coherence or 0.0 for r in coherence], seed=self.seed),
            others=dict(zip([*scored][1:], others, strict=True)),
        )

    def _opinion(self, answers: Sequence[Rollout]) -> OtherScores:
        by_question = tuple(r.score for r in answers)
        known = [score for score in by_question if score is not None]
        return OtherScores(score=bootstrap_mean(known, seed=self.seed) if known else None, by_question=by_question)

    def _log(self, name: str) -> JsonLines:
        return JsonLines(self.folder / name / "answers.jsonl")


def _judge(judge: Judge, sheets: Mapping[Key, Sequence[Rollout]], log: JsonLines, title: str) -> None:
    """Let one judge score the answers of all models to the questions of one trait, question by question."""
    known = {(record["question"], key): both for record in log for key, both in record["scores"].items()}
    questions = {rollout.question: None for rollouts in sheets.values() for rollout in rollouts}
    with progress(title, total=judge.readings_needed(sum(map(len, sheets.values()))), unit="readings") as job:
        for question in questions:
            # Scores in which the pair of the answer's own instruction had a say do not bear this name.
            mine = {
                f"{name}, instructed by pair {PAIR}" if instructed else name: rollout
                for (name, _, instructed), rollouts in sheets.items()
                for rollout in rollouts
                if rollout.question == question
            }
            new = {key: rollout for key, rollout in mine.items() if (question, key) not in known}
            for key in mine.keys() - new.keys():
                mine[key].score, mine[key].coherence = known[question, key]
            job.advance(judge.readings_needed(len(mine) - len(new)))
            if new:
                judge.score(list(new.values()), job.advance)
                scores = {key: [rollout.score, rollout.coherence] for key, rollout in new.items()}
                log.append({"question": question, "scores": scores})
