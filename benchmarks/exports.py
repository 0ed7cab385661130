"""Does an exported vector do in the other engine what it does here?

    python benchmarks/exports.py --vector FILE [--llama-cpp PYTHON] [--vllm PYTHON] [--gguf FILE] [--write]

The bundled model answers the trait's evaluation questions greedily, steered at all positions, here and in each engine.
`llama_cpp.py` and `vllm_greedy.py` say how to make the engines' environments; one that is not named is left out.
"""

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM

from common import arguments, publish
from personavec import ChatModel, PersonaVector, Request, Trait, export_vector, intervening, load_model, steering
from personavec.judges.kinds import open_judge
from personavec.model.default import DEFAULT, fetch_bundled
from personavec.model.edits import Intervention
from personavec.rollouts import Rollout
from personavec.stats.bootstrap import bootstrap_mean
from personavec.traits.of_vector import trait_of

TOKENS = 48
HERE = Path(__file__).parent
HEADER = [
    "engine",
    "coefficient",
    "distance of next-token distributions to ours",
    "same likeliest token",
    "distance, a block later",
    "what steering itself changes",
    "tokens until the answers part",
    "trait score here",
    "trait score there",
]


class LlamaCpp:
    """Answers of a GGUF file in llama.cpp, under a control vector."""

    def __init__(self, python: str, gguf: Path, work: Path) -> None:
        script = [python, str(HERE / "llama_cpp.py")]
        self.logits = work / "logits.bin"
        self.process = subprocess.Popen(
            script, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self.version = self.ask({"model": str(gguf)})["version"]

    def ask(self, job: dict[str, Any]) -> Any:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def answer(
        self, file: Path | None, scale: float, prompts: Sequence[list[int]], *, shift: int = 0, tokens: int = TOKENS
    ) -> tuple[Tensor, list[list[int]]]:
        """Log-probabilities (prompts, vocabulary) of the first token, and answers."""
        job = {"file": None if file is None else str(file), "scale": scale, "shift": shift, "prompts": prompts}
        answers = self.ask({**job, "tokens": tokens, "logits": str(self.logits)})["answers"]
        held = torch.frombuffer(bytearray(self.logits.read_bytes()), dtype=torch.float32)
        return held.view(len(prompts), -1).log_softmax(-1), answers


def first_token(model: Any, prompts: Sequence[list[int]]) -> Tensor:
    """Log-probabilities (prompts, vocabulary) of the first token."""
    with torch.no_grad():
        rows = [model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].float() for ids in prompts]
    return torch.stack(rows).log_softmax(-1)


def ours(
    model: ChatModel, prompts: Sequence[list[int]], edits: Sequence[Intervention]
) -> tuple[Tensor, list[list[int]]]:
    with intervening(model, [edits]):
        first = first_token(model.model, prompts)
    requests = [Request(ids, TOKENS, 0.0, interventions=edits) for ids in prompts]
    return first, [list(response.ids) for response in model.generate(requests)]


def distance(a: Tensor, b: Tensor) -> str:
    """Total variation, 0 (equal) to 1, with its interval over prompts."""
    return f"{bootstrap_mean((0.5 * (a.exp() - b.exp()).abs().sum(-1)).tolist()):.3f}"


def alike(a: Tensor, b: Tensor) -> str:
    same = int((a.argmax(-1) == b.argmax(-1)).sum())
    return f"{same} of {len(a)}"


def until(a: Sequence[list[int]], b: Sequence[list[int]]) -> str:
    """Mean length of what two answers begin with alike, of the tokens that the first has."""
    shared = []
    for one, other in zip(a, b, strict=True):
        pairs = list(zip(one, other, strict=False))
        shared.append(next((place for place, (x, y) in enumerate(pairs) if x != y), len(pairs)))
    return f"{sum(shared) / len(a):.0f} of {sum(map(len, a)) / len(a):.0f}; whole: {sum(x == y for x, y in zip(a, b, strict=True))} of {len(a)}"


class Scores:
    """Trait scores by the judge that reads, which knows the trait from texts alone."""

    def __init__(self, model: ChatModel, trait: Trait, prompts: Sequence[list[int]]) -> None:
        self.model, self.trait, self.prompts = model, trait, prompts
        self.judge = open_judge("probe", model).of_trait(trait)

    def of(self, answers: Sequence[list[int]]) -> str:
        rollouts = [
            Rollout(str(i), "evaluation", self.trait.evaluation_questions[i], i, prompt, response_ids=ids, text=self.model.decode(ids))
            for i, (prompt, ids) in enumerate(zip(self.prompts, answers, strict=True))
        ]  # fmt: skip
        self.judge.score(rollouts)
        return str(bootstrap_mean([r.score for r in rollouts if r.score is not None]))


def llama_rows(
    options: Any, model: ChatModel, vector: PersonaVector, here: dict[float, Any], scores: Scores, work: Path
) -> tuple[list[list[str]], str]:
    gguf = Path(options.gguf) if options.gguf else fetch_bundled(DEFAULT)
    engine, rows, prompts = LlamaCpp(options.llama_cpp, gguf, work), [], scores.prompts
    for coefficient, (first, answers) in here.items():
        file, later = None, "-"
        if coefficient:
            file = work / f"{coefficient:g}.gguf"
            export_vector(model, [(vector, coefficient)], "gguf", file)
            later = distance(first, engine.answer(file, 1.0, prompts, shift=1, tokens=0)[0])
        there, other = engine.answer(file, 1.0, prompts)
        change = distance(first, here[0.0][0]) if coefficient else "-"
        measured = [distance(first, there), alike(first, there), later, change, until(answers, other)]
        rows.append(["llama.cpp", f"{coefficient:+g}", *measured, scores.of(answers), scores.of(other)])
        print(rows[-1], flush=True)
    return rows, f"llama.cpp: {engine.version}, the model's own {gguf.name}; the control vector by its own loader."


def python_rows(
    model: ChatModel, vector: PersonaVector, coefficient: float, here: Any, prompts: Sequence[list[int]], work: Path
) -> list[list[str]]:
    """PEFT's adapter and the baked checkpoint, with plain PEFT and plain transformers."""
    first = here[coefficient][0]
    change = distance(first, here[0.0][0])
    rows = []
    for form, name in (("peft", "PEFT"), ("bake", "transformers, baked")):
        export_vector(model, [(vector, coefficient)], form, work / form)
        if form == "peft":
            loaded = PeftModel.from_pretrained(model.model, work / form)
            there = first_token(loaded, prompts)
            loaded.unload()
        else:
            there = first_token(AutoModelForCausalLM.from_pretrained(work / form, dtype=model.dtype).eval(), prompts)
        rows.append(
            [name, f"{coefficient:+g}", distance(first, there), alike(first, there), "-", change, "-", "-", "-"]
        )
        print(rows[-1], flush=True)
    return rows


def vllm_row(python: str, model: ChatModel, coefficient: float, here: Any, prompts: Any, work: Path) -> tuple[list[str], str]:  # fmt: skip
    job = {"model": str(work / "bake"), "prompts": prompts, "tokens": TOKENS, "stops": sorted(model.stop_ids)}
    done = subprocess.run(
        [python, str(HERE / "vllm_greedy.py")], input=json.dumps(job), stdout=subprocess.PIPE, text=True, check=True
    )
    found = json.loads(next(line for line in done.stdout.splitlines() if line.startswith('{"version"')))
    parted = until(here[coefficient][1], found["answers"])
    return ["vLLM, baked", f"{coefficient:+g}", "-", "-", "-", "-", parted, "-", "-"], found["version"]


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--vector", required=True, help="vector file of the bundled model")
    parser.add_argument("--llama-cpp", help="python of the environment with xllamacpp")
    parser.add_argument("--vllm", help="python of the environment with vLLM")
    parser.add_argument("--gguf", help="the bundled model's GGUF file; default: fetched")
    parser.add_argument("--coefficient", type=float, default=2.0)
    options = parser.parse_args()
    model, vector = load_model(dtype="float32"), PersonaVector.load(options.vector)
    trait = trait_of(vector)
    prompts = [model.prompt_ids([{"role": "user", "content": question}]) for question in trait.evaluation_questions]
    here = {
        c: ours(model, prompts, steering(vector, c, positions="all") if c else [])
        for c in (-options.coefficient, 0.0, options.coefficient)
    }
    notes = [
        f"{model.id}, float32, dequantised from Q4_1, which llama.cpp computes with itself; vector of {trait.name}, layer "
        f"{vector.layer}, all positions. {len(prompts)} evaluation questions; greedy answers of up to {TOKENS} tokens.",
        "Distance: total variation between the distributions of the answer's first token, 0 (equal) to 1 [95 % interval over "
        "questions]. At coefficient 0 it is what the two computations of one model differ by. A block later: the same "
        "control vector put one block too far. What steering itself changes: the same distance to no steering, here.",
        "Trait score: judge probe, 0 to 100 [95 % interval over questions].",
    ]
    rows = []
    with TemporaryDirectory() as folder:
        work = Path(folder)
        rows += python_rows(model, vector, options.coefficient, here, prompts, work)
        if options.vllm:
            row, version = vllm_row(options.vllm, model, options.coefficient, here, prompts, work)
            rows.append(row)
            notes.append(f"vLLM: {version}, float32, eager, on the CPU, from the baked checkpoint as it is.")
        else:
            notes.append("vLLM was not run.")
        if options.llama_cpp:
            found, note = llama_rows(options, model, vector, here, Scores(model, trait, prompts), work)
            rows = [*found, *rows]
            notes.append(note)
    publish("exports", "Exported vectors in other engines", HEADER, rows, notes, options.write, timed=False)


if __name__ == "__main__":
    main()
