"""From a GGUF file to a folder of safetensors, as transformers and servers load it."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from functools import lru_cache
from io import StringIO
from pathlib import Path

from personavec.model.weights import load_weights
from personavec.progress import progress


def unpack(gguf: Path, folder: Path, dtype: str = "bfloat16", stop_tokens: Sequence[str] = ()) -> None:
    """Write a GGUF file's model and tokenizer into `folder` as transformers saves them, weights dequantised.

    Args:
        dtype: "bfloat16", "float16" or "float32".
        stop_tokens: What ends an answer, where the file does not say it; the last one also pads.
    """
    # Slow imports, not needed where the model is already prepared.
    import torch
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    kind = getattr(torch, dtype)
    # Newer versions can leave the weights packed, and then cannot save them.
    dense = (
        {"quantization_config": transformers.GgufConfig(dequantize=True)} if hasattr(transformers, "GgufConfig") else {}
    )
    try:
        with _parsed_once(), progress(f"Unpacking {gguf.name}, once", 3, "steps") as job:
            with redirect_stderr(StringIO()):  # a bar of the library's own
                tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
            job.advance()
            with redirect_stderr(StringIO()):
                loaded = load_weights(str(gguf), gguf.parent, gguf_file=gguf.name, dtype=kind, **dense)
            job.advance()
            # A model read from GGUF may refuse to be saved, even a dense one, so its weights move into a plain one.
            config = copy.deepcopy(loaded.config)
            for of_gguf_only in ("quantization_config", "_model_name_or_path"):
                vars(config).pop(of_gguf_only, None)
            with torch.device("meta"):
                plain = AutoModelForCausalLM.from_config(config, dtype=kind)
            plain.load_state_dict(loaded.state_dict(), assign=True)
            plain.generation_config = loaded.generation_config
            if stop_tokens:
                stops = tokenizer.convert_tokens_to_ids(list(stop_tokens))
                plain.generation_config = GenerationConfig(eos_token_id=stops, pad_token_id=stops[-1])
            plain.save_pretrained(folder)
            tokenizer.model_max_length = config.max_position_embeddings
            tokenizer.save_pretrained(folder)
            job.advance()
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def _parsed_once() -> Iterator[None]:
    """A file is parsed once, not four times as transformers does, and the table of tensor names is made once, not for
    every module: half of the time that unpacking a small model takes."""
    import gguf

    kept = gguf.GGUFReader, gguf.get_tensor_name_map
    gguf.GGUFReader, gguf.get_tensor_name_map = (lru_cache(maxsize=1)(each) for each in kept)
    try:
        yield
    finally:
        gguf.GGUFReader, gguf.get_tensor_name_map = kept
