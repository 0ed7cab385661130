"""ChatModel: a causal language model with its tokenizer, chat template and blocks."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from personavec.errors import UserError
from personavec.model.adapter import probe_tokens
from personavec.model.batches import additive, by_length, padded
from personavec.model.blocks import Blocks, NotFiniteError, find_blocks
from personavec.model.edits import Intervention
from personavec.model.evaluating import evaluating
from personavec.model.generate import DECODINGS, Decoding, Generator, Request, Response
from personavec.model.identity import adapter_hash, weights_hash
from personavec.model.messages import Message
from personavec.model.template import Template
from personavec.model.vocabulary import check_vocabulary

# What a forward raises that a family was not made for.
UNUSABLE = (TypeError, ValueError, RuntimeError, AttributeError, IndexError, KeyError, AssertionError)


def stop_ids(sources: Iterable[Any], template: Template) -> frozenset[int]:
    """Token ids that end the assistant's turn.

    Args:
        sources: What may name them in `eos_token_id`: configs, the tokenizer.
    """
    found: set[int] = set()
    for source in sources:
        value = getattr(source, "eos_token_id", None)
        found |= {value} if isinstance(value, int) else set(value or ())
    opening = template.prompt_ids([{"role": "user", "content": "x"}])
    # Chat markers that some checkpoints forget to list; a template's own end-of-turn mark must stop its answers.
    for mark in ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>"):
        token = template.tokenizer.get_vocab().get(mark)
        if token is not None and token in opening and not template.goes_on(token):
            found.add(token)
    return frozenset(found)


def context_length(config: Any) -> int:
    """Most tokens that a model of this (text) config takes."""
    return getattr(config, "max_position_embeddings", None) or 1 << 30


class ChatModel:
    """A chat model ready to be read and steered.

    Args:
        model: A transformers causal language model (PEFT-wrapped or quantised ones too).
        tokenizer: Its tokenizer.
        id: What the user calls it.
        thinking: See `Template`.

    Attributes:
        blocks: The decoder blocks, checked against a real forward.
        n_layers: Number of blocks; layers count from 1.
        hidden_size: Width d of the residual stream.
        context_length: Most tokens of prompt and response together.
    """

    def __init__(self, model: Any, tokenizer: Any, id: str, *, thinking: bool = False) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.id = id
        self.blocks = self._found_blocks()
        self.template = Template(tokenizer, thinking=thinking)
        rows = model.get_input_embeddings().weight.shape[0]
        if note := check_vocabulary(id, tokenizer, self.template, rows):
            self.template.notes.append(note)
        config = model.config.get_text_config()
        self.n_layers = len(self.blocks)
        self.hidden_size: int = config.hidden_size
        self.context_length = context_length(config)
        self.device: torch.device = model.get_input_embeddings().weight.device
        self.dtype: torch.dtype = model.dtype
        self._prove()

    def _found_blocks(self) -> Blocks:
        try:
            return find_blocks(self.model)
        except UserError as error:
            if hasattr(self.model, "peft_config") and not isinstance(error, NotFiniteError):
                raise self._other_forward("they do not run alone") from error
            raise

    @torch.inference_mode()
    def _prove(self) -> None:
        """Prove that the trunk and the head, which all is read and generated with, are the whole model.

        What acts in the forward around them, as a tuned prompt does, would be left out without a word.

        Raises:
            UserError: Their logits are not the model's.
        """
        adapters = getattr(self.model, "peft_config", {}).values()
        if any(getattr(config, "is_prompt_learning", False) for config in adapters):  # however little it does
            raise self._other_forward("it is a tuned prompt")
        embeddings = self.model.get_input_embeddings()
        rows = embeddings.weight.shape[0]
        ids = [token % rows for token in (5, 6, 7, *probe_tokens(self.model), 8, 9)]
        tokens = torch.tensor([ids], device=self.device)
        ours = self.head(self._trunk(input_ids=tokens)[0]).float()
        try:
            whole = self.model(input_ids=tokens, use_cache=False).logits[0].float()
        except (TypeError, ValueError, RuntimeError, AttributeError, IndexError) as error:
            raise self._other_forward(f"its own forward fails: {type(error).__name__} {error}") from error
        if whole.shape != ours.shape:
            raise self._other_forward(f"it gives {len(whole)} tokens for {len(ours)}")
        if not bool(whole.isfinite().all()):
            raise NotFiniteError(self.model)
        if not bool(whole.any()):
            raise UserError(
                f"The weights of {self.id} are all 0 where it matters: its logits are.", "Give the trained model."
            )
        apart = float((whole - ours.to(whole.device)).norm() / whole.norm())
        if not apart < (1e-4 if self.dtype == torch.float32 else 0.01):
            raise self._other_forward(f"its logits differ by {100 * apart:.2g} %")

    def _other_forward(self, how: str) -> UserError:
        configs = getattr(self.model, "peft_config", {}).values()
        kinds = sorted({str(getattr(config.peft_type, "value", config.peft_type)) for config in configs})
        if kinds:
            return UserError(
                f"The adapter of {self.id} ({', '.join(kinds)}) acts outside of the decoder blocks, where "
                f"personavec does not run it ({how}).",
                "Use an adapter of the weights, such as LoRA, or merge it into the model.",
            )
        return UserError(
            f"{type(self.model).__name__} does more than its decoder blocks and its head do ({how}).",
            "This architecture is not supported yet; please report the model's name.",
        )

    @property
    def has_system_role(self) -> bool:
        """See `Template`."""
        return self.template.has_system_role

    @cached_property
    def weights_hash(self) -> str:
        """See `weights_hash`."""
        return weights_hash(self.model)

    @cached_property
    def adapter_hash(self) -> str | None:
        """Short hash of a PEFT adapter's weights; None without one."""
        if not hasattr(self.model, "peft_config"):
            return None
        return adapter_hash(self.model)

    @cached_property
    def stop_ids(self) -> frozenset[int]:
        """Token ids that end the assistant's turn."""
        generation = getattr(self.model, "generation_config", None)
        return stop_ids((generation, self.model.config, self.tokenizer), self.template)

    def head(self, hidden: Tensor) -> Tensor:
        """Logits (n, vocabulary) from hidden states after the final norm (n, d)."""
        logits: Tensor = self.model.get_output_embeddings()(hidden)
        config = self.model.config.get_text_config()
        scale = getattr(config, "logit_scale", None) or getattr(config, "lm_head_multiplier", None)
        divisor = getattr(config, "logits_scaling", None)
        cap = getattr(config, "final_logit_softcapping", None) or getattr(config, "logits_soft_cap", None)
        if scale:
            logits = logits * scale
        if divisor:
            logits = logits / divisor
        return cap * torch.tanh(logits / cap) if cap else logits

    @cached_property
    def packs(self) -> bool:
        """Whether several answers may share one prefix in one sequence: attention is full at every layer.

        Decided from the config, then proved: a packed forward and two plain ones must give the same hidden states.
        """
        config = self.model.config.get_text_config()
        kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
        if kinds - {"full_attention"} or (
            getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
        ):
            return False
        with self._proving():
            return self._packed_equals_plain()

    @contextmanager
    def _proving(self) -> Iterator[None]:
        """The bare model: proofs are made when they are first asked for, perhaps in the middle of a training."""
        with torch.inference_mode(), evaluating(self.model), self.blocks.unwatched():
            yield

    def _packed_equals_plain(self) -> bool:
        ids = torch.tensor([[5, 6, 7, 8, 9]], device=self.device) % self.tokenizer.vocab_size
        allowed = torch.ones(5, 5, dtype=torch.bool, device=self.device).tril()
        allowed[3:, 2] = False  # tokens 0, 1 are the prefix; 2 the first answer; 3, 4 the second
        positions = torch.tensor([[0, 1, 2, 2, 3]], device=self.device)
        try:
            packed = self._trunk(
                input_ids=ids, attention_mask=additive(allowed[None, None], self.dtype), position_ids=positions
            )
            plain = self._trunk(input_ids=ids[:, [0, 1, 3, 4]])
        except UNUSABLE:
            return False
        return self._same(packed[0, 3:], plain[0, 2:])

    @cached_property
    def pads(self) -> bool:
        """Whether rows of different lengths may share a forward, padded on the right.

        Proved: two of different lengths must have the hidden states that each has alone.
        """
        with self._proving():
            return self._pads()

    def _pads(self) -> bool:
        long, short = self._proof_rows()
        ids, mask = padded([long, short], self.device)
        try:
            together = self._trunk(input_ids=ids, attention_mask=mask)
        except UNUSABLE:
            return False
        alone = [self._trunk(input_ids=torch.tensor([row], device=self.device)) for row in (long, short)]
        return all(self._same(together[i, : row.shape[1]], row[0]) for i, row in enumerate(alone))

    @cached_property
    def decoding(self) -> Decoding:
        """How this model generates: the fastest way whose hidden states are those of plain forwards without a cache.

        Proved on prompts of different lengths, with a few tokens after each.
        """
        ways = DECODINGS if self.packs and self.pads else DECODINGS[1:]
        with self._proving():
            return next((way for way in ways[:-1] if self._decodes(way)), ways[-1])

    def _decodes(self, decoding: Decoding) -> bool:
        long, short = self._proof_rows()
        plain = {
            len(row): self._trunk(input_ids=torch.tensor([row + [7] * 2], device=self.device))[0, len(row) - 1 :]
            for row in (long, short)
        }
        # Two prompts of different lengths in one batch; then one that goes through in pieces, where that is done.
        for rows, prompt_tokens in (([short, long], 1024), ([long], 4)):
            try:
                states = self._decoded(rows, decoding, prompt_tokens)
            except UNUSABLE:
                return False
            if not all(self._same(states[i], plain[len(row)]) for i, row in enumerate(rows)):
                return False
        return True

    def _decoded(self, rows: Sequence[list[int]], decoding: Decoding, prompt_tokens: int) -> Tensor:
        """States (rows, 3, d) from which three tokens after each prompt, the shortest first, are drawn."""
        seen: list[Tensor] = []
        vocabulary = self.model.get_input_embeddings().weight.shape[0]

        def head(hidden: Tensor) -> Tensor:  # whatever the model thinks, each response is the token 7 again and again
            seen.append(hidden)
            return torch.nn.functional.one_hot(hidden.new_full(hidden.shape[:1], 7).long(), vocabulary)

        generator = Generator(
            self.blocks, head, frozenset(), places=2, decoding=decoding, prompt_tokens=prompt_tokens, cache_tokens=1024
        )
        generator.run([Request(row, 3, 0.0) for row in rows], lambda *_: None)
        states = torch.stack(seen)  # (steps, rows, d), or one row after the other
        return states.transpose(0, 1) if len(seen) == 3 else states.view(len(rows), 3, -1)

    def _proof_rows(self) -> tuple[list[int], list[int]]:
        ids = [5 + i % 50 for i in range(0, 99, 9)]
        return ids, ids[3:7]

    def _same(self, a: Tensor, b: Tensor) -> bool:
        """Equal up to rounding, which is that of bfloat16 where single tokens are multiplied with four-bit weights."""
        a, b = a.float(), b.float()
        exact = self.dtype == torch.float32 and not getattr(self.model, "is_loaded_in_4bit", False)
        return bool(((a - b).norm() / b.norm()) < (1e-3 if exact else 0.05))

    def _trunk(self, **inputs: Any) -> Tensor:
        hidden: Tensor = self.blocks.trunk(use_cache=False, **inputs).last_hidden_state
        return hidden

    @cached_property
    def places(self) -> int:
        """How many responses are generated side by side by default."""
        return 64 if self.device.type == "cpu" else 256

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of a prompt: the messages and the opening of the assistant's turn."""
        return self.template.prompt_ids(messages)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of response token ids."""
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=True)
        return text

    def generate(
        self,
        requests: Sequence[Request],
        finished: Callable[[int, Response], None] | None = None,
        *,
        token: Callable[[int, int], None] | None = None,
        places: int | None = None,
    ) -> list[Response]:
        """Generate responses, batched; see `Request` for seeds and steering of each.

        Args:
            finished: Called with (index, response) as soon as each is done.
            token: Called with (index, token id) as each token is drawn (streaming).
            places: How many run side by side.

        Returns:
            One response per request, in their order.

        Raises:
            UserError: A prompt and its longest response do not fit the context.
        """
        for request in requests:
            self.check_fits(len(request.prompt_ids), request.max_new_tokens)
        responses: dict[int, Response] = {}

        def collect(index: int, response: Response) -> None:
            responses[index] = response
            if finished is not None:
                finished(index, response)

        generator = Generator(
            self.blocks,
            self.head,
            self.stop_ids,
            places=places or self.places,
            decoding=self.decoding,
            prompt_tokens=1024 if self.device.type == "cpu" else 16384,
            cache_tokens=self.cache_tokens(),
        )
        generator.run(requests, collect, token)
        return [responses[i] for i in range(len(requests))]

    def cache_tokens(self) -> int:
        """How many tokens' keys and values fit: in 60 % of what is free on a GPU, in 4 GB of main memory."""
        memory = 0.6 * torch.cuda.mem_get_info(self.device)[0] if self.device.type == "cuda" else 4 << 30
        return int(memory // self._bytes_per_token)

    @cached_property
    def _bytes_per_token(self) -> int:
        """Of keys and values, measured, for configs say it in many ways; one hidden state's where none are kept."""
        row, _ = self._proof_rows()
        layers: Sequence[Any] = ()
        if self.decoding in ("places", "batch"):
            with self._proving():
                output = self.blocks.trunk(input_ids=torch.tensor([row], device=self.device), use_cache=True)
            layers = getattr(output.get("past_key_values"), "layers", ())
        kept = [getattr(layer, name, None) for layer in layers for name in ("keys", "values")]
        size = sum(tensor.nbytes for tensor in kept if isinstance(tensor, Tensor)) // len(row)
        return max(size, self.hidden_size * self.blocks.dtype.itemsize)

    def answer(
        self,
        prompt: str,
        interventions: Sequence[Intervention] = (),
        *,
        system: str | None = None,
        max_new_tokens: int = 120,
        temperature: float = 0.7,
        seed: int = 0,
    ) -> str:
        """Answer one prompt, steered as asked: `model.answer("What is love?", steering(vector, 1.5))`."""
        messages = [{"role": "system", "content": system}] if system is not None else []
        ids = self.prompt_ids([*messages, {"role": "user", "content": prompt}])
        return self.decode(self.generate([Request(ids, max_new_tokens, temperature, seed, interventions)])[0].ids)

    @contextmanager
    def unadapted(self) -> Iterator[None]:
        """The model without its PEFT adapter, if it has one."""
        disable = getattr(self.model, "disable_adapter", None)
        with disable() if disable is not None and hasattr(self.model, "peft_config") else nullcontext():
            yield

    def check_fits(self, prompt_tokens: int, new_tokens: int) -> None:
        """Refuse a prompt that leaves no room for its response.

        Raises:
            UserError: With the numbers, and what to shorten.
        """
        if prompt_tokens == 0:
            raise UserError("The prompt is empty.", "Write at least one word.")
        if prompt_tokens + new_tokens > self.context_length:
            raise UserError(
                f"A prompt of {prompt_tokens} tokens and a response of up to {new_tokens} exceed the model's context "
                f"of {self.context_length} tokens.",
                "Shorten the prompt or lower `max_new_tokens`.",
            )

    def side_by_side(self, lengths: Sequence[int], budget: int) -> list[list[int]]:
        """Indices of the rows of each forward, see `by_length`; one each where the model does not ignore padding."""
        return by_length(lengths, budget if self.pads else 0)

    @torch.inference_mode()
    def next_token_logprobs(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """Log-probabilities (n, vocabulary), float32 on the CPU, of the token after each prompt."""
        result: list[Tensor] = [torch.empty(0)] * len(prompts)
        for batch in self.side_by_side([len(prompt) for prompt in prompts], 2048):
            ids, mask = padded([prompts[i] for i in batch], self.device)
            hidden = self._trunk(input_ids=ids, **({"attention_mask": mask} if len(batch) > 1 else {}))
            last = hidden[torch.arange(len(batch)), mask.sum(1) - 1]
            for i, row in zip(batch, self.head(last).float().log_softmax(-1).cpu(), strict=True):
                result[i] = row
        return torch.stack(result)
