"""llama.cpp, in a process and an environment of its own (`exports.py --llama-cpp PYTHON` starts it).

    python3 -m venv /tmp/llama && /tmp/llama/bin/pip install xllamacpp

That wheel holds all of llama.cpp in one library, whose functions are called here as its programs call them: the file
is read by `common_control_vector_load`, which is what stands behind `--control-vector`, and what it gives goes to
`llama_set_adapter_cvec`. (Calls of C++ by value: x86-64 and libstdc++, as the wheel is built.)

Protocol: one JSON object a line. In: {"model": file}, then {"file", "scale", "shift", "prompts", "tokens", "logits"}.
Out: {"version"}, then {"answers"}; the logits of every prompt's last token go into the file `logits`, float32.
"""

from __future__ import annotations

import ctypes as c
import json
import struct
import sys
from array import array
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

LOAD = "_Z26common_control_vector_loadRKSt6vectorI31common_control_vector_load_infoSaIS0_EE"


class Parameters(c.Structure):
    """Of a model, a context or a batch, as llama.cpp fills and reads them; longer than each of them."""

    _fields_ = (("n_ctx", c.c_uint32), ("rest", c.c_char * 1020))


class Vector(c.Structure):
    _fields_ = (("begin", c.c_void_p), ("end", c.c_void_p), ("room", c.c_void_p))


class LoadInfo(c.Structure):
    _fields_ = (("strength", c.c_float), ("text", c.c_void_p))  # a string of the library's ABI, the older one


class Loaded(c.Structure):
    _fields_ = (("n_embd", c.c_int), ("data", Vector))


def library() -> Any:
    package = find_spec("xllamacpp")
    assert package is not None and package.origin is not None
    [path] = Path(package.origin).parent.glob("xllamacpp*.so")
    lib = c.CDLL(str(path))
    pointer, number = c.c_void_p, c.c_int32
    signatures: dict[str, tuple[Any, tuple[Any, ...]]] = {
        LOAD: (None, (c.POINTER(Loaded), c.POINTER(Vector))),  # what is returned by value is written behind a pointer
        "llama_backend_init": (None, ()),
        "llama_model_default_params": (Parameters, ()),
        "llama_context_default_params": (Parameters, ()),
        "llama_model_load_from_file": (pointer, (c.c_char_p, Parameters)),
        "llama_init_from_model": (pointer, (pointer, Parameters)),
        "llama_set_n_threads": (None, (pointer, number, number)),
        "llama_model_get_vocab": (pointer, (pointer,)),
        "llama_vocab_n_tokens": (number, (pointer,)),
        "llama_vocab_is_eog": (c.c_bool, (pointer, number)),
        "llama_model_n_embd": (number, (pointer,)),
        "llama_model_n_layer": (number, (pointer,)),
        "llama_set_adapter_cvec": (number, (pointer, pointer, c.c_size_t, number, number, number)),
        "llama_get_memory": (pointer, (pointer,)),
        "llama_memory_clear": (None, (pointer, c.c_bool)),
        "llama_batch_get_one": (Parameters, (pointer, number)),
        "llama_decode": (number, (pointer, Parameters)),
        "llama_get_logits_ith": (pointer, (pointer, number)),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(lib, name)
        function.restype, function.argtypes = result, arguments
    return lib


class Engine:
    def __init__(self, path: str) -> None:
        self.lib = library()
        self.lib.llama_backend_init()
        self.model = self.lib.llama_model_load_from_file(path.encode(), self.lib.llama_model_default_params())
        settings = self.lib.llama_context_default_params()
        settings.n_ctx = 1024
        self.context = self.lib.llama_init_from_model(self.model, settings)
        self.lib.llama_set_n_threads(self.context, 1, 1)
        vocabulary = self.lib.llama_model_get_vocab(self.model)
        self.size = self.lib.llama_vocab_n_tokens(vocabulary)
        self.ends = {token for token in range(self.size) if self.lib.llama_vocab_is_eog(vocabulary, token)}

    def directions(self, file: str, scale: float) -> array[float]:
        """Of the blocks 1, 2, ..., counted from 0, one behind the other, by llama.cpp's own loader."""
        name = file.encode()
        text = c.create_string_buffer(struct.pack("QQq", len(name), len(name), 0) + name)  # length, room, owners
        info = LoadInfo(scale, c.addressof(text) + 24)
        start = c.addressof(info)
        end = start + c.sizeof(info)
        loaded = Loaded()
        getattr(self.lib, LOAD)(c.byref(loaded), c.byref(Vector(start, end, end)))
        if loaded.n_embd != self.lib.llama_model_n_embd(self.model):
            raise SystemExit(f"llama.cpp refuses {file}.")
        found = array("f")
        found.frombytes(c.string_at(loaded.data.begin, loaded.data.end - loaded.data.begin))
        return found

    def steer(self, file: str | None, scale: float, shift: int) -> None:
        """`shift` moves every direction by so many blocks, which is what a wrong layer map does.

        Blocks that a shorter buffer does not reach would keep what they were given before.
        """
        width, blocks = self.lib.llama_model_n_embd(self.model), self.lib.llama_model_n_layer(self.model)
        data = array("f", bytes(4 * width * (blocks - 1)))
        if file:
            held = self.directions(file, scale)
            data[width * shift : width * shift + len(held)] = held
        if self.lib.llama_set_adapter_cvec(self.context, data.buffer_info()[0], len(data), width, 1, blocks):
            raise SystemExit("llama.cpp refuses the control vector.")

    def answer(self, prompt: list[int], tokens: int) -> tuple[bytes, list[int]]:
        """Logits after the prompt, and greedy tokens."""
        self.lib.llama_memory_clear(self.lib.llama_get_memory(self.context), True)
        first = self.decode(prompt)
        logits, answer = first, []
        while len(answer) < tokens:
            token = max(range(self.size), key=logits.__getitem__)
            if token in self.ends:
                break
            answer.append(token)
            logits = self.decode([token])
        return first.tobytes(), answer

    def decode(self, ids: list[int]) -> array[float]:
        tokens = (c.c_int32 * len(ids))(*ids)
        if self.lib.llama_decode(self.context, self.lib.llama_batch_get_one(tokens, len(ids))):
            raise SystemExit("llama.cpp could not decode.")
        found = array("f")
        found.frombytes(c.string_at(self.lib.llama_get_logits_ith(self.context, -1), 4 * self.size))
        return found


def main() -> None:
    engine = Engine(json.loads(sys.stdin.readline())["model"])
    print(json.dumps({"version": f"xllamacpp {version('xllamacpp')}"}), flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        engine.steer(job["file"], job["scale"], job["shift"])
        answers = []
        with Path(job["logits"]).open("wb") as handle:
            for prompt in job["prompts"]:
                logits, answer = engine.answer(prompt, job["tokens"])
                handle.write(logits)
                answers.append(answer)
        print(json.dumps({"answers": answers}), flush=True)


if __name__ == "__main__":
    main()
