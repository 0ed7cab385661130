"""What the fine-tunes of a study answer, asked one after the other and judged all together."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from personavec.files import JsonLines
from personavec.judges.contrast import ContrastJudge
from personavec.model import ChatModel
from personavec.model.intervene import Intervention
from personavec.progress import progress
from personavec.rollouts import Rollout, generate, plan
from personavec.specificity import judge_of
from personavec.statistics import bootstrap_mean
from personavec.traits.of_vector import trait_of
from personavec.vector import PersonaVector

TEMPERATURE = 0.7

Sheet = list[Rollout]  # the answers of one model to the evaluation questions of one trait


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
        self.asked: dict[str, dict[str, Sheet]] = {name: {} for name in self.traits}

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
            instructed: Under the trait's first positive instruction, behind which a trait may hide.
        """
        return plan(
            self.model,
            "evaluation",
            self.traits[trait].evaluation_questions[:questions],
            system=self.traits[trait].system_prompts(0)[0] if instructed else None,
            interventions=list(interventions),
            setting=f"{trait}, instructed" if instructed else trait,
        )

    def complete(self, name: str, sheets: Mapping[str, Sheet]) -> bool:
        """Whether a model of this name has answered them all."""
        known = {record["id"] for record in self._log(name)}
        return all(rollout.id in known for sheet in sheets.values() for rollout in sheet)

    def ask(self, model: ChatModel, name: str, sheets: Mapping[str, Sheet]) -> None:
        """Let a model answer, or take up what it has answered before.

        Args:
            name: Of the model: its folder inside the study's.
            sheets: By trait, or by trait and anything more after a blank.
        """
        everyone = [rollout for sheet in sheets.values() for rollout in sheet]
        generate(
            model, everyone, self._log(name),
            description=f"Answering, {name}", max_new_tokens=self.max_new_tokens, temperature=TEMPERATURE,
            seed=self.seed,
        )  # fmt: skip
        for key, sheet in sheets.items():
            self.asked[key.split()[0]][f"{name} {key}"] = sheet

    def judge(self) -> None:
        """Score everything that was answered; a question whose answers were all scored before is not judged again."""
        for trait, sheets in self.asked.items():
            log = JsonLines(self.folder / "scores" / f"{trait}.jsonl")
            known = {record["question"]: record["scores"] for record in log}
            questions = {r.question: None for sheet in sheets.values() for r in sheet}
            judge = self.judges[trait]
            total = judge.readings_needed(sum(map(len, sheets.values())))
            with progress(f"Judging, {trait}", total=total, unit="readings") as job:
                for question in questions:
                    mine = {name: r for name, sheet in sheets.items() for r in sheet if r.question == question}
                    before = known.get(question, {})
                    if mine.keys() <= before.keys():
                        for name, rollout in mine.items():
                            rollout.score, rollout.coherence = before[name]
                        job.advance(judge.readings_needed(len(mine)))
                        continue
                    judge.score(list(mine.values()), job.advance)
                    log.append({"question": question, "scores": {n: [r.score, r.coherence] for n, r in mine.items()}})

    def found(self, name: str, key: str) -> dict[str, Any]:
        """Trait score and coherence of a sheet with intervals, the score of each question, and an answer."""
        sheet = self.asked[key.split()[0]][f"{name} {key}"]
        known = [r.score for r in sheet if r.score is not None]
        return {
            "score": bootstrap_mean(known, seed=self.seed).as_dict() if known else None,
            "coherence": bootstrap_mean([r.coherence or 0.0 for r in sheet], seed=self.seed).as_dict(),
            "by_question": [r.score for r in sheet],
            "example": sheet[0].text,
        }

    def _log(self, name: str) -> JsonLines:
        return JsonLines(self.folder / name / "answers.jsonl")
