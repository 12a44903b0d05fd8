"""The NIR paper's CNN, 34 x 34 x 2, 300 steps: the emulator beside sinabs, the interpreter beside the unrolled network.

    OMP_NUM_THREADS=1 python benchmarks/nir_speed.py [FILE.nir] [--tools-python build/nirtools/bin/python]

FILE: the paper's own, or another of its form; without one, seeded weights. Events are random, as many as N-MNIST's
(--rate). Unrolled is the same network with convolutions and pools written out as Linear nodes, in single precision as a
file's weights. All times are of the processor, of one thread each; runs take turns, and ratios are of the medians.
--tools-python: of an environment with sinabs (make nir-tools); its spikes must be ours, or the command fails.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import statistics
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import nir
import nir_cnn
import numpy as np

from neurotool.export.nir import read_nir
from neurotool.graph import Context, Flatten, Graph, GraphBuilder, Input, Linear, Neuron, Node
from neurotool.lava_runtime.emulator import Emulator
from neurotool.simulate import simulate

INTERPRETER, UNROLLED = "interpreter, one input", "interpreter, one input, unrolled"


def unrolled(graph: Graph) -> Graph:
    """The same on flat vectors; every node but the neurons is a Linear."""
    build, names, shapes = GraphBuilder(), {}, graph.shapes()
    for name, node in graph.nodes.items():
        before = [names[source] for source in graph.inputs[name]]
        names[name] = build.add(name, _flat(node, shapes, graph.inputs[name], name), *before)
    return build.build(time_steps=graph.time_steps, schedule="concurrent", outputs=graph.outputs)


def _flat(node: Node, shapes: dict, sources: tuple[str, ...], name: str) -> Node:
    if isinstance(node, Input):
        return Input((int(np.prod(node.shape())),), node.spiking)
    if isinstance(node, Neuron):
        one = {key: value.ravel() if isinstance(value, np.ndarray) else value for key, value in vars(node).items()}
        return type(node)(**{key: value for key, value in one.items() if key in node.__dataclass_fields__})
    if isinstance(node, (Linear, Flatten)):
        return Flatten(1) if isinstance(node, Flatten) else node
    shape = shapes[sources[0]]
    every = np.eye(int(np.prod(shape))).reshape(-1, *shape)
    sums = node.sums if hasattr(node, "sums") else node.compute
    return Linear(sums(Context(np.ones(1, bool)), every).reshape(len(every), -1).T.astype(np.float32))


@contextmanager
def sinabs(python: Path | None, file: Path, x: np.ndarray, out: Path) -> Iterator[Callable[[], float] | None]:
    """What runs it once and says how long that took."""
    if python is None:
        yield None
        return
    np.save(out.with_suffix(".npy"), x)
    command = [str(python), str(Path(nir_cnn.__file__)), str(file), str(out.with_suffix(".npy")), str(out)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin and process.stdout

        def run() -> float:
            process.stdin.write("\n")  # type: ignore[union-attr]
            process.stdin.flush()  # type: ignore[union-attr]
            return float(process.stdout.readline())  # type: ignore[union-attr]

        yield run
        process.stdin.close()
        if process.wait():
            raise SystemExit("sinabs failed")


def seconds(function: Callable[[], object]) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


@click.command()
@click.argument("file", type=click.Path(exists=True, path_type=Path), required=False)
@click.option("--tools-python", type=click.Path(exists=True, path_type=Path), help="With sinabs.")
@click.option("--inputs", default=8, show_default=True)
@click.option("--steps", default=nir_cnn.STEPS, show_default=True)
@click.option("--rate", default=nir_cnn.RATE, show_default=True, help="Events of an element in a step.")
@click.option("--rounds", default=7, show_default=True)
def main(file: Path | None, tools_python: Path | None, inputs: int, steps: int, rate: float, rounds: int) -> None:
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        if file is None:
            file = Path(folder, "cnn.nir")
            nir.write(file, nir_cnn.cnn())
        x = nir_cnn.events(inputs, steps, rate)
        graph = read_nir(file, tool="sinabs", lowest=-1.0, time_steps=steps)
        few = 20  # steps of the slow ones
        short = read_nir(file, tool="sinabs", lowest=-1.0, time_steps=few)
        flat, emulator, last = unrolled(short), Emulator(graph), next(iter(graph.outputs.values()))
        first = next(iter(graph.of_type(Input)))
        out = Path(folder, "sinabs.npz")
        with sinabs(tools_python, file, x, out) as theirs:
            ways = {
                f"emulator, {inputs} inputs": lambda: (
                    seconds(lambda: emulator.run(values={first: x}, record=(last,))) / steps
                ),
                INTERPRETER: lambda: seconds(lambda: simulate(short, values={first: x[0, :few]})) / few,
                UNROLLED: lambda: seconds(lambda: simulate(flat, values={first: x[0, :few].reshape(few, -1)})) / few,
            }
            if theirs:
                ways[f"sinabs, {inputs} inputs"] = lambda: theirs() / steps
            times: dict[str, list[float]] = {name: [] for name in ways}
            for turn in range(rounds + 1):
                for name, way in ways.items():
                    took = way()
                    times[name] += [took] if turn else []
        medians = {name: statistics.median(each) for name, each in times.items()}
        for name, median in medians.items():
            click.echo(f"{name:36}{median * 1e3:8.2f} ms of the processor a step")
        click.echo(f"unrolled / interpreter{medians[UNROLLED] / medians[INTERPRETER]:22.1f}")
        if theirs:
            click.echo(
                f"emulator / sinabs{medians[f'emulator, {inputs} inputs'] / medians[f'sinabs, {inputs} inputs']:27.2f}"
            )
            sent = emulator.run(values={first: x}, record=True).spikes
            with np.load(out) as spikes:
                differing = sum(int(np.count_nonzero(spikes[name] != ours)) for name, ours in sent.items())
            click.echo(f"{sum(int(ours.sum()) for ours in sent.values())} spikes, {differing} others than in sinabs")
            if differing:
                raise SystemExit(1)


if __name__ == "__main__":
    main()
