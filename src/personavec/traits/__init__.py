"""Traits: what elicits a character trait and what scores it; the library, and writers of new ones."""

from personavec.traits.library import library_names, load_library, load_trait
from personavec.traits.trait import InstructionPair, Trait
from personavec.traits.writer import bank_questions, write_offline, write_with_llm

__all__ = [
    "InstructionPair",
    "Trait",
    "bank_questions",
    "library_names",
    "load_library",
    "load_trait",
    "write_offline",
    "write_with_llm",
]
