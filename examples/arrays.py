"""A network without text: arrays in, arrays out, on every executor that runs it, and what it costs.

    python examples/arrays.py

Two layers of neurons read spikes of 16 channels over 20 steps. The same call works on a .nir file of any tool.
"""

import tempfile
from pathlib import Path

import numpy as np

import neurotool
from neurotool.export.nir import write_nir
from neurotool.graph import GraphBuilder, Input, Linear, Neuron
from neurotool.inputs import Given

random = np.random.default_rng(0)
build = GraphBuilder()
hidden = build.add(
    "hidden.linear", Linear(random.normal(0, 0.5, (32, 16))), build.add("spikes", Input(16, spiking=True))
)
hidden = build.add("hidden", Neuron(leak=0.9), hidden)
build.add("out", Neuron(leak=0.9), build.add("out.linear", Linear(random.normal(0, 0.5, (4, 32))), hidden))
path = Path(tempfile.mkdtemp()) / "network.nir"
write_nir(build.build(time_steps=20, schedule="concurrent"), path)

model = neurotool.open(path)
inputs = random.random((3, 20, 16)) < 0.2  # (inputs, steps, width)
runs = {executor: model.run(inputs, executor) for executor in ("interpreter", "emulator")}
for executor, run in runs.items():
    print(f"{executor:12} spikes of the output neurons {run.spikes['out'].sum((1, 2)).tolist()}")
    print(f"{'':12} synaptic operations {sum(count.sum() for count in run.synaptic_operations.values())}")
assert np.array_equal(runs["interpreter"].spikes["out"], runs["emulator"].spikes["out"])

# The second layer alone, on the spikes that the first one sent.
part = model.part("out.linear", "out")
alone = part.run({"hidden": runs["interpreter"].spikes["hidden"]}, "emulator")
print("the last layer alone:", alone.spikes["out"].sum((1, 2)).tolist())
assert np.array_equal(alone.spikes["out"], runs["interpreter"].spikes["out"])

model.export(path.with_suffix(".lava"), target="lava", precision="float")
compared = neurotool.compare(path, path.with_suffix(".lava"), samples=4, given=Given(random=True))
print("as a bundle:", compared.passed)
