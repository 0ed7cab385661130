"""The only code that knows transformers' internals: loading, templates to tokens, blocks and hooks, generation."""

from personavec.model.chat import ChatModel
from personavec.model.generate import Request, Response
from personavec.model.identity import weights_hash
from personavec.model.load import load_model
from personavec.model.template import Conversation

__all__ = ["ChatModel", "Conversation", "Request", "Response", "load_model", "weights_hash"]
