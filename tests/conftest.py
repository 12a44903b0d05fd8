"""Shared by all tests: one thread, no network, patient hypothesis, and the optional shared data."""

import os
from pathlib import Path

# Before torch or transformers is imported by any test.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
from hypothesis import settings

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
