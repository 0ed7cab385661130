"""Monitoring: what is read before an answer, and during it."""

import pytest
import torch

from personavec.model import ChatModel
from personavec.monitoring.job import project
from tiny import CHATML, causal_model, plain_states, qwen2, tokenizer, vector

OPENS_THOUGHT = CHATML.replace("assistant\n{% endif", "assistant\n<think>\n{% endif")


@pytest.mark.parametrize("template", [CHATML, OPENS_THOUGHT])
@pytest.mark.parametrize("said", ["hello there", "<think>\nhm, the user\n</think>\n\nhello there"])
def test_before_is_read_at_the_end_of_the_prompt(template: str, said: str) -> None:
    """Also where a thought stands between the prompt and the answer, which is not read."""
    model = ChatModel(causal_model(qwen2()), tokenizer(template, added=["<think>", "</think>"]), "tiny")
    question = [{"role": "user", "content": "hi"}]
    prompt = model.prompt_ids(question)
    ids = [*prompt, *model.template.answer_ids(said)]
    if template == OPENS_THOUGHT:
        if "<think>" in said:
            ids = [*prompt, *model.template.answer_ids(said.removeprefix("<think>\n"))]
        else:  # an empty thought
            ids = [*prompt, *model.template.answer_ids("\n</think>\n\n"), *model.template.answer_ids(said)]
    spoken = len(model.template.answer_ids("hello there"))
    persona = vector(model)
    along = plain_states(model.model, model.blocks.layers, ids)[0][persona.layer] @ persona.unit(persona.layer)
    [[seen]] = project(model, [[*question, {"role": "assistant", "content": said}]], [persona])
    torch.testing.assert_close(seen["kind"].before, float(along[len(prompt) - 1]), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(seen["kind"].during, float(along[-spoken:].mean()), rtol=1e-4, atol=1e-4)
