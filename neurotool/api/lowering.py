"""From a model to a Lava bundle: the rooms `export` (lowering) and `lava_runtime` (emulator, bundle) together."""

import hashlib
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from neurotool.api.model import NOTHING, Model
from neurotool.api.reading import ModelInputs, Reader
from neurotool.errors import ConfigError, ExportError
from neurotool.executor import Run
from neurotool.graph import Graph, Input, Neuron
from neurotool.inputs import Given
from neurotool.lava_runtime.bundle import MANIFEST, Bundle
from neurotool.lava_runtime.emulator import Emulator
from neurotool.streams import in_time

RANGE_BATCHES = 2
"""Ranges of values are taken from that many batches; nearly all are proven from the weights anyway."""


def ranges(graph: Graph, texts: ModelInputs) -> dict[str, float]:
    """Largest |output| of every node on the first inputs."""
    emulator: Any = in_time(graph, Emulator)
    largest: dict[str, float] = {}
    for batch in texts.batches()[:RANGE_BATCHES]:
        for name, value in emulator.run(**batch, observe=True).largest.items():
            largest[name] = max(value, largest.get(name, 0))
    return largest


class Errors:
    """What the fixed-point graph does otherwise than the one with real parameters, on the calibration inputs."""

    def __init__(self, exact: Graph, fixed: Graph) -> None:
        self.exact, self.fixed = exact, fixed
        self.logits: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
        self.differences: dict[str, list[float]] = {name: [] for name in exact.of_type(Neuron)}
        self.rates: dict[str, list[float]] = {name: [] for name in exact.of_type(Neuron)}
        self.spikes: dict[str, list[int]] = {name: [0, 0] for name in exact.of_type(Neuron)}
        """Sent, and other than with real parameters; of networks without tokens, which are stepped in any case."""

    def run(self, batches: Iterable[dict[str, Any]]) -> "Errors":
        exact: Any = in_time(self.exact, Emulator)
        fixed: Any = in_time(self.fixed, Emulator)
        record = () if self.exact.has_tokens else tuple(self.spikes)
        for batch in batches:
            a, b = (executor.run(**batch, record=record, observe=True) for executor in (exact, fixed))
            self._compare(a, b, batch.get("attention_mask"))
        return self

    def _compare(self, a: Run, b: Run, mask: Any) -> None:
        for name, rates in a.rates.items():
            without = mask is None or not self.exact.has_tokens
            real = np.ones(rates.shape[:2], bool) if without else np.asarray(mask).astype(bool)
            self.differences[name].append(float(np.abs(rates - b.rates[name])[real].mean()))
            self.rates[name].append(float(np.abs(rates)[real].mean()))
        for name, spikes in a.spikes.items():
            self.spikes[name][0] += int(np.count_nonzero(spikes))
            self.spikes[name][1] += int(np.count_nonzero(spikes != b.spikes[name]))
        for logits, of in zip(self.logits, (a, b), strict=True):
            if of.logits is not None:
                logits.append(of.logits)

    def layers(self) -> list[dict[str, Any]]:
        """Per node with a weight: its relative error, and the bits of its widest integer; per neuron layer: mean rate
        and mean |difference| of rates, and without tokens how many spikes it sent and how many are there or not that
        should not or should be."""
        from neurotool.export.lower import weight_error
        from neurotool.export.placement import weight_bits

        rows: list[dict[str, Any]] = []
        for name, node in self.exact.nodes.items():
            if isinstance(node, Neuron):
                rate, difference = np.mean(self.rates[name]), np.mean(self.differences[name])
                row = {"layer": name, "rate": float(rate), "rate_error": float(difference)}
                if not self.exact.has_tokens:
                    row |= dict(zip(("spikes", "differing_spikes"), self.spikes[name], strict=True))
                rows.append(row)
            elif hasattr(node, "weight"):
                weight: np.ndarray = self.fixed.nodes[name].weight  # type: ignore[attr-defined]
                error = weight_error(self.exact, self.fixed, name)
                rows.append({"layer": name, "weight_error": error, "weight_bits": weight_bits(weight)})
        return rows

    def metrics(self, reader: Reader | None, labels: np.ndarray | None) -> dict[str, Any]:
        """Of the graph before and after; {} without labels."""
        if reader is None or labels is None or not self.logits[0]:
            return {}
        from neurotool.tasks import compute_metrics

        before, after = (compute_metrics(reader.task, np.concatenate(logits), labels) for logits in self.logits)
        return {"before": before, "after": after}


class Quantisation(NamedTuple):
    """fixed: integers, else the rest does not matter. data, samples: what to calibrate on; the validation data by
    default; given: what else, for a network that reads no text. per_layer, shift_softmax, precise: as in
    `neurotool.export.lower.lower`; precise also where the student was trained for it."""

    fixed: bool = True
    per_layer: bool = False
    shift_softmax: bool = False
    precise: bool = False
    data: Path | None = None
    samples: int = 128
    given: Given = NOTHING


def make_bundle(model: Model, how: Quantisation) -> Bundle:
    """Calibrate, lower and measure; with real parameters (`fixed` False) only wrap.

    A bundle in integers stays as it is: ConfigError where an option asks for other integers.
    """
    path, graph = model.path, model.graph
    if graph.fixed_point:
        asked = {"--precision float": not how.fixed, "--per-layer": how.per_layer, "--softmax shift": how.shift_softmax}
        asked |= {"--precise": how.precise}
        asked |= {f"--data {how.data}": how.data is not None, f"--input {how.given.source}": bool(how.given.files)}
        for option, given in asked.items():
            if given:
                raise ConfigError(f"{option}: {path} holds integers already; export the checkpoint with it")
        assert model.bundle is not None
        return model.bundle
    if how.fixed and not (graph.is_spiking or graph.of_type(Input)):
        raise ExportError(
            f"{path} has no neurons, and integers with the bits of a spiking chip are too coarse for a dense network: "
            "--target lava --precision float runs it in simulation, --target nir keeps it"
        )
    content = (path / MANIFEST if path.is_dir() else path).read_bytes()
    record: dict[str, Any] = {
        "source": {"name": path.name.encode(errors="replace").decode(), "sha256": hashlib.sha256(content).hexdigest()}
    }
    task: dict[str, Any] = {}
    precise = how.precise
    if model.reader is not None:
        training = model.reader.training
        task, plan = asdict(model.reader.task), training.get("plan", {})
        precise = precise or bool(plan.get("integer_aware"))
        record["plan"] = {key: plan[key] for key in ("data", "task", "max_length") if key in plan}
        record["data"] = {"hashes": training.get("data", {}).get("hashes", {})}
    if how.fixed:
        from neurotool.export.lower import lower

        told, texts = model.ready(how.data, how.samples, how.given)
        graph = told.graph
        exact, graph = graph, lower(graph, ranges(graph, texts), how.per_layer, how.shift_softmax, precise)
        errors = Errors(exact, graph).run(texts.batches())
        record["calibration"] = {"source": texts.source, "inputs": len(texts.inputs)}
        record["calibration"] |= errors.metrics(model.reader, texts.labels)
        exponents = "layer" if how.per_layer else "output channel"
        softmax = "powers of two" if how.shift_softmax else "precise" if precise else "I-BERT's polynomial"
        record["quantisation"] = {
            "exponent_per": exponents,
            "softmax": softmax,
            "layers": errors.layers(),
        }
    return Bundle(graph, dict(model.tokenizer_files), task, record)
