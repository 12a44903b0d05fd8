"""Design rules of a Loihi-class chip: small functions that look at one limit and say whether it holds."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from neurotool.export.chip import Chip
from neurotool.export.placement import PLACES, Placed, exceeded, index_bits, pays_from, weight_bits
from neurotool.graph import Graph, Neuron, Weighted

Status = Literal["pass", "fail", "host", "not checked"]


@dataclass(frozen=True)
class Finding:
    """What one rule says. limit and source: of the chip; empty where it is not a matter of a number."""

    rule: str
    status: Status
    detail: str
    limit: str = ""
    source: str = ""


@dataclass(frozen=True)
class Design:
    """What the rules look at. placed: one token's copy of each population."""

    graph: Graph
    chip: Chip
    placed: dict[str, Placed]

    def synapses(self) -> dict[str, Weighted]:
        """Nodes with weights, but for the readout."""
        return {name: node for name, node in self.graph.nodes.items() if isinstance(node, Weighted) and not node.at_end}

    def finding(self, rule: str, limit: str, offenders: list[str], detail: str) -> Finding:
        """Pass without offenders; not checked where the chip names no limit."""
        if limit not in self.chip.limits:
            return Finding(rule, "not checked", f"{self.chip.name}: no limit {limit} is known")
        found = self.chip.limits[limit]
        source = f"{found.source} ({found.status})"
        if offenders:
            return Finding(rule, "fail", listed(offenders), str(found), source)
        return Finding(rule, "pass", detail, str(found), source)


def weights_fit_the_format(design: Design) -> Finding:
    """Mantissas have no more bits than a synapse."""
    limit = design.chip["weight_bits"]
    bits = {name: weight_bits(node.weight) for name, node in design.synapses().items()}
    offenders = [f"{name} {needed} bits" for name, needed in bits.items() if needed > limit]
    widest = max(bits.values(), default=0)
    return design.finding("weights fit the format", "weight_bits", offenders, f"at most {widest} bits")


def exponents_lie_in_range(design: Design) -> Finding:
    """Exponents of a layer lie no further apart than the chip's do."""
    limit = design.chip.get("weight_exponents") or math.inf
    spans = {name: int(np.ptp(e)) + 1 for name, e in _exponents(design).items()}
    offenders = [f"{name} {span}" for name, span in spans.items() if span > limit]
    detail = f"a span of at most {max(spans.values(), default=1)}"
    return design.finding("exponents lie in range", "weight_exponents", offenders, detail)


def channels_share_an_exponent(design: Design) -> Finding:
    """The output channels of a layer have no more different exponents than the chip has for a layer."""
    if "exponents_per_layer" not in design.chip.limits and design.chip["programmable_neurons"]:
        return Finding("channels share an exponent", "pass", "not needed: a neuron's program shifts its own input")
    limit = design.chip.get("exponents_per_layer") or math.inf
    counts = {name: len(np.unique(e)) for name, e in _exponents(design).items()}
    offenders = [f"{name} {count}" for name, count in counts.items() if count > limit]
    finding = design.finding("channels share an exponent", "exponents_per_layer", offenders, "one for each layer")
    return _with_way_out(finding, "export with --per-layer")


def fan_in_fits_the_axons(design: Design) -> Finding:
    """The inputs of a core are no more than its input axons."""
    return _core_limit(design, "fan-in fits the axons", "input_axons_per_core", "use narrower layers")


def fan_out_fits_the_axons(design: Design) -> Finding:
    """The neurons of a core reach all cores they send to."""
    return _core_limit(design, "fan-out fits the axons", "output_axons_per_core", "use narrower layers")


def synapses_fit_the_core(design: Design) -> Finding:
    """The weights of at least one neuron fit a core."""
    return _core_limit(design, "synapses fit the core", "synapse_bits_per_core", "use narrower layers")


def synapses_and_state_fit_the_core(design: Design) -> Finding:
    """Weights and state of at least one neuron fit a core's memory."""
    return _core_limit(design, "synapses and state fit the core", "memory_bits_per_core", "use narrower layers")


def zero_weights_take_no_memory(design: Design) -> Finding:
    """Matrices with enough zeros are stored as lists of the other weights, each with an index."""
    if (most := design.chip.get("sparse_index_bits")) is None:
        return Finding(
            "zero weights take no memory", "not checked", f"{design.chip.name}: no limit sparse_index_bits is known"
        )
    parts = [(layer, c) for layer in design.placed.values() for c in layer.population.connections if c.kept is not None]
    sparse = [layer for layer, c in parts if c.is_sparse(layer.elements, design.chip)]
    bits, elements = max(((c.weight_bits, layer.elements) for layer, c in parts), default=(0, 0))
    detail = "no weight is 0" if not parts else f"{len(sparse)} of {len(parts)} matrices with zeros as such lists"
    if parts:
        index = index_bits(elements, most)
        detail += f"; they pay above {pays_from(bits, index):.0%} zeros ({bits}-bit weights, {index}-bit indices)"
    return design.finding("zero weights take no memory", "sparse_index_bits", [], detail)


def state_fits_the_neuron(design: Design) -> Finding:
    """The sums, potentials and operands of one token fit the state of a neuron."""
    limit = design.chip["state_bits_per_neuron"]
    parts = [layer.population for layer in design.placed.values()]
    offenders = [
        f"{part.name} {part.state_bits()} bits" for part in parts if part.state_bits() > limit * part.compartments
    ]
    most = max((part.state_bits() for part in parts), default=0)
    return design.finding("state fits the neuron", "state_bits_per_neuron", offenders, f"at most {most} bits")


def messages_fit_the_spike(design: Design) -> Finding:
    """What a layer sends is no wider than a spike's payload."""
    limit = design.chip["message_bits"]
    parts = [layer.population for layer in design.placed.values()]
    offenders = [f"{part.name} {part.message_bits} bits" for part in parts if part.message_bits > limit]
    widest = max((part.message_bits for part in parts), default=0)
    return design.finding("messages fit the spike", "message_bits", offenders, f"at most {widest} bits")


def thresholds_fit_the_format(design: Design) -> Finding:
    """Thresholds are whole numbers of the drive's units, which the chip shifts by 6 bits."""
    if (bits := design.chip.get("threshold_bits")) is None:
        return Finding("thresholds fit the format", "pass", "not needed: thresholds are state or program constants")
    offenders = []
    for name, node in _neurons(design).items():
        multiplier, shift = design.graph.fixed_point[name].rescale[0]
        thresholds = np.atleast_1d(node.v_threshold) * 2.0**shift / multiplier  # in units of the drive
        fits = (thresholds % 1 == 0) & (thresholds < 2**bits)
        offenders += [] if fits.all() else [f"{name} {thresholds[~fits][0]:.8g} units of its drive"]
    return design.finding("thresholds fit the format", "threshold_bits", offenders, "whole units of the drive")


def biases_fit_the_format(design: Design) -> Finding:
    """Biases, shifted by 6 bits as the drive is, are a mantissa times 2^0 to 2^7."""
    if (bits := design.chip.get("bias_bits")) is None:
        return Finding("biases fit the format", "pass", "not needed: biases are state or program constants")
    offenders = []
    for name, node in design.synapses().items():
        if node.bias is not None:
            b = node.bias.astype(np.int64)
            fits = (np.abs(b) < 2 ** (bits - 1)) | ((np.abs(b) < 2**bits) & (b % 2 == 0))
            offenders += [] if fits.all() else [f"{name} {np.count_nonzero(~fits)} of {b.size}"]
    return design.finding("biases fit the format", "bias_bits", offenders, "mantissas and exponents")


def neurons_are_of_a_kind_the_chip_has(design: Design) -> Finding:
    """Without programmable neurons: LIF with binary spikes that follow their input step by step."""
    nodes = design.graph.nodes.items()
    offenders = [f"{name} ({why})" for name, node in nodes if (why := PLACES.of(name, node).program(node))]
    if design.graph.schedule == "phased":
        offenders.append("all neuron layers (windows of the phased schedule)")
    if design.chip["programmable_neurons"]:
        offenders, detail = [], f"{len(offenders)} kinds of work need a program"
    else:
        detail = "LIF with binary spikes"
    return design.finding("neurons are of a kind the chip has", "programmable_neurons", offenders, detail)


def soft_reset_has_its_compartments(design: Design) -> Finding:
    """Soft reset costs compartments where neurons are not programmable."""
    soft = [name for name, node in _neurons(design).items() if node.reset == "soft"]
    if design.chip["programmable_neurons"] or not soft:
        return Finding("soft reset has its compartments", "pass", "needs none beyond the neuron itself")
    detail = f"{len(soft)} layers take that many for each neuron (counted below)"
    return design.finding("soft reset has its compartments", "compartments_for_soft_reset", [], detail)


def the_host_does_the_rest(design: Design) -> Finding:
    """Look-up of embeddings, pooling over tokens and the readout run once for each input, on the host."""
    nodes = design.graph.nodes.items()
    kept = [f"{name} ({type(node).__name__})" for name, node in nodes if PLACES.of(name, node).where == "host"]
    return Finding("the host does the rest", "host", ", ".join(kept))


RULES: tuple[Callable[[Design], Finding], ...] = (
    weights_fit_the_format,
    exponents_lie_in_range,
    channels_share_an_exponent,
    fan_in_fits_the_axons,
    fan_out_fits_the_axons,
    synapses_fit_the_core,
    synapses_and_state_fit_the_core,
    zero_weights_take_no_memory,
    state_fits_the_neuron,
    messages_fit_the_spike,
    thresholds_fit_the_format,
    biases_fit_the_format,
    neurons_are_of_a_kind_the_chip_has,
    soft_reset_has_its_compartments,
    the_host_does_the_rest,
)


def _core_limit(design: Design, rule: str, limit: str, way_out: str) -> Finding:
    offenders = [
        f"{name} {layer.used[limit]}"
        for name, layer in design.placed.items()
        if limit in exceeded(layer.used, design.chip)
    ]
    most = max((layer.used[limit] for layer in design.placed.values()), default=0)
    return _with_way_out(design.finding(rule, limit, offenders, f"at most {most} on a core"), way_out)


def _with_way_out(finding: Finding, way_out: str) -> Finding:
    if finding.status != "fail":
        return finding
    return Finding(finding.rule, finding.status, f"{finding.detail}: {way_out}", finding.limit, finding.source)


def _neurons(design: Design) -> dict[str, Neuron]:
    return {name: node for name, node in design.graph.nodes.items() if isinstance(node, Neuron)}


def _exponents(design: Design) -> dict[str, np.ndarray]:
    fixed = design.graph.fixed_point
    return {name: e for name in design.synapses() if (e := fixed[name].exponents) is not None}


def listed(offenders: list[str], most: int = 3) -> str:
    """The first few by name, the others as a number."""
    more = f" and {len(offenders) - most} more" if len(offenders) > most else ""
    return ", ".join(offenders[:most]) + more
