"""A chat model on this machine as judge: the expected value of the number it is about to write."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from personavec.judges import Answered
from personavec.judges.rubric import Prompt, coherence_prompt, expected_score, trait_prompt, whole_number
from personavec.model import ChatModel, load_model
from personavec.progress import progress
from personavec.traits import Trait

BATCH = 32  # prompts whose next-token probabilities (vocabulary-sized rows) are held at once
FLOOR = (
    1e-3  # a beginning less likely than this is not followed up: it moves no score by more than a fraction of a point
)
LONGEST = 4  # tokens at most: white space, three digits

_SPACES = str.maketrans({"▁": " ", "Ġ": " ", "Ċ": "\n"})  # how tokenizers spell white space in their vocabulary


@dataclass(frozen=True)
class Beginning:
    """What the judge may have written so far.

    Attributes:
        item: Whom it judges.
        ids: The prompt and what follows it.
        digits: The digits among what follows it.
        probability: Of what follows the prompt.
    """

    item: int
    ids: list[int]
    digits: str
    probability: float


class Numerals:
    """The tokens of a vocabulary that can be part of a number.

    Attributes:
        first: Digits by token id, for tokens that may begin a number; white space in front does not matter.
        later: The same for tokens that may go on with one: digits alone.
        going_on: Ids of all tokens that begin with a digit; a number has ended where none of them comes next.
        blank: Ids of tokens of white space only, which may stand before a number.
    """

    def __init__(self, vocabulary: dict[str, int]) -> None:
        texts = {index: token.translate(_SPACES) for token, index in vocabulary.items()}
        self.first = {i: text.strip() for i, text in texts.items() if whole_number(text) is not None}
        self.later = {i: text for i, text in texts.items() if re.fullmatch(r"[0-9]{1,2}", text)}
        self.going_on = [i for i, text in texts.items() if re.match(r"[0-9]", text)]
        self.blank = [i for i, text in texts.items() if text and not text.strip()]


class LocalJudge:
    """Scores by the probabilities of the numbers a model would reply with, whatever tokens it writes them in.

    A tokenizer may have a token for every number, or only for digits ("8", "5"). Both are read as one tree: the
    probability of "85" is that of the token 85, and that of 8 times that of 5 after it. A number that a further digit
    could extend within 0..100 (1 to 9, and 10) counts as ended only as far as no digit follows.

    Args:
        model: The judge.
        prompt: Writes what it is asked about an answer.
        name: What the user calls it.
    """

    def __init__(self, model: ChatModel, prompt: Prompt, name: str) -> None:
        self.model, self.prompt, self.name = model, prompt, name
        self._numerals = Numerals(model.tokenizer.get_vocab())

    def score(self, items: Sequence[Answered]) -> list[float | None]:
        """One score 0..100 per item; None where less than a quarter of the probability lies on numbers.

        Raises:
            UserError: A prompt does not fit the judge's context.
        """
        scores: list[float | None] = []
        with progress(f"Asking {self.name}", total=len(items), unit="answers") as job:
            for start in range(0, len(items), BATCH):
                chunk = items[start : start + BATCH]
                scores += [expected_score(numbers) for numbers in self.probabilities(chunk)]
                job.advance(len(chunk))
        return scores

    def probabilities(self, items: Sequence[Answered]) -> list[dict[str, float]]:
        """For each item, how likely the judge's reply is to begin with each number 0..100."""
        found: list[dict[str, float]] = [{} for _ in items]
        open_: list[Beginning] = []
        for index, item in enumerate(items):
            ids = self.model.prompt_ids([{"role": "user", "content": self.prompt(item)}])
            ids = ids + self.model.template.lead
            self.model.check_fits(len(ids), LONGEST)
            open_.append(Beginning(index, ids, "", 1.0))
        blank_allowed = True
        while open_:
            deeper: list[Beginning] = []
            for start in range(0, len(open_), BATCH):
                batch = open_[start : start + BATCH]
                rows = self.model.next_token_logprobs([beginning.ids for beginning in batch]).exp()
                for beginning, row in zip(batch, rows, strict=True):
                    numbers = found[beginning.item]
                    if beginning.digits:
                        ended = 1 - float(row[self._numerals.going_on].sum())
                        _add(numbers, beginning.digits, beginning.probability * max(0.0, ended))
                    tokens = self._numerals.later if beginning.digits else self._numerals.first
                    parts = [(i, beginning.digits + more) for i, more in tokens.items()]
                    if blank_allowed:
                        parts += [(i, "") for i in self._numerals.blank]
                    likelihoods = row[[i for i, _ in parts]].tolist()
                    for (i, digits), likelihood in zip(parts, likelihoods, strict=True):
                        probability = beginning.probability * likelihood
                        if digits and whole_number(digits) is None:
                            continue
                        if digits and not _extensible(digits):
                            _add(numbers, digits, probability)
                        elif probability >= FLOOR:
                            deeper.append(Beginning(beginning.item, [*beginning.ids, i], digits, probability))
            open_, blank_allowed = deeper, False
        return found


def local_judges(
    which: str, trait: Trait, load: Callable[[str], ChatModel] = load_model
) -> tuple[LocalJudge, LocalJudge]:
    """A judge for the trait and one for coherence, with one model.

    Args:
        which: Anything that `load_model` takes.
        load: Loads it.

    Raises:
        UserError: The model cannot be loaded.
    """
    model = load(which)
    name = f"local:{which}"
    return LocalJudge(model, trait_prompt(trait), name), LocalJudge(model, coherence_prompt, name)


def _extensible(digits: str) -> bool:
    return digits == "10" or (len(digits) == 1 and digits != "0")


def _add(numbers: dict[str, float], digits: str, probability: float) -> None:
    numbers[digits] = numbers.get(digits, 0.0) + probability
