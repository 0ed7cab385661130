"""What chat data project to, and what stands beside it: the directions, the model's own answers, the clean chats."""

from pathlib import Path
from typing import Literal

CLEAN = Path(__file__).with_name("clean.jsonl")  # the bundled clean chats
Turns = Literal["all", "last"]  # which of the assistant's turns count
