"""Time on a chip, and energy beyond operations: the rooms `export`, which places a network, and `energy` together."""

from typing import TYPE_CHECKING

from neurotool.api.model import NOTHING, Model
from neurotool.errors import ConfigError, ExportError
from neurotool.inputs import Given

if TYPE_CHECKING:
    from neurotool.energy.latency import Part
    from neurotool.energy.latency_page import Timed
    from neurotool.energy.machine import Machine
    from neurotool.energy.report import Report

RANGE_INPUTS = 8
"""Inputs from which ranges are taken where integers are made only to place them."""


def placed(model: Model, machine: "Machine", tokens: int, given: Given = NOTHING) -> "list[Part]":
    """Where one copy of a network lies on the machine's chip, as `neurotool export --chip` has it, for so many tokens;
    empty for a technology that is no chip.

    One with real parameters is lowered to integers first; given: what it runs on, where it reads no text. Raises
    ConfigError for one that cannot be placed.
    """
    from neurotool.energy.latency import Part
    from neurotool.export.chip import load_chip
    from neurotool.export.placement import place, populations

    if not machine.chip:
        return []
    chip, graph = load_chip(machine.chip), model.graph
    if not graph.is_spiking:
        raise ConfigError(f"{model.path}: a dense network sends no spikes, so it has no windows on {machine.title}")
    if not graph.fixed_point:
        from neurotool.api.lowering import ranges
        from neurotool.export.lower import lower

        try:
            told, inputs = model.ready(None, RANGE_INPUTS, given)
            graph = lower(told.graph, ranges(told.graph, inputs))
        except ExportError as error:
            raise ConfigError(f"{model.path}: cannot be placed on {machine.title}: {error}") from error
    parts = place(populations(graph, chip, tokens), chip)
    return [Part(name, part.population.nodes, part.population.elements, part.cores) for name, part in parts.items()]


def timed(
    model: Model,
    report: "Report",
    machine: "Machine",
    batch: int = 1,
    without: frozenset[str] = frozenset(),
    on_chip: int | None = None,
    given: Given = NOTHING,
) -> "Timed":
    """report: of the model, under one cost model of the machine's technology. without: of `latency.SWITCHES`. on_chip:
    KB of weights that fit. Raises ConfigError where the two technologies differ, or there is nothing to say."""
    from neurotool.energy.latency import Beyond
    from neurotool.energy.latency_page import Timed, check_technology

    account = report.accounts[0]
    check_technology(machine, account.model)
    if not machine.chip and on_chip is None:
        raise ConfigError(f"--machine {machine.name}: it is no chip; say with --on-chip how many KB of weights fit")
    if machine.chip and on_chip is not None:
        raise ConfigError(f"--on-chip {on_chip}: weights that do not fit {machine.title} take more chips; leave it out")
    parts = tuple(placed(model, machine, max(report.counts.activity.lengths), given))
    size = None if on_chip is None else 1024 * on_chip
    return Timed(report, Beyond(account.counts, parts, machine, account.numbers, batch, without, size))
