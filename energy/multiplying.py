"""What nodes cost that multiply: a weight matrix or a product of activations, in every network and dataflow.

As in `neurotool.energy.rules`, the first sentence of a docstring is the rule, as the audit prints it.
"""

from dataclasses import replace

from neurotool.energy.operations import Operations, Work
from neurotool.energy.setting import SKIPPING, Setting
from neurotool.graph import Conv1d, Conv2d, Linear, MatMul, Readout


def _multiplying(setting: Setting, macs: int, biases: int, stored: int) -> Work:
    """A weight matrix or a product of activations; of one run macs, biases and stored, the weights and biases that a
    text needs.

    Memory after Lemaire et al. 2022: dense, every input once, a weight and an address per MAC; spiking, every message
    once, and per message and target a weight and an address. Sums on both sides: in memory they are read and written
    for every MAC, or message and target; in registers they are written once, when whole.
    """
    flow, runs, registers = setting.dataflow, setting.runs, setting.registers
    graded = sum(setting.size(shape) for port, shape in setting.at_ports.items() if port not in setting.arriving)
    always = Operations(adds=biases, weight_reads=biases, value_reads=graded)
    if not setting.arriving:
        each = Operations(macs=macs, weight_reads=macs, addresses=macs) + sums(setting, macs)
        work = Work((always + each).times(runs))
    else:
        work = Work(always.times(runs), _driven(setting))
    if registers:
        work = replace(work, always=work.always + Operations(value_writes=setting.elements * runs))
    else:
        work = replace(work, always=work.always + Operations(state_writes=biases * runs))
    return _read_once(work, stored * runs) if flow.reuse else work


def _driven(setting: Setting) -> Operations:
    flow, port = setting.dataflow, setting.driver
    arrived, all_ports = setting.arriving[port], setting.arriving.values()
    spikes, active = arrived.synaptic_operations, arrived.active_operations
    if setting.network in SKIPPING:
        read = sum(each.active for each in all_ports)
        return Operations(macs=active, weight_reads=active, addresses=active, value_reads=read) + sums(setting, active)
    messages = spikes if flow.order == "spike" else active
    adds = active if flow.order == "graded" else spikes
    return Operations(
        accumulates=adds,
        payload_products=adds if flow.order == "graded" or port in setting.payload else 0,
        weight_reads=messages,
        addresses=messages,
        value_reads=sum(each.events if flow.order == "spike" else each.active for each in all_ports),
    ) + sums(setting, messages)


def sums(setting: Setting, additions: int) -> Operations:
    return Operations() if setting.registers else Operations(state_reads=additions, state_writes=additions)


def _read_once(work: Work, stored: int) -> Work:
    """Every weight once in each run over a text, with one address, however many tokens use it."""
    reads = work.total.weight_reads
    if reads <= stored:
        return work
    addresses = min(work.total.addresses, stored)
    always = replace(work.always, weight_reads=stored, addresses=addresses)
    return Work(always, replace(work.driven, weight_reads=0, addresses=0))


def linear(node: Linear, setting: Setting) -> Work:
    """Dense: tokens x in x out MACs; spiking: spikes x out accumulates; biases once a run.

    Without tokens, it works along the last axis as often as the others have places.
    """
    tokens, inputs = setting.elements // len(node.weight), setting.activity.inputs
    biases = 0 if node.bias is None else len(node.bias)
    return _multiplying(setting, tokens * setting.weights, tokens * biases, inputs * (setting.weights + biases))


def conv1d(node: Conv1d, setting: Setting) -> Work:
    """Dense: out x in x pairs of tokens within reach; spiking: spikes x out x tokens within reach; biases once a run.

    What lies beyond the ends of a text costs nothing. Dense, every MAC reads its input anew, and there is an address
    for every input, output and place of the kernel (Lemaire et al. 2022, equations 3 and following).
    """
    out, width, kernel = node.weight.shape
    pairs = sum(setting.activity.pairs_at(distance) for distance in range(-node.before, node.after + 1))
    macs, tokens, inputs = pairs * out * width, setting.activity.tokens, setting.activity.inputs
    biases = 0 if node.bias is None else out
    counted = _multiplying(setting, macs, tokens * biases, inputs * (node.weight.size + biases))
    if setting.arriving:
        return counted
    addresses = tokens * (width + out) + inputs * out * kernel
    accesses = {"value_reads": macs * setting.runs, "addresses": addresses * setting.runs}
    return replace(counted, always=replace(counted.always, **accesses))


def conv2d(node: Conv2d, setting: Setting) -> Work:
    """Dense: out x in of a group MACs for each element of a window; spiking: spikes x outputs within reach accumulates;
    biases once an output and run. The padding costs nothing."""
    inputs, out = setting.activity.inputs, setting.elements
    biases = 0 if node.bias is None else out
    macs = inputs * node.weight.shape[0] * node.weight.shape[1] * node.windows.pairs(plane(setting))
    stored = node.weight.size + (0 if node.bias is None else len(node.bias))
    return _multiplying(setting, macs, biases, inputs * stored)


def plane(setting: Setting) -> tuple[int, int]:
    """Height and width of what arrives."""
    _, height, width = setting.at_ports["x"]
    return int(height), int(width)


def matmul(node: MatMul, setting: Setting) -> Work:
    """Dense: tokens^2 x width MACs; spiking: spikes of an operand x tokens accumulates, of the other operand's values.

    Pairs of tokens times the width, whatever the number of heads.
    """
    _, width = setting.at_ports["b"]
    assert isinstance(width, int)
    other = "a" if setting.arriving and setting.driver == "b" else "b"
    stored = setting.size(setting.at_ports[other])
    return _multiplying(setting, setting.activity.token_pairs * width, 0, stored)


def readout(node: Readout, setting: Setting) -> Work:
    """Labels x width MACs, once."""
    inputs = setting.activity.inputs
    biases = 0 if node.bias is None else inputs * len(node.bias)
    return _multiplying(setting, inputs * node.weight.size, biases, inputs * node.weight.size + biases)
