"""Shared by all tests: one thread, no network, patient hypothesis, and the optional shared data."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Before torch or transformers is imported by any test.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from neurotool.student import SpikingBertForSequenceClassification

ROOT = Path(__file__).resolve().parent.parent

# On a busy machine the first example of a torch test takes longer than any deadline worth having.
settings.register_profile("neurotool", deadline=None)
settings.load_profile("neurotool")


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root of the working tree."""
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with development data (`$NEUROTOOL_SHARED`, else `../shared`); the test is skipped without it."""
    folder = Path(os.environ.get("NEUROTOOL_SHARED", ROOT.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no development data at {folder} (set NEUROTOOL_SHARED)")
    return folder


@pytest.fixture(scope="session")
def make_student() -> "Callable[..., SpikingBertForSequenceClassification]":
    """Builds a student of 2 layers x 16 in eval mode, with weights so large that its neurons spike at all rates.

    Arguments: seed, and any value of its configuration.
    """
    import torch

    from neurotool.student import SpikingBertConfig, SpikingBertForSequenceClassification

    tiny: dict[str, Any] = {
        "vocab_size": 30,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "max_position_embeddings": 16,
        "initializer_range": 0.4,
    }

    def make(seed: int = 0, **values: Any) -> SpikingBertForSequenceClassification:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return SpikingBertForSequenceClassification(SpikingBertConfig(**tiny | values)).eval()

    return make
