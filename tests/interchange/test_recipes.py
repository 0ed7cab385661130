"""The snippets of docs/recipes.md whose requirements are ours run, and steer."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from personavec import export_vector, steer
from personavec.model import ChatModel
from personavec.vector import PersonaVector
from tiny import causal_model, qwen2, tokenizer, vector

PAGE = Path(__file__).parents[2] / "docs/recipes.md"


def snippet(heading: str) -> str:
    section = PAGE.read_text(encoding="utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    found = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert found is not None
    return found[1]


@pytest.fixture
def exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[ChatModel, PersonaVector]:
    """A model and what it exports, where the snippets look for them."""
    model = ChatModel(causal_model(qwen2(), 8), tokenizer(), "tiny")
    model.model.save_pretrained(tmp_path / "model")
    model.tokenizer.save_pretrained(tmp_path / "model")
    persona = vector(model)
    for form, out in (("peft", "adapter"), ("bake", "baked")):
        export_vector(model, [(persona, 1.5)], form, tmp_path / out)
    monkeypatch.chdir(tmp_path)
    return model, persona


def run(heading: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    with torch.no_grad():
        exec(compile(snippet(heading), heading, "exec"), names)
    return names


def test_peft(exported: tuple[ChatModel, PersonaVector]) -> None:
    model, persona = exported
    names = run("PEFT")
    assert names["ids"]["input_ids"][0].tolist() == model.prompt_ids([{"role": "user", "content": "How was your day?"}])
    with torch.no_grad():
        plain = model.model(**names["both"]).logits
        with steer(model.model, persona, 1.5, positions="all"):
            steered = model.model(**names["both"]).logits
        with steer(model.model, persona, 0.75, positions="all"):
            half = model.model(**names["ids"]).logits
        torch.testing.assert_close(names["logits"], torch.stack([steered[0], plain[1]]), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(names["model"](**names["ids"]).logits, half, rtol=1e-4, atol=1e-4)


def test_transformers(exported: tuple[ChatModel, PersonaVector]) -> None:
    model, persona = exported
    names = run("transformers")
    inputs = model.model.dummy_inputs
    with torch.no_grad():
        with steer(model.model, persona, 1.5, positions="all"):
            steered = model.model(**inputs).logits
        torch.testing.assert_close(names["logits"], steered, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(names["baked"](**inputs).logits, steered, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(names["model"](**inputs).logits, model.model(**inputs).logits)
