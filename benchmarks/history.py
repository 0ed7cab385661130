"""What a past steered turn leaves behind: history that is read as it stands, or as it was written, over ten turns.

    python benchmarks/history.py --vector VECTOR [--vector VECTOR ...] [--conversations 8] [--write]

While an answer is written under `positions` response, its tokens are steered and so are the keys and values that they
leave. In the next turn they are part of the prompt. Ways: "unsteered" reads the history as any other prompt, "as written"
steers the tokens of every earlier answer again, which leaves what was there when it was written; "plain" is the model
without steering. Questions, draws and coefficient (the upper end of the vector's coherent range) are the same for all.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from transformers import DynamicCache

from common import arguments, publish, show_estimate
from personavec import ChatModel, PersonaVector, load_model
from personavec.interventions import steering
from personavec.judges.coherence import Coherence, stretches
from personavec.judges.of_vector import judge_of
from personavec.judges.probe import ProbeModel
from personavec.model import Conversation
from personavec.model.edits import Intervention, SteeringPlan
from personavec.model.places import Places, first_tokens
from personavec.model.sampling import draw
from personavec.readout import read
from personavec.rollouts import Rollout
from personavec.stats.bootstrap import bootstrap_mean
from personavec.traits import load_trait

TURNS = 10
JUDGED = (4, 7, 10)  # the first is the same for both ways
LATE = (7, 10)
TOKENS, TEMPERATURE = 40, 0.7
WAYS = ("plain", "unsteered", "as written")


@dataclass(eq=False)
class Talk:
    """One conversation under one way.

    Attributes:
        cache: Of the prompt so far, whose token ids are `held`.
    """

    trait: str
    way: str
    number: int
    questions: list[str]
    edits: list[Intervention]
    messages: list[dict[str, str]] = field(default_factory=list)
    answers: list[Rollout] = field(default_factory=list)
    cache: DynamicCache = field(default_factory=DynamicCache)
    held: list[int] = field(default_factory=list)


def talks_of(vector: PersonaVector, count: int) -> list[Talk]:
    trait = load_trait(vector.trait)
    assert vector.info.coherent_range is not None
    edits = steering(vector, vector.info.coherent_range[1])
    made = []
    for number in range(count):
        order = np.random.default_rng(number).permutation(len(trait.evaluation_questions))[:TURNS]
        asked = [trait.evaluation_questions[i] for i in order]
        made += [Talk(trait.name, way, number, asked, edits if way != "plain" else []) for way in WAYS]
    return made


def steered_before(model: ChatModel, talk: Talk, length: int) -> torch.Tensor:
    """(1, length, 1): the tokens of a prompt that were steered when they were written."""
    mask = torch.zeros(1, length, 1, dtype=torch.bool)
    if talk.way == "as written" and talk.answers:
        [told] = model.template.conversations(talk.messages[:-1])
        for prompt, (_, end) in zip(told.prompts, told.spans, strict=True):
            mask[:, prompt - 1 : end] = True
    return mask


def read_on(model: ChatModel, talk: Talk, prompt: Sequence[int]) -> None:
    """Bring the cache to all but the last token of a prompt."""
    ids = list(prompt[:-1])
    common = next((i for i, (a, b) in enumerate(zip(talk.held, ids, strict=False)) if a != b), len(talk.held))
    if common < len(talk.held):
        talk.cache = first_tokens(talk.cache, common)
    plan = SteeringPlan([talk.edits])
    plan.phase = {"all": True, "prompt": True, "response": steered_before(model, talk, len(ids))[:, common:]}
    with model.blocks.watching(plan.edits(), first=True):
        model.blocks.trunk(input_ids=torch.tensor([ids[common:]]), past_key_values=talk.cache, use_cache=True)
    talk.held = ids


@torch.inference_mode()
def one_turn(model: ChatModel, talks: Sequence[Talk], turn: int) -> None:
    """The next question to all of them, answered side by side."""
    prompts = []
    for talk in talks:
        talk.messages.append({"role": "user", "content": talk.questions[turn]})
        prompts.append(model.prompt_ids(talk.messages))
        read_on(model, talk, prompts[-1])
    places = Places(model.blocks, len(talks), max(map(len, prompts)) + TOKENS)
    for i, (talk, prompt) in enumerate(zip(talks, prompts, strict=True)):
        places.put(i, prompt, talk.cache)
    random = [np.random.default_rng((talk.number, turn)) for talk in talks]  # the same draws for every way
    plan, drawn = SteeringPlan([talk.edits for talk in talks]), [list[int]() for _ in talks]
    for step in range(TOKENS):
        states = places.step(plan, [step == 0] * len(talks))
        chosen = draw(model.head(states), [TEMPERATURE] * len(talks), [one.random() for one in random])
        places.advance(chosen)
        for ids, token in zip(drawn, chosen, strict=True):
            ids.append(token)
    for talk, ids in zip(talks, drawn, strict=True):
        end = next((i for i, token in enumerate(ids) if token in model.stop_ids), TOKENS)
        text = model.decode(ids[:end])
        alone = model.prompt_ids(talk.messages[-1:])
        name = f"{talk.trait}/{talk.way}/{talk.number}/{turn}"
        talk.answers.append(
            Rollout(name, "evaluation", talk.questions[turn], turn, alone, response_ids=ids[:end], text=text)
        )
        talk.messages.append({"role": "assistant", "content": text})


def talked(model: ChatModel, vector: PersonaVector, count: int) -> list[Talk]:
    """All conversations of a trait. What was kept of their prompts is let go: it is some 40 MB each."""
    talks = talks_of(vector, count)
    for turn in range(TURNS):
        one_turn(model, talks, turn)
        print(f"{vector.trait}, turn {turn + 1} of {TURNS}: {talks[1].answers[-1].text[:100]!r}", flush=True)
    for talk in talks:
        talk.cache = DynamicCache()
    return talks


def judge_coherence(model: ChatModel, talks: Sequence[Talk]) -> None:
    """Of every answer of a trait, after all that was said before it; what is natural is what the plain model answers."""
    conversations, owners = [], []
    for talk in talks:
        [told] = model.template.conversations(talk.messages, [2 * i + 1 for i in range(TURNS)])
        spans = []
        for answer, (start, end) in zip(talk.answers, told.spans, strict=True):
            mine = [(start + low, start + high) for low, high in stretches(end - start) if high > low]
            spans += mine
            owners += [answer] * len(mine)
        conversations.append(Conversation(told.ids, spans))
    found = read(model, conversations, layers=[], log_likelihood=True).log_likelihood
    assert found is not None
    worst: dict[str, float] = {}
    for answer, value in zip(owners, found.tolist(), strict=True):
        worst[answer.id] = min(worst.get(answer.id, np.inf), value)
    plain = [one for talk in talks if talk.way == "plain" for one in talk.answers]
    natural = Coherence.of_natural([worst.get(one.id, np.nan) for one in plain], plain)
    for talk in talks:
        for one in talk.answers:
            one.coherence = natural.score(worst.get(one.id, np.nan), one.response_ids)


Scores = dict[tuple[str, str, int, int], float]  # by trait, way, conversation and turn, counted from 1


def judged(model: ChatModel, vectors: Sequence[PersonaVector], talks: Sequence[Talk]) -> dict[str, Scores]:
    """By what was judged."""
    for vector in vectors:
        judge_coherence(model, [talk for talk in talks if talk.trait == vector.trait])
    found: dict[str, Scores] = {"coherence": {}, "probe": {}, "contrast": {}}
    probes = ProbeModel(model, "library", "probe")

    def book(what: str, score: str) -> None:
        for talk in talks:
            for turn, one in enumerate(talk.answers, 1):
                value = getattr(one, score)
                if turn in JUDGED and value is not None:
                    found[what][talk.trait, talk.way, talk.number, turn] = value

    book("coherence", "coherence")
    for name in ("probe", "contrast"):
        for vector in vectors:
            judge = probes.of_trait(load_trait(vector.trait)) if name == "probe" else judge_of(model, vector)
            chosen = [
                one
                for talk in talks
                if talk.trait == vector.trait
                for t, one in enumerate(talk.answers, 1)
                if t in JUDGED
            ]
            for one in chosen:
                one.score = None
            judge.score(chosen)
            print(f"{name}, {vector.trait}: {len(chosen)} answers", flush=True)
        book(name, "score")
    return found


def cell(scores: Scores, trait: str, way: str, turns: Sequence[int], minus: str | None = None) -> str:
    """A mean with its interval over conversations; of the differences to another way, where one is named."""
    values, conversations = [], []
    for (of, how, number, turn), value in scores.items():
        if (of, how) == (trait, way) and turn in turns:
            other = 0.0 if minus is None else scores.get((trait, minus, number, turn))
            if other is not None:
                values.append(value - other)
                conversations.append(number)
    return show_estimate(bootstrap_mean(values, conversations), ".0f" if minus is None else "+.1f") if values else "-"


def main() -> None:
    parser = arguments(str(__doc__).splitlines()[0], model=True)
    parser.add_argument(
        "--vector", type=Path, action="append", required=True, help="of a library trait, with its judge"
    )
    parser.add_argument("--conversations", type=int, default=8)
    options = parser.parse_args()
    model, vectors = load_model(options.model), [PersonaVector.load(path) for path in options.vector]
    talks = [talk for vector in vectors for talk in talked(model, vector, options.conversations)]
    found = judged(model, vectors, talks)
    rows = []
    for vector in vectors:
        for turns, when in ((JUDGED, ", ".join(map(str, JUDGED))), (LATE, ", ".join(map(str, LATE)))):
            for way, minus in (*((way, None) for way in WAYS), ("as written", "unsteered")):
                name = way if minus is None else f"**{way} minus {minus}**"
                cells = [
                    cell(found[what], vector.trait, way, turns, minus) for what in ("probe", "contrast", "coherence")
                ]
                rows.append([vector.trait, when, name, *cells])
    strengths = ", ".join(f"{v.trait} {v.info.coherent_range[1]:+g}" for v in vectors if v.info.coherent_range)
    notes = [
        f"{model.id}; {options.conversations} conversations a trait, of {TURNS} of its evaluation questions each; answers of {TOKENS} "
        f"tokens at temperature {TEMPERATURE} with the same draws for every way; {strengths}.",
        "Brackets: 95 % interval over conversations; differences are of the same turn of the same conversation.",
        "Judges see one question and its answer. Coherence is of an answer after all that was said before it, against the "
        "plain model's answers.",
    ]
    header = ["trait", "turns", "history", "probe", "contrast", "coherence"]
    publish(
        "history",
        "What a past steered turn leaves behind",
        header,
        rows,
        notes,
        options.write,
        model.device,
        timed=False,
    )


if __name__ == "__main__":
    main()
