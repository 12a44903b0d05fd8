"""Layers with synapse and membrane dynamics: equal to the graph's nodes bit by bit, gradients as autograd's."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from neurotool.errors import ConfigError
from neurotool.graph import CubaLIF, GraphBuilder, Input, Neuron
from neurotool.simulate import simulate
from neurotool.student.dynamics import CubaLIFLayer, LIReadout, NeuronState, decayed
from neurotool.student.surrogate import atan_gradient

LAYERS: list[dict[str, Any]] = [
    {},
    {"reset": "soft"},
    {"synapse": False},
    {"synapse": False, "reset": "soft", "tau_mem": (1.5, 9.0)},
    {"learn_tau_syn": False, "tau_syn": 1.0, "learn_threshold": False, "v_threshold": 0.7},
    {"learn_tau_mem": False, "tau_mem": math.inf, "tau_syn": 3.0},
    {"per_channel": False},
]
BATCH, STEPS, WIDTH = 3, 17, 5


def layer_of(settings: dict[str, Any], dtype: torch.dtype = torch.float64) -> CubaLIFLayer:
    """A layer whose parameters have left their start."""
    layer = CubaLIFLayer(WIDTH, **settings).to(dtype)
    generator = torch.Generator().manual_seed(3)
    for parameter in layer.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape, dtype=dtype, generator=generator)
    return layer


def currents(dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(BATCH, STEPS, WIDTH, dtype=dtype, generator=generator) * 0.6 + 0.1


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("settings", LAYERS, ids=str)
def test_layers_are_their_nodes(settings: dict[str, Any], dtype: torch.dtype) -> None:
    layer, x = layer_of(settings, dtype), currents(dtype)
    spikes, state = layer(x)
    node = layer.node()
    assert isinstance(node, CubaLIF) == settings.get("synapse", True)
    for b in range(BATCH):
        build = GraphBuilder()
        build.add("neurons", node, build.add("current", Input((WIDTH,))))
        graph = build.build(time_steps=STEPS, schedule="concurrent")
        run = simulate(graph, values={"current": x[b].numpy()}, dtype=x.numpy().dtype)
        assert np.array_equal(run.spikes["neurons"], spikes[b].detach().numpy())
        assert np.array_equal(run.potentials["neurons"], state.u[b].numpy())
    assert 0.05 < spikes.mean() < 0.95


@pytest.mark.parametrize("tau", [(2.0, 20.0), math.inf], ids=str)
def test_the_readout_is_its_node(tau: Any) -> None:
    readout, x = LIReadout(WIDTH, tau=tau, learn_tau=tau != math.inf).double(), currents()
    v, last = readout(x)
    state = readout.node().at_rest((BATCH, WIDTH))
    for t in range(STEPS):
        assert np.array_equal(state.step(x[:, t].numpy()), v[:, t].detach().numpy())
    assert torch.equal(last, v[:, -1])


@pytest.mark.parametrize("settings", LAYERS, ids=str)
def test_steps_are_the_sequence(settings: dict[str, Any]) -> None:
    """Step by step, and in two halves, every bit is that of the whole."""
    layer, x = layer_of(settings), currents()
    whole, end = layer(x)
    state: NeuronState | None = None
    for t in range(STEPS):
        spikes, state = layer.step(x[:, t], state)
        assert torch.equal(spikes, whole[:, t])
    assert state is not None
    assert torch.equal(state.u, end.u)
    assert layer.synapse is None or torch.equal(state.i, end.i)
    first, middle = layer(x[:, :7])
    assert torch.equal(torch.cat([first, layer(x[:, 7:], middle)[0]], 1), whole)


def test_the_readout_steps() -> None:
    readout, x = LIReadout(WIDTH).double(), currents()
    whole, state = readout(x)[0], None
    for t in range(STEPS):
        v, state = readout.step(x[:, t], state)
        assert torch.equal(v, whole[:, t])


class Spike(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u: Tensor) -> Tensor:
        ctx.save_for_backward(u)
        return (u >= 1).to(u.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0] * atan_gradient(ctx.saved_tensors[0] - 1)


def by_autograd(layer: CubaLIFLayer, x: Tensor, state: NeuronState | None) -> Tensor:
    i = torch.zeros(BATCH, WIDTH, dtype=x.dtype) if state is None or state.i is None else state.i
    u, sent = torch.zeros(BATCH, WIDTH, dtype=x.dtype) if state is None else state.u, []
    for t in range(x.shape[1]):
        drive = x[:, t] / layer.v_threshold
        i = drive if layer.synapse is None else i * layer.synapse() + drive
        u = u * layer.membrane() + i
        sent.append(Spike.apply(u))
        s = sent[-1].detach()
        u = u * (1 - s) if layer.dynamics.reset == "hard" else u - s
    return torch.stack(sent, 1)


@pytest.mark.parametrize("continued", [False, True], ids=["at rest", "continued"])
@pytest.mark.parametrize("settings", LAYERS, ids=str)
def test_gradients_are_those_of_stepping(settings: dict[str, Any], continued: bool) -> None:
    layer, x = layer_of(settings), currents().requires_grad_()
    state = layer(currents(seed=1))[1] if continued else None
    weight = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(9))
    spikes, expected = layer(x, state)[0], by_autograd(layer, x, state)
    assert torch.equal(spikes, expected)
    leaves = [x, *layer.parameters()]
    ours, theirs = (torch.autograd.grad((s * weight).sum(), leaves) for s in (spikes, expected))
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-12)
        assert b.abs().sum() > 0


def test_the_readouts_gradient() -> None:
    """The function is smooth: finite differences know its gradient."""
    readout = LIReadout(WIDTH, tau=(1.5, 8.0)).double()
    x, kept, start = currents().requires_grad_(), readout.membrane().detach().requires_grad_(), currents()[:, 0]
    assert torch.autograd.gradcheck(lambda x, kept: decayed(x, kept, start), (x, kept))


def test_time_constants_start_where_they_are_asked_to() -> None:
    """The share kept is 1 - 1 / tau, spread evenly in log tau."""
    layer = CubaLIFLayer(3, tau_syn=(2.0, 32.0), tau_mem=4.0).double()
    assert layer.synapse is not None
    assert torch.allclose(1 / (1 - layer.synapse()), torch.tensor([2.0, 8.0, 32.0]).double(), rtol=1e-5)
    assert torch.allclose(layer.membrane(), torch.full((3,), 0.75).double())
    node = CubaLIFLayer(3, learn_threshold=False, v_threshold=0.5, synapse=False, learn_tau_mem=False).node()
    assert type(node) is Neuron
    assert node.v_threshold == 0.5
    assert np.all(node.leak == 0.5)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"tau_syn": 0.5}, "tau_syn is 0.5: give time steps, above 1"),
        ({"tau_mem": (2.0, math.inf)}, "tau_mem is inf: give time steps, above 1"),
        ({"tau_mem": math.nan}, "tau_mem is nan"),
        ({"tau_mem": 0.9, "learn_tau_mem": False}, "tau_mem is 0.9: give time steps, at least 1"),
        ({"v_threshold": 0.0}, "v_threshold is 0.0: it must be a positive number"),
        ({"reset": "none"}, "reset is 'none'"),
    ],
    ids=str,
)
def test_what_no_layer_has_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        CubaLIFLayer(2, **settings)
