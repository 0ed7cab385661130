"""Persona vectors on the Hugging Face hub: a file, its card, and what the file must hash to."""

from typing import TYPE_CHECKING

from personavec.lazy import offering

if TYPE_CHECKING:
    from personavec.hub.repository import Pushed, pull, push

__getattr__, __dir__ = offering(__name__, {"repository": ["Pushed", "pull", "push"]})

__all__ = ["Pushed", "pull", "push"]
