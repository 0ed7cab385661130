"""What the measure of coherence makes of natural answers, of spoilt ones, and of answers that a reader has marked.

    python benchmarks/coherence.py [--answers N] [--write]

Natural answers are the default model's own; half of them set the scale, the other half is spoilt in several ways, by
program. `coherence_marks.jsonl` holds 144 answers of the same model, natural, told to show a trait, or steered, each
marked by one reader who did not see the measure: 2 coherent, 1 partly, 0 not. The shape of the measure (stretches of 16
tokens, the powers) was chosen with these marks in view, so that its agreement with them is the upper end.
"""

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from scipy.stats import rankdata

from common import arguments, publish
from personavec import ChatModel, load_model
from personavec.judges.coherence import Coherence, worst_stretches
from personavec.model import Request
from personavec.rollouts import Rollout
from personavec.stats.bootstrap import bootstrap_auc, bootstrap_pearson
from personavec.traits import library_names, load_trait

MARKS = Path(__file__).with_name("coherence_marks.jsonl")
TOKENS = 64
WORDS = {2: "coherent", 1: "partly", 0: "not coherent"}

Spoil = Callable[[list[str], random.Random], list[str]]


def _shuffled(words: list[str], draw: random.Random) -> list[str]:
    return draw.sample(words, len(words))


def _half_shuffled(words: list[str], draw: random.Random) -> list[str]:
    middle = len(words) // 2
    return [*words[:middle], *draw.sample(words[middle:], len(words) - middle)]


def _phrase_again(words: list[str], draw: random.Random) -> list[str]:
    start, length = draw.randrange(5, 12), draw.choice((4, 6, 9))
    return [*words[:start], *(words[start : start + length] * len(words))][: len(words)]


def _sentence_again(words: list[str], draw: random.Random) -> list[str]:
    said: list[str] = []
    while len(said) < len(words):
        again = list(words[:12])
        again[draw.randrange(len(again))] = draw.choice(words)
        said += again
    return said[: len(words)]


def _one_word(words: list[str], draw: random.Random) -> list[str]:
    return [draw.choice(words)] * len(words)


def _ends_cut(words: list[str], draw: random.Random) -> list[str]:
    return [word for at, word in enumerate(words) if at % 12 < draw.choice((4, 5, 6, 7))]


SPOILT: dict[str, Spoil] = {
    "words shuffled": _shuffled,
    "second half shuffled": _half_shuffled,
    "a phrase again and again": _phrase_again,
    "a sentence again and again, one word of it new each time": _sentence_again,
    "one word": _one_word,
    "every other half sentence left out": _ends_cut,
}


def main() -> None:
    parser = arguments(str(__doc__).splitlines()[0])
    parser.add_argument("--answers", type=int, default=60, help="natural answers, half of them for the scale")
    chosen = parser.parse_args()
    model = load_model()
    answers = natural(model, chosen.answers)
    scale, rest = answers[::2], answers[1::2]
    known = Coherence.of_natural(worst_stretches(model, scale), scale)

    def scores(made: Sequence[Rollout]) -> list[float]:
        return [
            known.score(worst, answer.response_ids)
            for worst, answer in zip(worst_stretches(model, made), made, strict=True)
        ]

    base = scores(rest)
    rows = [("natural, other half", f"{np.median(base):.0f}", "", str(len(base)))]
    draw = random.Random(0)
    long = [answer for answer in rest if len(answer.text.split()) >= 24]
    for name, spoil in SPOILT.items():
        found = scores([said(model, a.question, " ".join(spoil(a.text.split(), draw))) for a in long])
        rows.append((name, f"{np.median(found):.0f}", _auc(base, found), str(len(found))))
    turned = scores([said(model, a.question, b.text) for a, b in zip(long, [*long[1:], long[0]], strict=True)])
    rows.append(("the answer to another question", f"{np.median(turned):.0f}", _auc(base, turned), str(len(turned))))
    marked = [json.loads(line) for line in MARKS.read_text(encoding="utf-8").splitlines()]
    found = np.array(scores([said(model, one["question"], one["text"]) for one in marked]))
    marks = np.array([one["mark"] for one in marked])
    for mark, word in WORDS.items():
        mine = found[marks == mark]
        rows.append(
            (f"marked by a reader: {word}", f"{np.median(mine):.0f}", _auc(base, mine.tolist()), str(len(mine)))
        )
    rank = bootstrap_pearson(rankdata(found), rankdata(marks), [one["question"] for one in marked])
    publish(
        "coherence",
        "Coherence of natural, spoilt and marked answers",
        ("answers", "median score", "AUC: natural above these", "n"),
        rows,
        [
            f"{model.id}; natural answers of at most {TOKENS} tokens to evaluation questions of all traits. Brackets: 95 % "
            "intervals, over answers.",
            f"Rank correlation of score and mark: {rank.mean:.2f} [{rank.low:.2f}, {rank.high:.2f}], {len(marked)} "
            f"answers, {rank.n} questions. One reader.",
        ],
        chosen.write,
        model.device,
        timed=False,
    )


def natural(model: ChatModel, count: int) -> list[Rollout]:
    """Answers of the model as it is, to questions of all traits in turn."""
    traits = [load_trait(name) for name in library_names()]
    questions = [q for some in zip(*(trait.evaluation_questions for trait in traits), strict=False) for q in some]
    prompts = [model.prompt_ids([{"role": "user", "content": question}]) for question in questions[:count]]
    written = model.generate([Request(ids, TOKENS, 0.7, seed) for seed, ids in enumerate(prompts)])
    return [said(model, q, model.decode(one.ids)) for q, one in zip(questions, written, strict=False)]


def said(model: ChatModel, question: str, text: str) -> Rollout:
    """A text as the model's answer."""
    prompt = model.prompt_ids([{"role": "user", "content": question}])
    ids = model.template.answer_ids(text)
    return Rollout(question, "given", question, 0, prompt_ids=prompt, response_ids=ids, text=text)


def _auc(above: Sequence[float], below: Sequence[float]) -> str:
    found = bootstrap_auc(above, below, list(range(len(above))), list(range(len(above), len(above) + len(below))))
    return f"{found.mean:.2f} [{found.low:.2f}, {found.high:.2f}]"


if __name__ == "__main__":
    main()
