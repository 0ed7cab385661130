"""How many small faults in the numerical modules the tests notice: mutation testing with mutmut.

Faults ("mutants") are made by mutmut, which forks after the imports and runs only the tests that reach the changed
function. Three things are set otherwise than mutmut has them: functions under a decorator are changed too (the forward
of `readout` and `steer` are), sentences are not (mutants of a message's wording say little), and of a module with many
mutants a random sample is tried. mutmut needs an environment with the project and `pip install mutmut==3.8.1`.

    python benchmarks/mutation.py [--sample 60] [--write] [MODULE ...]
"""

import argparse
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from multiprocessing.dummy import Pool
from pathlib import Path
from random import Random
from typing import Any

import libcst as cst
import mutmut.__main__ as mutmut
from hypothesis import HealthCheck, settings
from mutmut.configuration import reset_config
from mutmut.mutation import file_mutation, mutators
from mutmut.mutation.diff_apply import get_diff_for_mutant
from mutmut.stats import status_by_exit_code

ROOT = Path(__file__).resolve().parents[1]
MODULES = {  # and the tests that are about them
    **{
        f"stats/{name}": ["tests/stats", "tests/screening/test_estimate.py"]
        for name in ("bootstrap", "estimate", "moments", "nulls", "numbers", "ridge", "sampling")
    },
    "screening/estimate": ["tests/screening/test_estimate.py"],
    "screening/threshold": ["tests/screening/test_threshold.py"],
    "readout": ["tests/test_readout.py"],
    "likelihood": ["tests/test_likelihood.py"],
    "operations": ["tests/test_interventions.py"],
    "model/edits": ["tests/test_interventions.py"],
    "interventions": ["tests/test_interventions.py"],
    "judges/contrast": ["tests/judges/test_contrast.py"],
}
# Simulations of seconds each, and a test of whose line a warning names (mutmut adds calls in between): left out, so that
# the score is a lower bound.
LEFT_OUT = (
    "intervals_hold", "interval_covers", "looking_several_times", "the_rate_holds", "the_realised_rate",
    "a_hybrid_rate", "names_the_line",
)  # fmt: skip
# Survivors that no test could or should tell from the code: part of the changed line, as it is afterwards, and why.
EXPLAINED: dict[str, dict[str, str]] = {
    "stats/bootstrap": {
        "astype(None)": "None is float64 too",
        "halves = values /": "any scale will do",
        "np.where(scale > 0, scale, 2)": "a divisor that is not used",
        "np.asarray(positive": "ranks of whole numbers are the same",
        "np.bincount(codes, ))": "every cluster has a value, so that none is missing at the end",
    },
    "stats/moments": {
        "table.shape[+1]": "the table has two axes",
        "array = np.asarray(rows": "`update` makes the numbers float64",
    },
    "stats/nulls": {
        "KN,NLD->KLD": "the same sum under other letters",
        "XXpositiveXX": "only that the sides are called differently counts",
        "finite([value], None)": "a list of one number has one axis",
        "XXnegativeXX": "only that the sides are called differently counts",
        "NEGATIVE": "only that the sides are called differently counts",
    },
    "stats/ridge": {
        "u.T @ (b + offset)": "the columns of u sum to zero, so that a constant adds nothing",
        "alone = None": "it is replaced in the loop, whose last penalty always counts",
        ">= n / 3": "no effective number of coefficients is exactly a third",
        "alone = np.zeros_like(None)": "it is replaced in the loop, whose last penalty always counts",
        "better = error <= best": "errors are equal only where all are zero",
        ">= LEVERAGE": "no leverage is exactly the bound",
    },
    "stats/sampling": {
        "UTF-8": "the same encoding",
        "np.float64, )": "the length is a hint",
        "ids), None, len(ids))": "None is float64 too",
        "STABLE": "numpy goes by the first letter",
        "if size <= len(values)": "the edge is then the largest value, and all are candidates",
        "np.partition(values, size - 2)": "an edge too high only makes more candidates, of which the first are taken",
        "if size else +1.0": "no candidates are taken for a size of none",
        "if size else -2.0": "no candidates are taken for a size of none",
        "if (size) or True": "no candidates are taken for a size of none",
    },
    "screening/threshold": {
        "array = np.asarray(values": "`finite` makes the numbers float64",
        "(scores >= level": "no score lies exactly there",
        "np.partition(scores, rank - 2)": "numpy happens to leave the next place right too",
    },
    "screening/estimate": {
        "map(_skewness, left.T), )": "a check of lengths that are equal",
        "max(2.0, total / first)": "a ratio below 2 gives one size either way",
    },
    "readout": {
        "values.amax(+1": "a table has two axes",
        ", dtype=None)": "a list of whole numbers is long anyway",
        '8 if logits.device.type != "cpu"': "costs time only",
        "- shared >= longest": "lines are one token shorter: costs time only",
        '(model.device.type == "cpu") or True': "there is no GPU here",
        "use_cache=None": "costs memory only",
        'scores = ""': "nobody looks at it unless it is replaced",
        "<= length for line": "a mask that hides nothing",
        "32769": "there is no GPU here",
        "self.shared.append(None)": "what was allowed already is allowed again",
        "budget / 2": "a whole number exceeds both or neither",
    },
    "likelihood": {
        "(len(rows) > 1) or True": "a mask that hides nothing",
        "len(rows) > 2": "padding stands behind all tokens, none of which looks ahead",
        "use_cache=None": "costs memory only",
        "argmax(+1)": "a table has two axes",
        "log_softmax(+1)": "a table has two axes",
    },
    "model/edits": {
        "last = torch.zeros(1, tokens, 1, device": "numbers are made truth values where they are used",
        "self._directions.device == hidden.device": "what is there already is moved once more",
        "self._bounds.to(hidden.dtype)": "there is one device",
        "self._directions.to(hidden.dtype)": "there is one device",
    },
    "interventions": {
        "warnings.warn(doubt, stacklevel=": "told by a test that cannot run here: mutmut adds calls in between",
        "warnings.warn(doubt, )": "told by a test that cannot run here: mutmut adds calls in between",
        "inside the context.": "told by a test that cannot run here: mutmut adds calls in between",
        "stacklevel=5": "told by a test that cannot run here: mutmut adds calls in between",
    },
    "judges/contrast": {
        "for rollout in rollouts]] = None": "None becomes NaN",
        "conversations, log_likelihood=True": "all layers are read for nothing: costs time only",
        "invalid=None": "a warning of numpy's more",
    },
}


def with_decorators(plain: Callable[..., bool]) -> Callable[..., bool]:
    """Functions under any decorator are mutated: mutmut's switch then stands beneath the decorators."""

    def skip(self: Any, node: cst.CSTNode) -> bool:
        return plain(self, node.with_changes(decorators=()) if isinstance(node, cst.FunctionDef) else node)

    return skip


def bare_copies(plain: Callable[..., Any]) -> Callable[..., Any]:
    """What the switch calls are functions without the decorators, which are around it already."""

    def arrange(function: cst.FunctionDef, *given: Any, **named: Any) -> Any:
        declared, nodes, assigned, names = plain(function, *given, **named)
        kinds = [d.decorator.value for d in function.decorators if isinstance(d.decorator, cst.Name)]
        if not {"staticmethod", "classmethod"} & {*kinds}:
            nodes = [nodes[0], *(node.with_changes(decorators=()) for node in nodes[1:])]
        return declared, nodes, assigned, names

    return arrange


def without_sentences(node: cst.BaseString) -> Iterable[cst.BaseString]:
    """mutmut's changes of a string, unless it is of several words."""
    return () if isinstance(node, cst.SimpleString) and " " in node.value else mutators.operator_string(node)


def sampled(plain: Callable[..., Any], count: int, seed: int, modules: Sequence[str]) -> Callable[..., Any]:
    """Of every module at most so many of the mutants."""

    def collect(**given: Any) -> Any:
        mutants, by_path = plain(**given)
        chosen: list[Any] = []
        for module in modules:
            of_module = sorted((m for m in mutants if str(m[0].path) == path(module)), key=lambda m: m[1])
            chosen += Random(seed).sample(of_module, min(count, len(of_module)))
        return chosen, by_path

    return collect


def same_here(before: str, after: str) -> bool:
    """Whether they differ only in a check of lengths that are equal anyway, or in the device, of which there is one."""

    def rest(line: str) -> str:
        line = re.sub(r"(, )?\b(strict=\w+|device=[\w.]+)", "", line)
        return re.sub(r",? *\)", ")", re.sub(r"\.to\((None|[\w.]*device)", ".to(", line))

    return rest(before) == rest(after)


def path(module: str) -> str:
    return f"src/personavec/{module}.py"


def prepare(folder: Path, modules: Sequence[str]) -> None:
    """A copy of the project in which mutmut works, so that nothing is left in this one."""
    for name in ("src", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    lists: Mapping[str, Sequence[str]] = {
        "source_paths": ["src/"],
        "only_mutate": [path(module) for module in modules],
        "pytest_add_cli_args": ["-p", "no:xdist", "-p", "no:cacheprovider", "-k", f"not ({' or '.join(LEFT_OUT)})"],
        "pytest_add_cli_args_test_selection": sorted({test for module in modules for test in MODULES[module]}),
    }
    lines = [f"{key} =\n    " + "\n    ".join(values) for key, values in lists.items()]
    lines += ["use_git_change_detection = false", "track_dependencies = false", "timeout_multiplier = 2.0"]
    (folder / "setup.cfg").write_text("[mutmut]\n" + "\n".join([*lines, "timeout_constant = 5.0"]) + "\n")


def changed(name: str) -> tuple[str, str]:
    """The lines that a mutant changes: before and after."""
    lines = get_diff_for_mutant(name).splitlines()[2:]
    before, after = ([line[1:].strip() for line in lines if line.startswith(sign)] for sign in "-+")
    return " ".join(before), " ".join(after)


def table(count: int, seed: int, modules: Sequence[str]) -> str:
    """The results of a run of mutmut that has ended, in the folder it ran in."""
    rows, left = [], []
    for module in modules:
        data = mutmut.SourceFileMutationData(path=Path(path(module)))
        data.load()
        tried = {name: status_by_exit_code[code] for name, code in data.exit_code_by_key.items() if code is not None}
        survivors = [name for name, status in tried.items() if status in ("survived", "no tests", "suspicious")]
        reasons: list[str | None] = []
        for name in sorted(survivors):
            before, after = changed(name)
            known = {part: why for part, why in EXPLAINED.get(module, {}).items() if part in after}
            why = next(iter(known.values()), None)
            if why is None and same_here(before, after):
                why = "lengths are equal anyway, and there is one device"
            reasons.append(why)
            function = name.rpartition(".")[2].partition("__mutmut")[0].lstrip("xǁ_").replace("ǁ", ".")
            left.append(f"- `{module}`, `{function}`: `{before}` → `{after}`: {why or '**not explained**'}")
        killed = len(tried) - len(survivors)
        share = f"{100 * killed / max(len(tried), 1):.0f} %"
        explained = sum(why is not None for why in reasons)
        rows.append(f"| {module} | {len(data.exit_code_by_key)} | {len(tried)} | {killed} | {share} | {explained} |"
                    f" {len(survivors) - explained} |")  # fmt: skip
    head = "| module | mutants | tried | killed | killed of tried | survivors explained | not explained |\n"
    note = f"At most {count} mutants of a module are tried, drawn with seed {seed}; a timeout counts as killed. Simulations\n"
    note += "of seconds are left out (a lower bound), and so are mutants of whole sentences."
    return "\n".join(["# Mutation testing: faults that the tests notice\n", head + "|---|---|---|---|---|---|---|", *rows,
                      f"\n{note} What is changed and how: `benchmarks/mutation.py`.\n", "## Survivors\n", *left, ""])  # fmt: skip


def main() -> None:

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", default=list(MODULES), metavar="MODULE")
    parser.add_argument("--sample", type=int, default=60)
    parser.add_argument("--seed", type=int, default=2, help="of the sample")
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()

    file_mutation.MutationVisitor._skip_node_and_children = with_decorators(
        file_mutation.MutationVisitor._skip_node_and_children
    )
    file_mutation.function_trampoline_arrangement = bare_copies(file_mutation.function_trampoline_arrangement)
    operators = [
        (kind, without_sentences if do is mutators.operator_string else do) for kind, do in mutators.mutation_operators
    ]
    file_mutation.mutation_operators = operators
    mutmut.Pool = Pool  # threads: what is patched here holds in them too
    mutmut.collect_source_file_mutation_data = sampled(
        mutmut.collect_source_file_mutation_data, asked.sample, asked.seed, asked.modules
    )
    # All tests have just passed, while it was recorded what they reach: one is enough for the second time.
    mutmut.tests_for_mutant_names = lambda _: {
        min(mutmut.state().duration_by_test.items(), key=lambda each: each[1])[0]
    }
    # No verdict may hang on how busy the machine is, or on what was drawn.
    settings.register_profile(
        "mutation", deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
    )
    os.environ.update(HYPOTHESIS_PROFILE="mutation", OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE")
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder), asked.modules)
        os.chdir(folder)
        reset_config()  # it was read on import, elsewhere
        sys.path.insert(0, str(Path(folder, "mutants/tests")))
        mutmut._run((), 1)
        text = table(asked.sample, asked.seed, asked.modules)
    print(text)
    if asked.write:
        (ROOT / "benchmarks/results/mutation.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
