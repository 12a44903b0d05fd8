"""NeuroBench counts the same effective operations of weight matrices, zero weights left out."""

import numpy as np
import pytest
import torch

from neurotool.energy.counts import count, events_of_activity
from neurotool.energy.measure import measure
from neurotool.graph import GraphBuilder, Input, Linear, Neuron
from neurotool.simulate import simulate

metrics = pytest.importorskip(
    "neurobench.metrics.workload.synaptic_operations", reason="NeuroBench is not installed (make install does)"
)


@pytest.mark.parametrize("spikes", ["binary", "ternary"])
def test_effective_operations_of_linear_layers(spikes: str) -> None:
    """Two matrices with zero weights on real spike trains, step by step."""
    from neurobench.models.torch_model import TorchModel

    rng = np.random.default_rng(0)
    weights = [rng.normal(size=shape) * (rng.random(shape) < 0.6) for shape in ((9, 12), (5, 9))]
    build = GraphBuilder()
    s = build.add("first", Neuron(0.8, spikes=spikes), build.add("current", Input(12)))  # type: ignore[arg-type]
    t = build.add("second", Neuron(spikes=spikes), build.add("a", Linear(weights[0]), s))  # type: ignore[arg-type]
    build.add("b", Linear(weights[1], np.ones(5)), t)
    graph = build.build(time_steps=6, schedule="concurrent", tokens=7)
    one = {"values": {"current": rng.normal(size=(7, 12))}}
    activity, _ = measure(graph, [one])
    counts = {n.name: n for n in count(graph, activity, events_of_activity(graph, activity, True), True).nodes}
    everything = {n.name: n for n in count(graph, activity, events_of_activity(graph, activity)).nodes}
    trains = simulate(graph, **one).spikes
    for name, source, weight in (("a", "first", weights[0]), ("b", "second", weights[1])):
        layer = torch.nn.Linear(*weight.shape[::-1])
        layer.weight.data = torch.tensor(weight, dtype=torch.float32)
        model = TorchModel(torch.nn.Sequential(layer))
        metric = metrics.SynapticOperations()
        model.register_hooks()
        for step in torch.tensor(trains[source], dtype=torch.float32):
            model.reset_hooks()
            metric(model, model(step), (step,))
        model.cleanup_hooks()
        assert counts[name].spiking.accumulates == metric.AC > 0 and metric.MAC == 0
        assert everything[name].spiking.accumulates > metric.AC
        assert everything[name].synapses * 6 == metric.total_synops
