"""Where a report comes from: enough to make it again."""

import hashlib
import subprocess
import sys
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

from neurotool.energy.counts import Counts
from neurotool.graph import Neuron

DIGITS = 16
"""Of a hash: enough to tell files apart."""


def provenance(
    model: Path, data: Path | None, counts: Counts, training: dict[str, Any] | None = None
) -> dict[str, str]:
    """Lines of name and value; training: the training record, where there is one."""
    training = training or {}
    neurons = [node for node in counts.graph.nodes.values() if isinstance(node, Neuron)]
    hashes = training.get("data", {}).get("hashes", {})
    said = {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "version": f"neurotool {version('neurotool')}",
        "commit": _commit(),
        "command": " ".join(["neurotool", *sys.argv[1:]]),
        "model": f"{model}, sha256 {_hash(model)}",
        "data": "" if data is None else f"{data}, sha256 {_hash(data)}",
        "data of training": ", ".join(f"{split} sha256 {digest[:DIGITS]}" for split, digest in hashes.items()),
        "seed of training": str(training.get("seed", "")),
        "T": str(counts.time_steps) if neurons else "",
        "schedule": counts.graph.schedule if neurons else "",
        "reset": _choices(node.reset for node in neurons),
        "leak": _choices(_range(node.leak) for node in neurons),
        "spikes": _choices(node.spikes for node in neurons),
    }
    return {name: value for name, value in said.items() if value}


def _choices(values: Any) -> str:
    return ", ".join(dict.fromkeys(values))


def _range(leak: Any) -> str:
    import numpy as np

    low, high = float(np.min(leak)), float(np.max(leak))
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def _hash(path: Path) -> str:
    """Of a file, or of all files of a folder in the order of their names."""
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            with file.open("rb") as stream:
                while chunk := stream.read(1 << 20):
                    digest.update(chunk)
    return digest.hexdigest()[:DIGITS]


def _commit() -> str:
    """Of the checkout that this code lies in; empty where it is installed without one."""
    command = ["git", "-C", str(Path(__file__).resolve().parent), "rev-parse", "--short=12", "HEAD"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return result.stdout.strip() if result.returncode == 0 else ""
