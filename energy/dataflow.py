"""In which order a network's weights, messages and sums meet: what decides how often memory is read.

Both sides of a comparison have the same dataflow; a dense activation is one message whatever the order.
"""

from dataclasses import dataclass
from typing import Literal

from neurotool.errors import ConfigError


@dataclass(frozen=True)
class Dataflow:
    """name: as --dataflow knows it. order: what a neuron sends, which causes one weight read, one address and, where
    sums lie in memory, one access to a sum for each target:
      spike: every spike by itself.
      batched: the spikes of a window together, as the phased schedule allows, which knows them before they are sent
        (parallel time batching: Spinalflow, Narayanan et al., ISCA 2020; LoAS, arXiv 2407.14073). Adds as before.
      graded: the same message with its count as payload: one product of payload and weight, one add.
    registers: sums and the potentials of a window stay in registers until they are whole (output-stationary).
    reuse: every weight is read once for each text, not for each token: the upper bound of a systolic array.
    free: dense networks keep their sums in registers where the spiking one keeps its own in memory, as in Lemaire et
      al. 2022. Not a matched pair.
    """

    name: str
    order: Literal["spike", "batched", "graded"]
    registers: bool = False
    reuse: bool = False
    free: bool = False


LEMAIRE = Dataflow("spike", "spike", free=True)
SPIKE = Dataflow("spike", "spike")
BATCHED = Dataflow("batched", "batched")
GRADED = Dataflow("graded", "graded")
OUTPUT_STATIONARY = Dataflow("output-stationary", "batched", registers=True)
DATAFLOWS = {flow.name: flow for flow in (SPIKE, BATCHED, GRADED, OUTPUT_STATIONARY)}


def named_dataflows(names: str) -> list[Dataflow]:
    """By their names, commas between. Raises ConfigError."""
    chosen = names.split(",")
    for name in chosen:
        if name not in DATAFLOWS:
            raise ConfigError(f"--dataflow {names}: {name!r} is not known; choose from {', '.join(DATAFLOWS)}")
    if len(set(chosen)) < len(chosen):
        raise ConfigError(f"--dataflow {names}: a dataflow is named twice; name each once")
    return [DATAFLOWS[name] for name in chosen]
