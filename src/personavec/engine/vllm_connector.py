"""Readings inside vLLM's workers: all that touches vLLM's inner interfaces (tested with 0.32, on the CPU).

vLLM's method `extract_hidden_states` keeps the residual stream of chosen layers beside the keys and values, in pages of
the same kind, so that prefix caching and chunked prefill work as always. Its example connector writes the states of
whole sequences to files when a request ends. This one reduces them where they are: the means of the request's spans, or
their scalar products with directions, stay on the worker until they are fetched.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor
from vllm.distributed.kv_transfer import get_kv_transfer_group
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorMetadata
from vllm.distributed.kv_transfer.kv_connector.v1.example_hidden_states_connector import ExampleHiddenStatesConnector
from vllm.v1.request import RequestStatus

SPANS, KEY = "personavec_spans", "personavec_key"  # in a request's kv_transfer_params
PIECE = 4096  # tokens whose states are copied out of the pages at a time


def options(layers: list[int]) -> dict[str, Any]:
    """What vLLM must be started with to read these layers (0 the embeddings, l the output of block l), in order."""
    return {
        "speculative_config": {
            "method": "extract_hidden_states",
            "num_speculative_tokens": 1,
            "draft_model_config": {"hf_config": {"eagle_aux_hidden_state_layer_ids": layers}},
        },
        "kv_transfer_config": {
            "kv_connector": ReadingConnector.__name__,
            "kv_connector_module_path": __name__,
            "kv_role": "kv_producer",
        },
        "worker_extension_cls": f"{__name__}.{ReadingWorker.__name__}",
    }


def request(key: str, spans: list[tuple[int, int]]) -> dict[str, Any]:
    """The `extra_args` of a request whose spans are read."""
    return {"kv_transfer_params": {KEY: key, SPANS: [list(span) for span in spans]}}


def nudge(llm: Any) -> None:
    """Let an engine in this process take the step in which the last requests' states are reduced.

    One in a process of its own takes it by itself.
    """
    core = llm.llm_engine.engine_core
    if hasattr(core, "engine_core"):
        core.get_output()


@dataclass
class _Pending:
    """A finished request whose pages are still held."""

    id: str
    key: str
    spans: list[list[int]]
    blocks: list[int]


@dataclass
class _Metadata(KVConnectorMetadata):
    """From the scheduler to the workers."""

    pending: list[_Pending] = field(default_factory=list)


class ReadingConnector(ExampleHiddenStatesConnector):
    """Reduces the states of finished requests; requests without spans are let pass."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._pending: list[_Pending] = []  # on the scheduler's side
        self._columns: list[int] = []  # the rest on the workers'
        self._directions: Tensor | None = None
        self._found: dict[str, Tensor] = {}

    # The scheduler's side.

    def request_finished(self, request: Any, block_ids: list[int]) -> tuple[bool, dict[str, Any] | None]:
        """Hold the pages of a request that is to be read until `get_finished` has done so."""
        params = request.kv_transfer_params or {}
        if not params.get(SPANS) or request.status == RequestStatus.FINISHED_ABORTED or not block_ids:
            return False, None
        self._pending.append(_Pending(request.request_id, params[KEY], params[SPANS], list(block_ids)))
        return True, None

    def build_connector_meta(self, scheduler_output: Any) -> KVConnectorMetadata:
        """Hand over what has finished since the last step."""
        made = _Metadata(self._pending)
        self._pending = []
        return made

    # The workers' side.

    def wait_for_save(self) -> None:
        """Nothing is saved during a step."""

    def get_finished(self, finished_req_ids: set[str]) -> tuple[set[str] | None, set[str] | None]:
        """Reduce what the scheduler handed over, and let go of its pages.

        The work is queued behind the forwards that filled the pages, and ahead of any that fills them anew.
        """
        metadata = self._get_connector_metadata() if self.has_connector_metadata() else None
        if not isinstance(metadata, _Metadata) or not self._is_tp_rank_zero:
            return None, None  # every rank holds the same states
        for pending in metadata.pending:
            self._found[pending.key] = self._reduce(pending)
        return {pending.id for pending in metadata.pending} or None, None

    @torch.inference_mode()
    def _reduce(self, pending: _Pending) -> Tensor:
        """(spans, layers, d), or (spans, layers, k) with directions, float32, on the worker's device; NaN if empty."""
        pages = self._kv_cache
        assert pages is not None
        device = pages.device
        blocks = torch.tensor(pending.blocks, device=device)
        places = torch.cat([torch.arange(start, end) for start, end in pending.spans]).to(device)
        counts = torch.tensor([end - start for start, end in pending.spans], device=device)
        owners = torch.repeat_interleave(torch.arange(len(counts), device=device), counts, output_size=len(places))
        sums = torch.zeros(len(counts), len(self._columns), pages.shape[-1], device=device)
        for start in range(0, len(places), PIECE):
            at, owner = places[start : start + PIECE], owners[start : start + PIECE]
            states = pages[blocks[at // self._block_size], :, at % self._block_size]
            sums.index_add_(0, owner, states[:, self._columns].float())
        means = sums / counts[:, None, None]
        return means if self._directions is None else torch.einsum("sld,lkd->slk", means, self._directions)

    def prepare(self, columns: list[int], directions: bytes | None) -> None:
        """What is wanted of the requests that follow; what was found before is dropped.

        Args:
            columns: Which of the layers vLLM was started with.
            directions: (columns, k, d) as safetensors; given, only scalar products with these are kept.
        """
        assert self._kv_cache is not None
        self._found, self._columns = {}, columns
        self._directions = None if directions is None else load(directions)["directions"].to(self._kv_cache.device)

    def take(self) -> bytes:
        """What was found since the last time, by the requests' keys, as safetensors."""
        found, self._found = self._found, {}
        return save({key: values.cpu().contiguous() for key, values in found.items()})


class ReadingWorker:
    """Methods of the workers that `collective_rpc` calls."""

    def personavec_prepare(self, columns: list[int], directions: bytes | None) -> None:
        """See `ReadingConnector.prepare`."""
        _connector().prepare(columns, directions)

    def personavec_take(self) -> bytes:
        """See `ReadingConnector.take`."""
        return _connector().take()


def _connector() -> ReadingConnector:
    connector = get_kv_transfer_group()
    assert isinstance(connector, ReadingConnector)
    return connector
