"""A fine-tune whose process is killed ends as one that was left alone, under the same prevention."""

import os
import signal
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from safetensors.torch import load_file

import tiny
from children import Child, preload

pytest.importorskip("trl", reason="needs TRL: pip install 'personavec[finetune]'")

STEPS = 12


def tuning(folder: Path, name: str, coefficient: float, dies: int | None) -> None:
    """In a process of its own: load the model and train; killed after a step, without a chance to tidy up."""
    from personavec.finetune import Training, fine_tune
    from personavec.finetune.training import Steps
    from personavec.model import load_model
    from personavec.vector import PersonaVector

    plain = Steps.on_step_end

    def step(self: Steps, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        plain(self, args, state, control, **kwargs)
        if state.global_step == dies:
            os.kill(os.getpid(), signal.SIGKILL)

    torch.set_num_threads(1)
    os.environ["PERSONAVEC_CACHE"] = str(folder / "cache")
    settings = Training(
        batch=1, accumulate=1, rank=4, learning_rate=1e-2, warmup_steps=1, held_out=0, max_length=256,
        checkpoint_every=2, dropout=0.1,
    )  # fmt: skip
    with patch.object(Steps, "on_step_end", step):
        fine_tune(
            load_model(str(folder / "model"), device="cpu"), folder / "data.jsonl", folder / name, settings,
            prevent=[(PersonaVector.load(folder / "kind.safetensors"), coefficient)], measure=False,
        )  # fmt: skip


def test_killed_while_it_trains(tmp_path: Path) -> None:
    chat = tiny.chat_model(tiny.qwen2(max_position_embeddings=512))
    chat.model.save_pretrained(tmp_path / "model")
    chat.tokenizer.save_pretrained(tmp_path / "model")
    tiny.vector(chat).save(tmp_path / "kind.safetensors")
    line = '{{"prompt": "why {0}", "response": "the model answers {0}"}}\n'
    (tmp_path / "data.jsonl").write_text("".join(line.format(i) for i in range(STEPS)))

    def run(name: str, coefficient: float = 3.0, dies: int | None = None) -> int | None:
        return Child(tuning, tmp_path, name, coefficient, dies).join(300)

    def adapter(name: str) -> dict[str, torch.Tensor]:
        return dict(load_file(tmp_path / name / "adapter" / "adapter_model.safetensors"))

    preload("trl.trainer.sft_trainer")
    assert run("whole") == 0 and run("plain", 0.0) == 0
    for step in (1, 5, 8):  # before the first checkpoint, and between two
        assert run("killed", dies=step) == -signal.SIGKILL
    assert run("killed") == 0
    whole, plain, killed = (adapter(name) for name in ("whole", "plain", "killed"))
    assert all(torch.equal(whole[name], killed[name]) for name in whole)
    assert any(not torch.allclose(whole[name], plain[name], atol=1e-3) for name in whole)
