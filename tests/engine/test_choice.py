"""`--engine`: what is refused before anything is loaded."""

import sys
from pathlib import Path

import pytest

from personavec.cli import main
from personavec.engine.choice import open_engine
from personavec.errors import UserError
from personavec.model import ChatModel
from personavec.model.checkpoint import Checkpoint
from personavec.screening.judge import scorers
from tiny import vector


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--engine", "llama"], "Choose transformers or vllm"),
        (["--engine", "vllm", "--device", "cpu"], "--device does not go with --engine vllm"),
        (["--engine", "vllm", "--adapter", "lora"], "--adapter does not go with --engine vllm or --ray"),
        (["--ray", "local", "--thinking"], "--thinking does not go with --engine vllm or --ray"),
        (["--engine", "vllm"], "pip install 'personavec[vllm]'"),
    ],
)
def test_what_cannot_be_chosen(
    options: list[str],
    message: str,
    tiny: ChatModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "vllm.platforms", None)  # also where it is installed
    vector(tiny).save(tmp_path / "kind.safetensors")
    data = tmp_path / "data.jsonl"
    data.write_text('{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "well"}]}')
    given = ["screen", data, "-v", tmp_path / "kind.safetensors", "--out", tmp_path / "run", *options]
    monkeypatch.setattr("sys.argv", ["personavec", *map(str, given)])
    with pytest.raises(SystemExit) as exit:
        main()
    assert exit.value.code == 2
    assert message in capsys.readouterr().err


def test_the_contrast_judge_needs_the_model_itself(tiny: ChatModel, tmp_path: Path) -> None:
    tiny.model.save_pretrained(tmp_path)
    tiny.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="needs the model in this process"):
        scorers(Checkpoint(tmp_path, "tiny"), "contrast", [vector(tiny)])


def test_gpus_that_idle_are_told_of(
    tiny: ChatModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tiny.model.save_pretrained(tmp_path)
    tiny.tokenizer.save_pretrained(tmp_path)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    open_engine("transformers", str(tmp_path), device="cpu")
    assert not caplog.messages
    open_engine("transformers", str(tmp_path))
    assert caplog.messages == ["Of 3 GPUs one is used. All work with `ray` local, and with `engine` vllm."]
