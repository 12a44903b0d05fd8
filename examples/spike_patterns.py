"""Spike patterns told apart by their timing alone: trained, pruned, exported, run on Lava, counted.

    python examples/spike_patterns.py [FOLDER] [SEEDS] [EPOCHS]

Every recording has the same number of spikes in every channel, whatever its class, so that rates say nothing. A class is
when they come: each channel has a spike at a time of the class's own, moved by jitter, and others at random times.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import neurotool
from neurotool.inputs import Given

CLASSES, CHANNELS, STEPS = 4, 16, 60
TOLD, JITTER, DISTRACTORS = 2, 2.0, 2
"""Spikes of a channel that belong to the pattern, the standard deviation of their times, and those that do not."""


def recordings(templates: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """(count, STEPS, CHANNELS) of one class; templates: the times of its spikes, (CHANNELS, TOLD)."""
    spikes = np.zeros((count, STEPS, CHANNELS), np.int8)
    for one in spikes:
        for channel, times in enumerate(templates):
            moved = np.clip(np.rint(times + random.normal(0, JITTER, TOLD)), 0, STEPS - 1).astype(int)
            one[moved, channel] = 1
            free = np.flatnonzero(one[:, channel] == 0)
            missing = TOLD + DISTRACTORS - one[:, channel].sum()
            one[random.choice(free, missing, replace=False), channel] = 1
    return spikes


def make(folder: Path, train: int = 200, validation: int = 50, seed: int = 0) -> None:
    """train/ and validation/ with a file for each class, and so many recordings in each."""
    random = np.random.default_rng(seed)
    templates = random.integers(0, STEPS, (CLASSES, CHANNELS, TOLD))
    for split, count in (("train", train), ("validation", validation)):
        (folder / split).mkdir(parents=True, exist_ok=True)
        for name, times in zip("ABCDEFGH", templates, strict=False):
            np.savez_compressed(folder / split / f"{name}.npz", spikes=recordings(times, count, random))
