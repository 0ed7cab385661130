"""Persona vectors: extract, evaluate, monitor and steer the character of open chat models.

Example:
    >>> import personavec as pv
    >>> model = pv.load_model()
    >>> vector = pv.extract(model, pv.load_trait("humorous"), "runs/humorous").vector
    >>> model.answer("What is love?", pv.steering(vector, 1.5))
"""

from typing import TYPE_CHECKING

from personavec.lazy import offering

if TYPE_CHECKING:
    from personavec.combination import combine, specific
    from personavec.errors import UserError
    from personavec.evaluation import evaluate
    from personavec.extraction import (
        Extraction,
        ExtractionSettings,
        TextSettings,
        TextsExtraction,
        extract,
        extract_from_texts,
        taught_texts,
    )
    from personavec.finetune import (
        PreventativeSteering,
        ShiftMonitor,
        Training,
        Tuned,
        fine_tune,
        preventing,
        shift_limits,
    )
    from personavec.interchange.forms import export_vector
    from personavec.interventions import ablation, capping, flooring, intervening, steer, steering
    from personavec.model import ChatModel, Conversation, Request, Response, load_model
    from personavec.monitoring import monitor, project
    from personavec.readout import Readings, read
    from personavec.screening import projector, screen, screen_files
    from personavec.traits import Trait, load_trait, write_offline, write_with_llm
    from personavec.vector import PersonaVector

__getattr__, __dir__ = offering(
    __name__,
    {
        "combination": ["combine", "specific"],
        "errors": ["UserError"],
        "evaluation": ["evaluate"],
        "extraction": [
            "Extraction",
            "ExtractionSettings",
            "TextSettings",
            "TextsExtraction",
            "extract",
            "extract_from_texts",
            "taught_texts",
        ],
        "finetune": [
            "PreventativeSteering",
            "ShiftMonitor",
            "Training",
            "Tuned",
            "fine_tune",
            "preventing",
            "shift_limits",
        ],
        "interchange.forms": ["export_vector"],
        "interventions": ["ablation", "capping", "flooring", "intervening", "steer", "steering"],
        "model": ["ChatModel", "Conversation", "Request", "Response", "load_model"],
        "monitoring": ["monitor", "project"],
        "readout": ["Readings", "read"],
        "screening": ["projector", "screen", "screen_files"],
        "traits": ["Trait", "load_trait", "write_offline", "write_with_llm"],
        "vector": ["PersonaVector"],
    },
)

__all__ = [
    "ChatModel",
    "Conversation",
    "Extraction",
    "ExtractionSettings",
    "PersonaVector",
    "PreventativeSteering",
    "Readings",
    "Request",
    "Response",
    "ShiftMonitor",
    "TextSettings",
    "TextsExtraction",
    "Training",
    "Trait",
    "Tuned",
    "UserError",
    "ablation",
    "capping",
    "combine",
    "evaluate",
    "export_vector",
    "extract",
    "extract_from_texts",
    "fine_tune",
    "flooring",
    "intervening",
    "load_model",
    "load_trait",
    "monitor",
    "preventing",
    "project",
    "projector",
    "read",
    "screen",
    "screen_files",
    "shift_limits",
    "specific",
    "steer",
    "steering",
    "taught_texts",
    "write_offline",
    "write_with_llm",
]
