"""What several tests share.

PyTorch and what imports it is left to the fixtures: the process that hands out the tests reads this file too, and the
others wait for it.
"""

import gc
import os
import pkgutil
import ssl
import sys
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
import typer.main
from hypothesis import settings

from children import server

if TYPE_CHECKING:
    from personavec.model import ChatModel

# The models of the tests are too small for more threads: here, and in the processes that tests start.
os.environ["OMP_NUM_THREADS"] = "1"
# bitsandbytes compiles functions as it is imported; no compiler needs to be imported for that, but where vLLM runs.
if find_spec("vllm") is None:
    os.environ["TORCH_BISECT_BACKEND"] = "eager"
# A busy machine makes no test fail.
settings.register_profile("tests", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "tests"))
# The command line is called many times in one process; typer would build it anew for each.
setattr(typer.main, "get_command", cache(typer.main.get_command))  # noqa: B010


# The longest files begin first, so that at the end no worker is left alone with one; then by name.
LONGEST = (
    "test_jobs", "study/test_study", "engine/test_cluster", "finetune/test_job", "finetune/test_character",
    "model/test_on_the_default_model", "model/test_default_model", "screening/test_screening", "screening/test_killed",
    "screening/test_estimate", "report/test_report", "finetune/test_prevention",
)  # fmt: skip


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    names = [f"{Path(__file__).parent / name}.py" for name in LONGEST]
    places = {name: place for place, name in enumerate(names)}
    items.sort(key=lambda item: places.get(str(item.path), len(names)))


def pytest_collection_finish() -> None:
    """What was imported stays: garbage collection need not go through it."""
    gc.collect()
    gc.freeze()
    server()


@pytest.fixture(autouse=True, scope="session")
def uncollected() -> Iterator[None]:
    """Every training ends with a garbage collection through all that the tests before it left, for nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("accelerate.utils.memory.gc", SimpleNamespace(collect=lambda: 0))
        yield


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of reference data beside the checkout; tests that need it skip where it is missing."""
    folder = Path(__file__).parents[1] / "../shared/data"
    if not folder.is_dir():
        pytest.skip("needs the reference data, which is not part of the project")
    return folder.resolve()


@pytest.fixture(autouse=True, scope="session")
def small_forwards() -> None:
    """Models so small spend their time on attention, which grows with the square of the tokens in a forward."""
    from personavec import likelihood, readout

    readout.CPU_TOKENS, likelihood.BATCH_TOKENS = 256, 512


@pytest.fixture
def few_passages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four of the bundled passages in place of forty, for time."""
    from personavec.capability import passages

    few = passages.PASSAGES.read_text(encoding="utf-8").splitlines(keepends=True)[:4]
    (tmp_path / "passages.jsonl").write_text("".join(few), encoding="utf-8")
    monkeypatch.setattr(passages, "PASSAGES", tmp_path / "passages.jsonl")


EMPTY = b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1 1"/>'


@pytest.fixture(autouse=True)
def undrawn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pictures of reports are painted, but drawn as SVG only for tests marked `drawn`, for time."""
    if request.node.get_closest_marker("drawn"):
        return
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda self, buffer, **_: buffer.write(EMPTY))


@pytest.fixture
def unpainted(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor painted, for files with many runs whose pictures others look at."""
    if not request.node.get_closest_marker("drawn"):
        monkeypatch.setattr("personavec.report.drawing._painted", lambda *_: EMPTY)


@pytest.fixture
def short_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before and after a fine-tune answers have 16 tokens at most in place of 48, for time."""
    monkeypatch.setattr("personavec.finetune.character.MAX_NEW_TOKENS", 16)


@pytest.fixture(autouse=True, scope="session")
def _certificates_read_once() -> Iterator[None]:
    """For time: every API client reads them anew, though none here has a use for them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ssl, "create_default_context", cache(ssl.create_default_context))
        yield


@pytest.fixture(scope="session", autouse=True)
def _plain_trainings() -> Iterator[None]:
    """For time: no model card for every checkpoint, no count of operations, packages looked for once."""
    with pytest.MonkeyPatch.context() as patch:
        if "peft" in sys.modules:
            patch.setattr("peft.PeftModel.create_or_update_model_card", lambda self, output_dir: None)
            imports = "accelerate.utils.imports._is_package_available"
            patch.setattr(imports, cache(pkgutil.resolve_name(imports)))
        if "trl" in sys.modules:
            patch.setattr("trl.trainer.base_trainer._BaseTrainer.create_model_card", lambda *_, **__: None)
            patch.setattr("transformers.Trainer.floating_point_ops", lambda self, inputs: 0)
        yield


@pytest.fixture(scope="session")
def tiny() -> "ChatModel":
    """A Qwen2 of three layers with random weights; not to be changed."""
    from tiny import chat_model

    return chat_model()
