"""The Lava processes of a network, one for each part. To be imported in a worker only, after compatibility.prepare().

Ports carry whole activations, (tokens, width) or without tokens (…), or (heads, tokens, tokens): float, or int32 for
24-bit messages.
"""

from pathlib import Path
from typing import Any

import numpy as np
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.model.py.model import PyLoihiProcessModel
from lava.magma.core.model.py.ports import PyInPort, PyOutPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.process.ports.ports import InPort, OutPort
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.process.variable import Var
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol
from lava.proc.dense.process import Dense
from lava.proc.lif.process import LIFReset
from lava.proc.monitor.process import Monitor

from neurotool.errors import OverflowingError
from neurotool.executor import Run, sent_in_passes
from neurotool.graph.fixed_point import STATE_BITS
from neurotool.lava_runtime.job import write_results
from neurotool.lava_runtime.program import Program
from neurotool.lava_runtime.stock import StockParameters

FLOAT, FIXED = "floating_pt", "fixed_pt"
PORT_BITS = 32


class PartProcess(AbstractProcess):
    """Runs a Program: a port in for each node of another part that it reads, a port out for each that others read.

    results: file for what the program records, written in the last step.
    """

    def __init__(self, program: Program, results: Path) -> None:
        part = program.part
        super().__init__(name=f"{part.kind} {part.name}", program=program, results=results)
        for port, name in (in_ports(program) | back_ports(program)).items():
            setattr(self, port, InPort(shape=program.silence(name).shape))
        for port, name in out_ports(program).items():
            setattr(self, port, OutPort(shape=program.silence(name).shape))


class Source(PartProcess):
    """What the host sends: embeddings, looked up and added, and the values of Input nodes."""


class Synapse(PartProcess):
    """Linear, Conv1d and Conv2d nodes that read the same spikes. Weights are stored once and shared by all tokens."""


class Neurons(PartProcess):
    """A layer of IF or LIF neurons, with a window in the phased schedule; a GELU on its drive is part of its program.

    u: potentials.
    """

    def __init__(self, program: Program, results: Path) -> None:
        super().__init__(program, results)
        self.u = Var(shape=program.silence(program.part.name).shape, init=0)


class Attention(PartProcess):
    """Scores, softmax and context: each spike of a key or value adds one row of queries or probabilities."""


class Operation(PartProcess):
    """Residual additions, LayerNorm, Scale and the like on complete sums."""


class ReadOut(PartProcess):
    """Pools and classifies what arrived during the whole run."""


KINDS: dict[str, type[PartProcess]] = {
    "source": Source,
    "synapse": Synapse,
    "neurons": Neurons,
    "attention": Attention,
    "operation": Operation,
    "readout": ReadOut,
}


class PartModel(PyLoihiProcessModel):
    """What floating-point and fixed-point models of all processes share."""

    def __init__(self, proc_params: Any) -> None:
        super().__init__(proc_params)
        self.program: Program = proc_params["program"]
        self.results: Path = proc_params["results"]

    def run_spk(self) -> None:
        program = self.program
        program.begin_step()
        self._receive(in_ports(program))
        self._send()
        self._receive(back_ports(program))  # others wait for what it sends before they can send these
        program.end_step()
        if program.finished:
            write_results(self.results, program.results)

    def _receive(self, ports: dict[str, str]) -> None:
        for port, name in ports.items():
            self.program.receive(name, getattr(self, port).recv())

    def _send(self) -> None:
        messages = self.program.act()
        for port, name in out_ports(self.program).items():
            getattr(self, port).send(self._fitting(name, messages.get(name, self.program.silence(name))))
        if isinstance(getattr(self, "u", None), np.ndarray) and self.program.part.name in self.program.membranes:
            self.u[:] = self.program.membranes[self.program.part.name].u

    def _fitting(self, name: str, message: np.ndarray) -> np.ndarray:
        """Sums within one step may exceed what complete sums must fit into, but not what a port carries."""
        if message.dtype == np.int64 and self.program.overflow != "wrap":
            largest = int(np.abs(message).max())
            if largest >= 2 ** (PORT_BITS - 1):
                raise OverflowingError(f"node {name} sends {largest} in one step, but ports have {PORT_BITS} bits")
        return message


def model_of(process: PartProcess, precision: str) -> type[PartModel]:
    """The floating_pt or fixed_pt model of a process: PartModel with the process's ports, which Lava wants declared."""
    number, bits = (np.int32, STATE_BITS) if precision == FIXED else (float, None)
    program = process.proc_params["program"]
    members = {
        port: LavaPyType(PyInPort.VEC_DENSE, number, precision=bits) for port in in_ports(program) | back_ports(program)
    }
    members |= {port: LavaPyType(PyOutPort.VEC_DENSE, number, precision=bits) for port in out_ports(program)}
    if isinstance(process, Neurons):
        members["u"] = LavaPyType(np.ndarray, number, precision=bits)
    model = type(f"{type(process).__name__}Model", (PartModel,), members)
    decorated: type[PartModel] = tag(precision)(requires(CPU)(implements(type(process), LoihiProtocol)(model)))
    return decorated


class StockLayer:
    """A stock Dense and LIF in place of a Linear and a neuron layer.

    shape: of its activations, to us; delay: steps by which the LIF runs later than the source; total: of the whole run;
    recorded: keep what it does.
    """

    def __init__(
        self,
        name: str,
        parameters: StockParameters,
        shape: tuple[int, ...],
        steps: int,
        delay: int,
        total: int,
        recorded: bool,
    ) -> None:
        self.name, self.shape, self.steps, self.delay = name, shape, steps, delay
        width = parameters.weights.shape[:1]
        self.dense = Dense(weights=parameters.weights, weight_exp=parameters.weight_exp, name=f"dense of {name}")
        self.lif = LIFReset(
            shape=width,
            du=parameters.du,
            dv=parameters.dv,
            vth=parameters.vth,
            reset_interval=steps,
            reset_offset=(1 + delay) % steps,  # Lava counts steps from 1
            name=f"neurons {name}",
        )
        self.dense.a_out.connect(self.lif.a_in)
        self.monitors = {}
        for port in ("s_out", "v") if recorded else ("s_out",):
            self.monitors[port] = Monitor()
            self.monitors[port].probe(getattr(self.lif, port), total)

    def results(self, inputs: int) -> list[Run]:
        """What was monitored, for each input."""
        monitored = {port: self._monitored(port) for port in self.monitors}
        results = []
        for end in range(self.delay + self.steps, self.delay + inputs * self.steps + 1, self.steps):
            one = monitored["s_out"][end - self.steps : end].reshape(-1, *self.shape).astype(np.int8)
            results.append(Run(sent={self.name: sent_in_passes(np.abs(one)[None], len(one), len(self.shape) > 1)[0]}))
            if "v" in monitored:
                results[-1].spikes[self.name] = one
                results[-1].messages[self.name] = one[-1].astype(np.int32)
                results[-1].potentials[self.name] = monitored["v"][end - 1].reshape(self.shape).astype(np.int64)
        return results

    def _monitored(self, port: str) -> np.ndarray:
        recorded: np.ndarray = self.monitors[port].get_data()[self.lif.name][port]
        return recorded


def in_ports(program: Program) -> dict[str, str]:
    """Name of each port in, and of the node it reads."""
    return {f"in_{i}": name for i, name in enumerate(program.part.reads)}


def back_ports(program: Program) -> dict[str, str]:
    """The same of what it reads as feedback."""
    return {f"back_{i}": name for i, name in enumerate(program.part.reads_back)}


def out_ports(program: Program) -> dict[str, str]:
    """Name of each port out, and of the node it sends."""
    return {f"out_{i}": name for i, name in enumerate(program.part.sends)}
