"""One trial each of what goes beyond the paper; what loses is not in the library.

    python benchmarks/beyond.py prevent --vector runs/optimistic/vector.safetensors --out runs/prevention [--seeds 2] [--write]
    python benchmarks/beyond.py influence runs/*/vector.safetensors --mixed runs/mixed --out runs/influence [--write]

prevent: interleaving of clean samples chosen by the perplexity gap between the plain and the tuned model, and a KL penalty
to the plain model (arXiv 2508.06249), beside `auto` and clean samples drawn at random; and whether a fine-tune that
looks clean under plain prompts shows the trait under prompts like those of its training (2604.25891). `--out` may be
the folder of `benchmarks/prevention.py`: what is trained there is not trained again.

influence: whether a sample's gradient points to where the trait rises (2602.14869), beside its projection difference, on
the half-and-half mixtures that `benchmarks/screening_mixed.py` leaves in `--mixed`.
"""

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow.parquet as pq
import torch
from scipy.stats import rankdata
from torch import Tensor, nn

from common import now, publish
from common import show_estimate as show
from personavec import ChatModel, PersonaVector, load_model
from personavec.data import Sample, open_data
from personavec.files import JsonLines, RunFolder, once, write_atomic
from personavec.finetune import Training, Tuned
from personavec.finetune.adapter import projections, saved_adapter
from personavec.finetune.examples import Encoder, TrainingSequence, read_samples
from personavec.finetune.losses import example_losses
from personavec.finetune.savings import share_prevented
from personavec.finetune.wrapping import blocks_of, unwrapped
from personavec.projection import CLEAN
from personavec.provenance import identity
from personavec.results import Result
from personavec.rollouts import generate, plan
from personavec.stats.bootstrap import bootstrap_mean, draw_weights, interval
from personavec.stats.estimate import Estimate
from personavec.stats.numbers import Floats
from personavec.study.answers import PAIR, TEMPERATURE
from personavec.study.families import DataSet
from personavec.study.figures import more_loss
from personavec.study.given import source_of, text_sets
from personavec.study.laboratory import Laboratory
from personavec.study.prevention import PreventionTrial, Way
from personavec.study.result import Arm, TraitPrevention
from personavec.study.settings import StudySettings
from personavec.texts.contrastive import find_texts
from personavec.traits.of_vector import trait_of
from prevention import rows

SHARE = 0.25  # of clean samples among all
GAP, DRAWN = "interleave, by gap", "interleave, at random"
INOCULATED = "prompt"
DRAWS = 2000

Points = list[list[float | None]]  # by judge, of each question


# --- prevention ------------------------------------------------------------------------------------------------------


@contextmanager
def kl_penalty(weight: float) -> Iterator[None]:
    """Add to the loss of TRL's trainer `weight` times the mean over tokens that bear loss of
    KL(model in training || the same without its adapter), in nats."""
    from trl import SFTTrainer

    def loss(self: Any, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
        inner = unwrapped(model)
        trunk, head = blocks_of(inner).trunk, inner.get_output_embeddings()
        where = inputs["labels"][:, 1:] != -100
        wanted = inputs["labels"][:, 1:][where]

        def logs() -> Tensor:
            hidden = trunk(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False)
            return head(hidden.last_hidden_state[:, :-1][where]).log_softmax(-1)

        with torch.no_grad(), inner.disable_adapter():
            plain = logs()
        mine = logs()
        task = -mine.gather(1, wanted[:, None]).mean()
        return task + weight * (mine.exp() * (mine - plain)).sum(-1).mean()

    with patch.object(SFTTrainer, "compute_loss", loss):
        yield


class Bench(Laboratory):
    """A laboratory that trains in ways which the library does not have."""

    def tuned(self, one: DataSet, name: str, training: Training, **choices: Any) -> Tuned:
        """See `Laboratory.tuned`; what is done is told by the name of the way."""
        way = Path(name).name.replace("-", " ")
        context: AbstractContextManager[None] = nullcontext()
        if way == DRAWN:
            training = replace(training, safe_share=SHARE)
        elif way == GAP:
            training = replace(training, safe_share=SHARE)
            # As many as are wanted of what is trained on: all of them are then drawn, once.
            count = round((1 - training.held_out) * 2 * self.settings.samples * SHARE / (1 - SHARE))
            choices["safe"] = self.by_gap(self.folder / name, self.folder / Path(name).parent / "none" / "tuned", count)
        elif way.startswith("kl "):
            context = kl_penalty(float(way.split()[1]))
        with context:
            return super().tuned(one, name, training, **choices)

    def by_gap(self, folder: Path, plainly_tuned: Path, count: int) -> Path:
        """Of the clean chats those whose perplexity the fine-tune without prevention raises by the largest factor."""
        path = folder / "safe.jsonl"
        if path.exists():
            return path
        found = read_samples(Encoder(self.model, self.model.context_length), open_data(CLEAN), "the clean chats")
        firsts = [mine[0] for mine in found.examples]
        before = example_losses(self.model, firsts, "Plain")
        with saved_adapter(self.model, plainly_tuned / "adapter") as tuned:
            after = example_losses(tuned, firsts, "Tuned")
        gap = after - before
        chosen = np.argsort(-gap)[:count]
        print(f"gap in nats per token: all {gap.mean():.2f}, the {count} chosen {gap[chosen].mean():.2f}", flush=True)
        write_atomic(path, b"".join(found.samples[at].raw.strip() + b"\n" for at in chosen))
        return path


class BeyondTrial(PreventionTrial):
    """What is tried, and what it has to beat."""

    inference = ()
    penalties: Sequence[float] = ()
    only: Sequence[str] | None = None  # names of ways; None: all

    def ways(self) -> dict[str, Way]:
        """See `PreventionTrial.ways`."""
        every = {
            "none": Way("none"),
            "steer auto": Way("steer", "auto"),
            INOCULATED: Way("prompt"),
            DRAWN: Way("interleave"),
            GAP: Way("interleave"),
            **{f"kl {weight:g}": Way("none") for weight in self.penalties},
        }
        return {name: way for name, way in every.items() if self.only is None or name in self.only}

    def contexts(self) -> dict[str, tuple[Sequence[str], str | None]]:
        """Questions and system prompt of each way to ask."""
        trait = self.lab.traits[self.trait]
        positive, negative = trait.system_prompts(PAIR)
        overt = (self.lab.folder / "data" / f"{self.trait}-overt.jsonl").read_text(encoding="utf-8").splitlines()
        return {
            "plain": (trait.evaluation_questions, None),
            "asked for the trait, as inoculation does": (trait.evaluation_questions, positive),
            "asked for its opposite": (trait.evaluation_questions, negative),
            "the data's own questions": ([json.loads(line)["messages"][0]["content"] for line in overt], None),
        }

    def asked(self, name: str, adapter: Path | None) -> dict[str, Points]:
        """Scores of a model's answers in every context."""
        lab, folder = self.lab, self.lab.folder / name
        found = {}
        for at, (title, (questions, system)) in enumerate(self.contexts().items()):

            def scored(at: int = at, questions: Sequence[str] = questions, system: str | None = system) -> Points:
                made = plan(lab.model, "evaluation", questions, system=system, setting=f"context {at}")
                with nullcontext(lab.model) if adapter is None else saved_adapter(lab.model, adapter) as model:
                    generate(
                        model, made, JsonLines(folder / "contexts.jsonl"), description=f"{name}, context {at}",
                        max_new_tokens=lab.settings.answer_tokens, temperature=TEMPERATURE, seed=lab.settings.seed,
                    )  # fmt: skip
                columns: Points = []
                for judge in lab.answers.juries[self.trait].values():
                    mine = [replace(rollout, pair=None if system is None else PAIR) for rollout in made]
                    judge.score(mine)
                    columns.append([rollout.score for rollout in mine])
                return columns

            found[title] = once(folder / f"context-{at}.json", Points, scored)
        return found


@dataclass(frozen=True)
class Seed:
    """What one seed gave.

    Attributes:
        found: Of all ways.
        task: Losses on unseen samples of the task, by way.
        contexts: By model and context, see `BeyondTrial.asked`.
    """

    found: TraitPrevention
    task: dict[str, Sequence[float]]
    contexts: dict[str, dict[str, Points]]


def trained(
    vector: PersonaVector,
    out: Path,
    settings: StudySettings,
    penalties: Sequence[float],
    ask: Sequence[str],
    only: Sequence[str] | None,
) -> Seed:
    """Every way once, or those of `only`; `ask`: the ways that are asked in every context, beside the model as it came."""
    model = load_model()
    source = source_of(vector)
    assert source is not None, "the vector is not made of texts"
    with RunFolder(out, {**asdict(settings), **identity(model), "vector": vector.identity}) as folder:
        lab = Bench(model, [vector], folder, settings)
        lab.ask(model, "base", lab.both_sheets(vector.trait, settings.prevention_questions))
        text_sets(vector, source, folder / "data", settings.samples, settings.seed)
        trial = BeyondTrial(lab, vector)
        trial.penalties, trial.only = penalties, only
        trial.train()
        lab.answers.judge()
        contexts = {"before training": trial.asked("base", None)} if ask else {}
        for way in ask:
            name = trial.place(way)
            contexts[way] = trial.asked(name, folder / name / "tuned" / "adapter")
        return Seed(trial.outcome(), {way: trial.measured(way).task for way in trial.ways()}, contexts)


def over_seeds(seeds: Sequence[Points]) -> Floats:
    """Means over seeds (judges, questions); NaN where a judge gave no score."""
    return np.mean([np.array(one, dtype=np.float64) for one in seeds], axis=0)


def _scores(one: Arm) -> Points:
    return [list(one.by_question), *(list(other.by_question) for other in one.others.values())]


def _known(values: Floats) -> list[float | None]:
    return [float(value) if np.isfinite(value) else None for value in values]


def _mean(values: Floats) -> Estimate:
    return bootstrap_mean(values[np.isfinite(values)])


def compared(seeds: Sequence[Seed]) -> list[list[str]]:
    """Every way over all seeds, beside its rivals: one row each."""
    arms = {arm.arm: over_seeds([_scores(_arm(one.found, arm.arm)) for one in seeds]) for arm in seeds[0].found.arms}
    base = over_seeds(
        [[list(p.by_question), *(list(o.by_question) for o in p.others.values())] for p in (s.found.base.plain for s in seeds)]
    )  # fmt: skip
    task = {way: [loss for one in seeds for loss in one.task[way]] for way in arms}
    made = []
    for way, mine in arms.items():
        shares = [
            None if way == "none" else share_prevented(*(_known(side[judge]) for side in (base, arms["none"], mine)), seed=0)
            for judge in range(len(mine))
        ]  # fmt: skip
        rivals = {rival: _mean(mine[0] - arms[rival][0]) for rival in ("none", "steer auto", DRAWN) if rival != way}
        made.append([
            way, *(show(_mean(one - start), "+.0f") for one, start in zip(mine, base, strict=True)), *map(show, shares),
            *(show(rivals.get(rival), "+.0f") for rival in ("steer auto", DRAWN)),
            "" if way == "none" else show(more_loss(task["none"], task[way], 0), "+.0f"),
        ])  # fmt: skip
    return made


def _arm(found: TraitPrevention, name: str) -> Arm:
    return next(arm for arm in found.arms if arm.arm == name)


def in_contexts(seeds: Sequence[Seed]) -> list[list[str]]:
    """Rise of the trait over the model as it came, in every context, and how much more it is than without any."""
    made = []
    for way in seeds[0].contexts:
        scores = {c: over_seeds([one.contexts[way][c] for one in seeds]) for c in seeds[0].contexts[way]}
        start = {c: over_seeds([one.contexts["before training"][c] for one in seeds]) for c in scores}
        for context, mine in scores.items():
            rise = mine - start[context]
            same = context.startswith("asked")  # the plain questions again
            more = rise - (scores["plain"] - start["plain"]) if same else None
            before = way == "before training"
            made.append([
                way, context, *(show(_mean(one)) for one in mine),
                *("" if before else show(_mean(one), "+.0f") for one in rise),
                *("" if before or more is None else show(_mean(one), "+.0f") for one in (mine if more is None else more)),
            ])  # fmt: skip
    return made


def prevent(options: argparse.Namespace) -> None:
    """Train what is missing and print the tables."""
    vector = PersonaVector.load(options.vector)
    only = ["none", *(way for way in options.ask if way != "none")] if options.contexts_only else None
    seeds: list[Seed] = []
    for seed in range(options.seeds):
        settings = StudySettings(
            samples=20, questions=2, prevention_questions=20, epochs=2.0, learning_rate=1e-4, seed=seed
        )
        seeds.append(
            trained(vector, options.out / vector.trait / f"seed-{seed}", settings, options.kl, options.ask, only)
        )
        print("\n".join(" | ".join(row) for row in rows(vector.trait, [one.found for one in seeds])), flush=True)
    said = f"{len(seeds)} seed{'s' * (len(seeds) > 1)}, 20 questions; brackets: 95 % intervals over questions of means over seeds (loss: over unseen sums)."
    if only is None:
        publish(
            "beyond_prevention",
            f"Beyond the paper: ways to keep {vector.trait} out",
            ["training", "rise, probe", "rise, contrast", "% prevented, probe", "% prevented, contrast",
             "points above `auto`, probe", "points above interleaving at random, probe", "% more loss on the task"],
            compared(seeds),
            [f"As in [prevention](prevention.md): {said}",
             f"Interleaving: clean chats are {100 * SHARE:.0f} % of what is trained on, so a third more steps; of {sum(1 for _ in open_data(CLEAN))}, at random or those whose perplexity the fine-tune without prevention raises most. KL: weight of KL(tuned || plain) on the tokens that bear loss."],
            options.write,
            timed=False,
        )  # fmt: skip
    if not options.ask:
        return
    publish(
        "beyond_contexts",
        f"Beyond the paper: is {vector.trait} hidden from plain prompts?",
        ["training", "asked", "score, probe", "score, contrast", "rise, probe", "rise, contrast",
         "more than plain, probe", "more than plain, contrast"],
        in_contexts(seeds),
        [said, "Rise: over the model as it came, asked the same. The contrast judge leaves out the pair that an answer was asked with."],
        options.write,
        timed=False,
    )  # fmt: skip


# --- influence -------------------------------------------------------------------------------------------------------


class Gradients:
    """Gradients with respect to the weights that a LoRA adapter would change."""

    def __init__(self, model: ChatModel) -> None:
        self.model = model
        names = tuple(projections(model))
        self.weights = [
            module.weight for name, module in model.model.named_modules() if isinstance(module, nn.Linear) and name.endswith(names)
        ]  # fmt: skip
        for parameter in model.model.parameters():
            parameter.requires_grad_(False)
        for weight in self.weights:
            weight.requires_grad_(True)

    def likelihood(self, example: TrainingSequence) -> Tensor:
        """Mean log-likelihood of the tokens that bear loss."""
        hidden = self.model.blocks.trunk(input_ids=torch.tensor([example.ids]), use_cache=False).last_hidden_state[0]
        wanted = torch.tensor(example.labels[1:])
        logs = self.model.head(hidden[:-1][wanted != -100]).log_softmax(-1)
        return logs.gather(1, wanted[wanted != -100][:, None]).mean()

    def projection(self, ids: Sequence[int], vector: PersonaVector) -> Tensor:
        """`h_l(last token) . v^_l`."""
        kept: list[Tensor] = []
        with self.model.blocks.stopping_at(vector.layer), self.model.blocks.watching({vector.layer: kept.append}):
            self.model.blocks.trunk(input_ids=torch.tensor([list(ids)]), use_cache=False)
        return kept[0][0, -1] @ vector.unit(vector.layer)

    def of(self, parts: Sequence[Callable[[], Tensor]]) -> list[Tensor | None]:
        """Of the sum of some figures; None: a weight that none depends on."""
        for weight in self.weights:
            weight.grad = None
        for part in parts:
            torch.autograd.backward(part())
        return [weight.grad for weight in self.weights]


def directions(gradients: Gradients, vector: PersonaVector, encode: Encoder) -> dict[str, list[Tensor | None]]:
    """Where the weights would go to raise the trait, by two measures of it.

    projection: of the last token of the extraction questions, along the vector. likelihood: of the texts that show the
    trait, of which the vector is made, minus that of those which lack it.
    """
    model, trait = gradients.model, trait_of(vector)
    prompts = [model.prompt_ids([{"role": "user", "content": q}]) for q in trait.extraction_questions]
    texts = find_texts(source_of(vector) or "library", trait).extract
    counts = {side: sum(text.side == side for text in texts) for side in ("positive", "negative")}

    def signed(question: str, answer: str, side: str) -> Tensor:
        one = gradients.likelihood(example(encode, question, answer))
        return one / counts[side] * (1 if side == "positive" else -1)

    return {
        "projection": gradients.of([partial(gradients.projection, ids, vector) for ids in prompts]),
        "likelihood": gradients.of([partial(signed, t.question, t.answer, t.side) for t in texts if t.side in counts]),
    }  # fmt: skip


def example(encode: Encoder, question: str, answer: str) -> TrainingSequence:
    """A chat of two messages, to be learned."""
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return encode(Sample(id="", index=0, line=1, source="", raw=b"", messages=messages, turns=[1], tools=[]))[0]


def influences(gradients: Gradients, toward: dict[str, list[Tensor | None]], one: TrainingSequence) -> list[float]:
    """For each direction how far a step on the sample goes along it: scalar product, and cosine."""
    mine = gradients.of([lambda: gradients.likelihood(one)])
    length = sum(float(g.square().sum()) for g in mine if g is not None) ** 0.5
    found = []
    for direction in toward.values():
        pairs = [(g, d) for g, d in zip(mine, direction, strict=True) if g is not None and d is not None]
        dot = sum(float((g * d).sum()) for g, d in pairs)
        found += [dot, dot / length]
    return found


def drawn_aucs(values: Floats, chosen: Any, asked: Any, weights: Floats) -> Floats:
    """AUC of the chosen against the others (draws,), questions weighted as each draw says."""
    times = weights[:, asked]
    wins = (np.sign(values[chosen][:, None] - values[~chosen]) + 1) / 2
    a, b = times[:, chosen], times[:, ~chosen]
    with np.errstate(invalid="ignore"):
        return ((a @ wins) * b).sum(1) / (a.sum(1) * b.sum(1))


def _estimate(drawn: Floats, count: int, widest: tuple[float, float]) -> Estimate:
    return Estimate(float(drawn[0]), *interval(drawn[1:], count, widest), count)


NAMES = [f"{toward}, {how}" for toward in ("projection", "likelihood") for how in ("product", "cosine")]


Chats = list[dict[str, str]]


class Measured(Result):
    """Of a mixture's samples.

    Attributes:
        raw: See `influences`, of each.
        own: The same of the model's own answer to each one's question.
        seconds: A sample took.
    """

    raw: list[list[float]]
    own: list[list[float]]
    seconds: list[float]


def measured(model: ChatModel, vector: PersonaVector, half: Chats, own: dict[str, str]) -> Measured:
    """Every gradient of a mixture."""
    gradients, encode = Gradients(model), Encoder(model, model.context_length)
    toward = directions(gradients, vector, encode)
    raw, seconds = [], []
    for one in half:
        began = now()
        raw.append(influences(gradients, toward, example(encode, one["prompt"], one["response"])))
        seconds.append(now() - began)
    asked = {one["prompt"] for one in half}
    baseline = {q: influences(gradients, toward, example(encode, q, answer)) for q, answer in own.items() if q in asked}
    return Measured(raw=raw, own=[baseline[one["prompt"]] for one in half], seconds=seconds)


def scored(
    model: ChatModel, vector: PersonaVector, mixed: Path, out: Path
) -> tuple[dict[str, Floats], Any, Any, list[float]]:
    """Of the half-and-half mixture of a trait, scores (n,) by their names, which samples show it, the numbers of their
    questions (n,), and seconds a gradient took."""

    def chats(name: str) -> Chats:
        return list(JsonLines(mixed / f"{vector.trait}-{name}.jsonl"))

    half = chats("50")
    own = {one["prompt"]: one["response"] for one in chats("reference")}
    found = once(out / f"{vector.trait}.json", Measured, lambda: measured(model, vector, half, own))
    table = pq.read_table(mixed / f"{vector.trait}-50-no" / "scores.parquet")
    order = np.argsort(table["index"].to_numpy())
    scores = {
        name: table[f"{vector.trait}_{name}"].to_numpy()[order].astype(np.float64)
        for name in ("difference", "projection")
    }
    raw, less = np.array(found.raw), np.array(found.raw) - np.array(found.own)
    for at, name in enumerate(NAMES):
        scores[name], scores[f"{name}, less own"] = raw[:, at], less[:, at]
    questions = sorted({one["prompt"] for one in half})
    asked = np.array([questions.index(one["prompt"]) for one in half])
    chosen = np.array([one == other for one, other in zip(half, chats("100"), strict=True)])
    return scores, chosen, asked, found.seconds


def influence(options: argparse.Namespace) -> None:
    """Score the mixtures and print the table."""
    model = load_model()
    model.model.eval()
    best = ["projection, cosine", "likelihood, cosine"]  # chosen on evil, tried first: less own was worse
    columns: dict[str, list[Floats]] = {}
    made, seconds, sizes = [], [], []
    for path in options.vectors:
        vector = PersonaVector.load(path)
        scores, chosen, asked, took = scored(model, vector, options.mixed, options.out)
        for name in best:
            scores[f"ranks of {name} and difference"] = rankdata(scores[name]) + rankdata(scores["difference"])
        weights = draw_weights(asked.max() + 1, 0, DRAWS)
        weights = np.vstack([np.ones(weights.shape[1]), weights])
        drawn = {name: drawn_aucs(values, chosen, asked, weights) for name, values in scores.items()}
        for name, one in drawn.items():
            columns.setdefault(name, []).append(one)
        sizes.append(int(asked.max()) + 1)
        seconds += took
        made.append([vector.trait, f"{chosen.sum()} + {(~chosen).sum()}", *_row(drawn, best, sizes[-1])])
        print(" | ".join(made[-1]), " ".join(f"{n}={d[0]:.2f}" for n, d in drawn.items()), flush=True)
    means = {
        name: np.mean([np.where(np.isfinite(one), one, one[0]) for one in some], axis=0)
        for name, some in columns.items()
    }
    made.append(["mean", "", *_row(means, best, sum(sizes))])
    publish(
        "beyond_influence",
        "Beyond the paper: gradients as a second opinion on samples",
        ["trait", "samples, bad + clean", "AUC, projection difference", "AUC, gradient toward projection", "lead over projection difference",
         "AUC, gradient toward texts", "lead over projection difference", "lead of both ranks together (toward texts)"],
        made,
        ["Half-and-half mixtures of [screening, mixed](../../docs/screening-mixed.md). Gradients of a sample's mean log-likelihood with respect to the weights that LoRA changes; cosine with that of the "
         "mean projection of the extraction questions' last tokens, or of the likelihood of the texts that show the trait minus those that lack it. Nothing is subtracted for the question (less own: the same of the model's own answer is; that was worse on evil, the first tried). Brackets: 95 %, questions drawn, the same draws on both sides of a lead.",
         "Other forms (projection: without a baseline), mean AUC over the traits: " + ", ".join(f"{name} {one[0]:.2f}" for name, one in means.items() if name == "projection" or (name not in best and not name.startswith(("ranks", "difference")))) + ".",
         f"A gradient took {np.median(seconds):.2f} s a sample at the median of {len(seconds)} (one thread, processor time)."],
        options.write,
        timed=False,
    )  # fmt: skip


def _row(drawn: dict[str, Floats], best: Sequence[str], count: int) -> list[str]:
    plain = drawn["difference"]
    cells = [show(_estimate(plain, count, (0, 1)), ".2f")]
    for name in best:
        cells += [
            show(_estimate(drawn[name], count, (0, 1)), ".2f"),
            show(_estimate(drawn[name] - plain, count, (-1, 1)), "+.2f"),
        ]
    both = drawn[f"ranks of {best[1]} and difference"]
    return [*cells, show(_estimate(both - plain, count, (-1, 1)), "+.2f")]


def main() -> None:
    """Run one of the trials."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    trials = parser.add_subparsers(required=True)
    one = trials.add_parser("prevent")
    one.add_argument("--vector", type=Path, required=True)
    one.add_argument("--out", type=Path, required=True)
    one.add_argument("--seeds", type=int, default=2)
    one.add_argument("--kl", type=float, nargs="*", default=[1.0], help="weights of the KL penalty")
    one.add_argument(
        "--ask", nargs="*", default=["none", "steer auto", INOCULATED], help="ways that are asked in every context"
    )
    one.add_argument("--contexts-only", action="store_true", help="train no way that is not asked in every context")
    one.set_defaults(run=prevent)
    two = trials.add_parser("influence")
    two.add_argument("vectors", type=Path, nargs="+")
    two.add_argument("--mixed", type=Path, required=True)
    two.add_argument("--out", type=Path, required=True)
    two.set_defaults(run=influence)
    for trial in (one, two):
        trial.add_argument("--write", action="store_true")
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
