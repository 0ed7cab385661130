"""Finished fine-tunes, made up, as their JSON and read back."""

from typing import Any

from personavec.finetune.result import FinetuneRun


def estimate(mean: float, half: float = 0.1, n: int = 20) -> dict[str, Any]:
    return {"mean": mean, "low": mean - half, "high": mean + half, "n": n}


def change(mean: float, half: float, start: float = 50.0) -> dict[str, Any]:
    return {"before": estimate(start, 5), "after": estimate(start + mean, 5), "change": estimate(mean, half)}


def trait(shift: dict[str, Any], score: dict[str, Any] | None, p_value: float = 0.005) -> dict[str, Any]:
    null = {"percentile": 99.0, "p_value": p_value, "p95": 0.4, "n": 200}
    return {
        "layer": 2, "shift": shift, "neutral_deviations": None, "nulls": {"isotropic": null, "covariance": null},
        "others": {}, "systems": [], "score": score, "coherence": None,
    }  # fmt: skip


def finished() -> dict[str, Any]:
    """As JSON: a run that measured nothing and prevented nothing."""
    return {
        "schema_version": 1, "command": "finetune", "personavec": "0.1.0", "arguments": {"seed": 0},
        "versions": {"python": "3.11.7"}, "machine": {"cpu": "A processor", "cores": 2, "device": "cpu"},
        "written": "2026-01-02T03:04:05+0000",
        "model": {
            "id": "tiny", "weights": "0123", "template": "4567", "n_layers": 3, "hidden_size": 32, "dtype": "float32",
            "device": "cpu",
        },
        "method": "none", "prevented": [], "prevention": None, "data": "data.jsonl", "format": "messages",
        "read": 10, "trained": 10, "held_out": 0, "rejected": 0, "cut": 0, "reasons": {},
        "steps": 1, "tokens": 100, "tokens_with_loss": 50,
        "loss": {"first": 2.0, "last": 2.0, "window": 1, "curve": [{"step": 1, "loss": 2.0}]},
        "held_out_loss": None, "shift": [], "measured": False, "projection_differences": {}, "systems": [],
        "answers": [], "seconds": 1.0, "training_seconds": 1.0, "peak_memory_bytes": 1, "warnings": [],
    }  # fmt: skip


def read(run: dict[str, Any]) -> FinetuneRun:
    return FinetuneRun.model_validate(run)
