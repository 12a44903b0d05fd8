"""Spike patterns told apart by their timing alone: trained, pruned, exported, run on Lava, counted.

    python examples/spike_patterns.py [FOLDER] [SEEDS] [EPOCHS]

Every recording has the same number of spikes in every channel, whatever its class, so that rates say nothing. A class
is when they come: in each channel at two times of the class's own, moved by jitter, among others at random times.
Neurons with a synaptic current (CubaLIF) tell the classes apart better than those without (LIF).
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import neurotool
from neurotool.api.measuring import Source, measure
from neurotool.graph import CubaLIF

CLASSES, CHANNELS, STEPS = "ABCD", 16, 60
TOLD, DISTRACTORS, JITTER = 2, 4, 3.0
"""Spikes of a channel that belong to the pattern, others, and the standard deviation of the times of the first."""


def recordings(pattern: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """(count, STEPS, CHANNELS) of one class; pattern: the times of its spikes, (CHANNELS, TOLD)."""
    spikes = np.zeros((count, STEPS, CHANNELS), np.int8)
    for one in spikes:
        for channel, times in enumerate(pattern):
            moved = np.rint(times + random.normal(0, JITTER, TOLD)).clip(0, STEPS - 1).astype(int)
            one[moved, channel] = 1
            silent = np.flatnonzero(one[:, channel] == 0)
            others = TOLD + DISTRACTORS - one[:, channel].sum()  # two of the pattern may have met
            one[random.choice(silent, others, replace=False), channel] = 1
    return spikes


def write(folder: Path, train: int = 200, validation: int = 50, seed: int = 0) -> None:
    """train/ and validation/ with a file for each class: what `neurotool train --input spikes --data` reads."""
    random = np.random.default_rng(seed)
    patterns = random.integers(0, STEPS, (len(CLASSES), CHANNELS, TOLD))
    for split, count in (("train", train), ("validation", validation)):
        (folder / split).mkdir(parents=True, exist_ok=True)
        for name, pattern in zip(CLASSES, patterns, strict=True):
            np.savez_compressed(folder / split / f"{name}.npz", spikes=recordings(pattern, count, random))


def train(folder: Path, output: str, epochs: float, **options: Any) -> neurotool.Model:
    return neurotool.distil(
        folder / "data",
        output=folder / output,
        student="streaming",
        input="spikes",
        hidden_size=64,
        epochs=epochs,
        learning_rate=3e-3,
        force=True,
        **options,
    )


def main(folder: Path, seeds: int = 3, epochs: float = 12) -> None:
    write(folder / "data")
    accuracy: dict[str, list[float]] = {"LIF": [], "CubaLIF": []}
    for seed in range(seeds):
        for neurons, tau_syn in (("LIF", "none"), ("CubaLIF", "learned")):
            model = train(folder, f"{neurons}.ckpt", epochs, tau_syn=tau_syn, seed=seed)
            accuracy[neurons].append(model.record["metrics"]["accuracy"])
    for neurons, found in accuracy.items():
        print(f"{neurons:8} accuracy {np.mean(found):.3f} (seeds: {', '.join(f'{one:.3f}' for one in found)})")

    model = train(folder, "pruned.ckpt", epochs, prune=0.5)
    node = model.graph.nodes["encoder.0"]
    assert isinstance(node, CubaLIF)
    tau_syn, tau_mem = (1 / (1 - float(leak)) for leak in (node.current_leak, node.leak))
    right = model.record["metrics"]["accuracy"]
    print(f"CubaLIF, half of the weights 0: accuracy {right:.3f}, tau_syn {tau_syn:.1f}, tau_mem {tau_mem:.1f} steps")

    model.export(folder / "patterns.nir", force=True)
    print("from the .nir file the same spikes:", neurotool.compare(model, folder / "patterns.nir", samples=4).passed)

    report = model.export(folder / "patterns.lava", "lava", samples=50, force=True)
    (row,) = (row for row in report["quantisation"]["layers"] if "differing_spikes" in row)
    before, after = (report["calibration"][when]["accuracy"] for when in ("before", "after"))
    print(
        f"in integers: {row['differing_spikes']} of {row['spikes']} spikes differ, accuracy {before:.3f} -> {after:.3f}"
    )
    bundle = neurotool.open(folder / "patterns.lava")
    on_lava = neurotool.compare((bundle, "emulator"), (bundle, "lava"), samples=2)
    print("on Lava the same spikes:", on_lava.passed)

    done = measure(model, Source(samples=20, skip_zero=True)).counts.total()
    print(
        f"a recording: {done.accumulates / 20:.0f} synaptic operations, {done.updates / 20:.0f} updates of neurons and "
        f"integrators with {done.leaks / 20:.0f} decays"
    )


if __name__ == "__main__":
    arguments = sys.argv[1:]
    main(Path(arguments[0] if arguments else tempfile.mkdtemp()), *map(int, arguments[1:]))
