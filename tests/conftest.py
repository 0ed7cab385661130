"""What several tests share."""

import os
from pathlib import Path

import pytest
import torch

from personavec.model import ChatModel
from tiny import chat_model

# The models of the tests are too small for more threads: here, and in the processes that tests start.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of reference data beside the checkout; tests that need it skip where it is missing."""
    folder = Path(__file__).parents[1] / "../shared/data"
    if not folder.is_dir():
        pytest.skip("needs the reference data, which is not part of the project")
    return folder.resolve()


@pytest.fixture(scope="session")
def tiny() -> ChatModel:
    """A Qwen2 of three layers with random weights; not to be changed."""
    return chat_model()
