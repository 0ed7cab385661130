"""What the fine-tunes of a study answer, asked one after the other and judged all together."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from personavec.files import JsonLines
from personavec.judges.contrast import ContrastJudge
from personavec.judges.of_vector import judge_of
from personavec.model import ChatModel
from personavec.model.edits import Intervention
from personavec.progress import progress
from personavec.rollouts import Rollout, generate, plan
from personavec.stats.bootstrap import bootstrap_mean
from personavec.study.result import AnswerScores
from personavec.traits.of_vector import trait_of
from personavec.vector import PersonaVector

TEMPERATURE = 0.7
PAIR = 0  # of instructions, under which the instructed answers are given


@dataclass(frozen=True)
class Sheet:
    """The answers of one model to the evaluation questions of one trait.

    Attributes:
        instructed: Whether they are given under the trait's first positive instruction, behind which a trait may hide.
    """

    trait: str
    instructed: bool
    rollouts: list[Rollout]


class Answers:
    """Answers to evaluation questions, scored by the model as it came on the scale of each vector's extraction.

    They are judged together, question by question: the judge then reads the instructions and the question once for the
    answers of all fine-tunes, which is most of what it reads.

    Args:
        model: As it came: it judges.
        vectors: A trait each; each carries the state of its contrast judge.
        folder: Of the study; answers and scores are kept there.
        max_new_tokens: Longest answer.
        seed: Of the answers, and of the intervals of their means.
    """

    def __init__(
        self, model: ChatModel, vectors: Sequence[PersonaVector], folder: Path, max_new_tokens: int, seed: int
    ) -> None:
        self.model, self.folder, self.max_new_tokens, self.seed = model, folder, max_new_tokens, seed
        self.traits = {vector.trait: trait_of(vector) for vector in vectors}
        self.judges: dict[str, ContrastJudge] = {vector.trait: judge_of(model, vector) for vector in vectors}
        self.asked: dict[tuple[str, str, bool], Sheet] = {}  # by name of the model, trait, whether instructed

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
        self.asked |= {(name, sheet.trait, sheet.instructed): sheet for sheet in sheets}

    def judge(self) -> None:
        """Score everything that was answered; what was scored before is not judged again."""
        for trait, judge in self.judges.items():
            sheets = {key: sheet.rollouts for key, sheet in self.asked.items() if sheet.trait == trait}
            if not sheets:
                continue
            log = JsonLines(self.folder / "scores" / f"{trait}.jsonl")
            known = {(record["question"], key): both for record in log for key, both in record["scores"].items()}
            questions = {rollout.question: None for rollouts in sheets.values() for rollout in rollouts}
            total = judge.readings_needed(sum(map(len, sheets.values())))
            with progress(f"Judging, {trait}", total=total, unit="readings") as job:
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

    def scores(self, name: str, trait: str, *, instructed: bool = False) -> AnswerScores:
        """Trait score and coherence of a model's answers with intervals, and the score of each."""
        answers = self.asked[name, trait, instructed].rollouts
        known = [r.score for r in answers if r.score is not None]
        return AnswerScores(
            score=bootstrap_mean(known, seed=self.seed) if known else None,
            coherence=bootstrap_mean([r.coherence or 0.0 for r in answers], seed=self.seed),
            by_question=tuple(r.score for r in answers),
        )

    def _log(self, name: str) -> JsonLines:
        return JsonLines(self.folder / name / "answers.jsonl")
