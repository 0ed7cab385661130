# mypy: disable-error-code="index, no-any-return"
"""Every family of decoders: blocks found and proved, readings, generation and steering equal to the plain way."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
import transformers as tf
from torch import nn

from families import FAMILIES, family_model
from personavec.errors import UserError
from personavec.interventions import intervening, steer, steering
from personavec.likelihood import sequence_losses
from personavec.model import ChatModel, Conversation, Request, weights_hash
from personavec.model.blocks import find_blocks
from personavec.readout import read
from tiny import SIZES, causal_model, chat_model, editing, plain_greedy, plain_states, random_ids, tokenizer, vector

PACKED = {"llama", "qwen2", "qwen3", "qwen3-moe", "mistral", "mixtral", "phi", "phi3", "gpt-neox", "gpt2", "olmo2"}
PACKED |= {"granite", "cohere"}
NO_LAYER_0 = {"mamba", "mamba2", "rwkv"}
UNBATCHED = {"minimax-linear-first": "alone", "mamba": "unmasked", "rwkv": "alone", "recurrent-gemma": "recompute"}


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> tuple[str, ChatModel]:
    name: str = request.param
    return name, family_model(name)


def prompts(count: int = 4) -> list[list[int]]:
    """Of mixed lengths; the first and the last are equal."""
    made = [random_ids(length, length) for length in (9, 17, 1, 23)[: count - 1]]
    return [*made, list(made[0])]


def block_modules(model: Any) -> nn.ModuleList:
    """Where the blocks are, written out per family."""
    names = ("transformer", "gpt_neox", "backbone", "rwkv", "model")
    inner = next(getattr(model, name) for name in names if hasattr(model, name))
    return next(getattr(inner, name) for name in ("h", "blocks", "layers") if hasattr(inner, name))


def test_blocks_are_the_decoder_blocks(family: tuple[str, ChatModel]) -> None:
    _, model = family
    assert model.blocks.layers is block_modules(model.model)
    assert model.n_layers == model.model.config.num_hidden_layers
    assert model.hidden_size == 32


def test_packing_only_where_attention_is_full(family: tuple[str, ChatModel]) -> None:
    name, model = family
    assert model.packs == (name in PACKED)


def test_generation_takes_the_fastest_way_that_is_right(family: tuple[str, ChatModel]) -> None:
    name, model = family
    assert model.decoding == ("places" if name in PACKED else UNBATCHED.get(name, "batch"))


def test_readings_equal_plain_forwards(family: tuple[str, ChatModel]) -> None:
    name, model = family
    conversations = []
    for i, prompt in enumerate(prompts()):
        ids = prompt + random_ids(5 + 3 * i, 100 + i)
        conversations.append(
            Conversation(ids, [(0, len(prompt)), (len(prompt) - 1, len(prompt)), (len(prompt), len(ids))])
        )
    readings = read(model, conversations, log_likelihood=True)
    row = 0
    for conversation in conversations:
        states, logits = plain_states(model.model, block_modules(model.model), conversation.ids)
        with torch.no_grad():
            hidden = model.model(input_ids=torch.tensor([conversation.ids]), output_hidden_states=True).hidden_states
        logprobs = logits.log_softmax(-1)
        for low, high in conversation.spans:
            torch.testing.assert_close(readings.means[row], states[:, low:high].mean(1), rtol=1e-4, atol=1e-4)
            # The last of transformers' own rows is taken after the final norm; recurrent families lack the first.
            for layer in range(int(name in NO_LAYER_0), model.n_layers):
                expected = hidden[layer - int(name in NO_LAYER_0)][0, low:high].mean(0)
                torch.testing.assert_close(readings.means[row, layer], expected, rtol=1e-4, atol=1e-4)
            picked = [float(logprobs[t - 1, conversation.ids[t]]) for t in range(max(low, 1), high)]
            if picked:
                expected_mean = sum(picked) / len(picked)
                assert float(readings.log_likelihood[row]) == pytest.approx(expected_mean, abs=1e-3)
            row += 1
    assert row == len(readings.means)


def test_greedy_generation_equals_transformers(family: tuple[str, ChatModel]) -> None:
    _, model = family
    requests = [Request(prompt, 8, 0.0) for prompt in prompts()]
    responses = model.generate(requests, places=3)
    assert responses[-1] == responses[0]  # of the same prompt
    for request, response in zip(requests[:-1], responses, strict=False):
        stop = min(model.stop_ids)
        out = model.model.generate(
            torch.tensor([request.prompt_ids]), max_new_tokens=8, do_sample=False, eos_token_id=stop, pad_token_id=0
        )[0, len(request.prompt_ids) :].tolist()
        assert response.ids == [token for token in out if token != stop]
        assert response.finished == (out[-1] == stop)


def test_steering_equals_the_formula(family: tuple[str, ChatModel]) -> None:
    _, model = family
    persona = vector(model)
    ids = torch.tensor([random_ids(11, 1), random_ids(11, 2)])
    handle = editing(block_modules(model.model)[1], lambda hidden: hidden + 1.5 * persona.directions[2])
    with torch.no_grad():
        by_hand = model.model(input_ids=ids).logits
        handle.remove()
        with steer(model.model, persona, 1.5, positions="all"):
            steered = model.model(input_ids=ids).logits
        plain = model.model(input_ids=ids).logits
    torch.testing.assert_close(steered, by_hand, rtol=1e-5, atol=1e-5)
    assert (plain - steered).abs().max() > 0.1

    prompt = ids[0].tolist()
    edits = steering(persona, 1.5, positions="all")
    [response] = model.generate([Request(prompt, 5, 0.0, interventions=edits)])
    with intervening(model, [edits]):
        assert response.ids == plain_greedy(model.model, prompt, 5)[: len(response.ids)]
    assert len(response.ids) == 5 or response.finished


def test_steering_before_the_first_block(family: tuple[str, ChatModel]) -> None:
    """Layer 0 is what goes into the first block: an edit there is seen by everything after it."""
    _, model = family
    ids = random_ids(7, 3)
    states, _ = plain_states(model.model, block_modules(model.model), ids)
    with model.blocks.watching({0: lambda hidden: hidden * torch.linspace(0.2, 1, 32)}):  # some norms undo scales
        edited, _ = plain_states(model.model, block_modules(model.model), ids)
    seen: list[torch.Tensor] = []
    with model.blocks.watching({0: lambda hidden: seen.append(hidden.clone())}):
        model.model(input_ids=torch.tensor([ids]))
    torch.testing.assert_close(seen[0][0], states[0])
    assert (edited[1] - states[1]).abs().max() > 1e-3


def minding_padding(model: ChatModel) -> ChatModel:
    """Its positions are counted from the width of the padded batch, so that padding changes every row's states."""
    forward = model.blocks.trunk.forward

    def shifted(ids: Any = None, **inputs: Any) -> Any:
        inputs["input_ids"] = inputs.get("input_ids") if ids is None else ids
        mask, place = inputs.get("attention_mask"), inputs.pop("position_ids", None)
        if place is None:
            start = inputs["past_key_values"].get_seq_length() if inputs.get("past_key_values") else 0
            place = start + torch.arange(inputs["input_ids"].shape[1])[None]
        padding = 0 if mask is None or mask.dim() > 2 else int((mask == 0).sum())
        return forward(**inputs, position_ids=place + padding)

    model.blocks.trunk.forward = shifted
    return model


def test_a_family_that_minds_padding_runs_rows_alone() -> None:
    model = minding_padding(chat_model(FAMILIES["gpt2"]()))
    assert model.packs and not model.pads
    assert model.decoding == "alone"
    rows = prompts()
    plain = [plain_states(model.model, block_modules(model.model), ids) for ids in rows]
    logs = [logits.log_softmax(-1) for _, logits in plain]
    loss = [float(-log[range(len(ids) - 1), ids[1:]].mean()) for log, ids in zip(logs, rows, strict=True)]

    readings = read(model, [Conversation(ids, [(0, len(ids))]) for ids in rows], log_likelihood=True)
    torch.testing.assert_close(readings.means, torch.stack([states.mean(1) for states, _ in plain]))
    assert readings.log_likelihood is not None
    assert readings.log_likelihood.tolist() == pytest.approx([-value for value in loss], nan_ok=True)
    torch.testing.assert_close(model.next_token_logprobs(rows), torch.stack([log[-1] for log in logs]))
    longer = [ids for ids in rows if len(ids) > 1]
    assert sequence_losses(model, longer, longer, name="loss").tolist() == pytest.approx([x for x in loss if x == x])
    for ids, response in zip(rows, model.generate([Request(ids, 8, 0.0) for ids in rows]), strict=True):
        assert response.ids == plain_greedy(model.model, ids, 8)[: len(response.ids)]


def test_proofs_see_the_bare_model() -> None:
    model = chat_model()
    edits = steering(vector(model), 50.0, positions="all")
    with intervening(model, [edits, edits, edits]) as steered:  # rows that no proof has
        assert model.pads and model.packs and model.decoding == "places"
        assert steered.fired == 0
        model.next_token_logprobs([[5, 6], [7, 8], [9, 5]])
        assert steered.fired == 1


def test_a_model_that_reads_in_both_directions_is_refused() -> None:
    config = tf.BertConfig(vocab_size=320, hidden_size=32, num_hidden_layers=2, num_attention_heads=4)
    with pytest.raises(UserError, match="BertLMHeadModel reads text in both directions"):
        find_blocks(causal_model(config))


def test_encoder_decoder_is_refused() -> None:
    config = tf.T5Config(
        vocab_size=320, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, decoder_start_token_id=0
    )
    with pytest.raises(UserError, match="T5ForConditionalGeneration is an encoder-decoder"):
        find_blocks(tf.T5ForConditionalGeneration(config))


def test_model_without_a_list_of_blocks_is_refused() -> None:
    model = causal_model(tf.LlamaConfig(**SIZES))
    model.model.layers = nn.ModuleList(model.model.layers[:2])  # not the three that the config counts
    with pytest.raises(UserError, match="Found 0 lists of 3 decoder blocks in LlamaForCausalLM"):
        find_blocks(model)


class Trunk(nn.Module):
    """Three blocks that are run in a given order, with something in between."""

    def __init__(self, order: Sequence[int], between: float) -> None:
        super().__init__()
        self.order, self.between = order, between
        self.config = tf.LlamaConfig(**SIZES)
        self.embeddings = nn.Embedding(320, 32)
        self.layers = nn.ModuleList(nn.Linear(32, 32) for _ in range(3))

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embeddings

    def forward(self, input_ids: torch.Tensor, use_cache: bool) -> torch.Tensor:
        hidden = self.embeddings(input_ids)
        for index in self.order:
            hidden = self.layers[index](hidden) * self.between
        return hidden


def test_only_a_chain_is_taken_for_blocks() -> None:
    trunk = Trunk([0, 1, 2], 1.0)
    assert find_blocks(trunk).layers is trunk.layers
    for order, between in (([0, 1, 2], 0.5), ([2, 1, 0], 1.0), ([0, 1], 1.0), ([0, 1, 2, 2], 1.0)):
        with pytest.raises(UserError, match="Found 0 lists of 3"):
            find_blocks(Trunk(order, between))


def test_what_is_no_transformers_model_is_refused() -> None:
    with pytest.raises(UserError, match="Linear is not a transformers model"):
        find_blocks(nn.Linear(2, 2))


def test_finding_blocks_leaves_no_trace() -> None:
    model = causal_model(tf.LlamaConfig(**SIZES))
    model.train()
    find_blocks(model)
    assert model.training and model.model.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_bfloat16_reads_like_float32() -> None:
    model = family_model("qwen2")
    half = ChatModel(causal_model(tf.Qwen2Config(**SIZES)).bfloat16(), tokenizer(), "half")
    ids = random_ids(40, 5)
    conversation = [Conversation(ids, [(20, 40)])]
    a, b = read(model, conversation).means, read(half, conversation).means
    assert b.dtype == torch.float32
    assert float(torch.cosine_similarity(a, b, dim=-1).min()) > 0.999
    assert half.weights_hash == model.weights_hash  # one vector serves every dtype
    assert weights_hash(causal_model(tf.Qwen2Config(**SIZES), seed=1)) != model.weights_hash
