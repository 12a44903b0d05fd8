"""Runs stock Lava processes and prints what they did: `python stock_on_lava.py CASES`, a JSON list, gives a JSON list.

A case names a process and its arguments; inputs are (steps, width) for each port.
"""

import json
import sys
import threading
import time
from typing import Any

from neurotool.lava_runtime.compatibility import prepare

prepare()

import numpy as np  # noqa: E402
from lava.magma.core.run_conditions import RunSteps  # noqa: E402
from lava.magma.core.run_configs import Loihi2SimCfg  # noqa: E402
from lava.proc.dense.process import Dense  # noqa: E402
from lava.proc.graded.process import GradedVec, InvSqrt  # noqa: E402
from lava.proc.io.sink import RingBuffer as Sink  # noqa: E402
from lava.proc.io.source import RingBuffer as Source  # noqa: E402
from lava.proc.lif.process import LIF  # noqa: E402
from lava.proc.prodneuron.process import ProdNeuron  # noqa: E402

FIXED = Loihi2SimCfg(select_tag="fixed_pt")


def source(values: list[Any]) -> Any:
    return Source(data=np.array(values, np.int32).T)


def dense_lif(inputs: list[Any], dense: dict[str, Any], lif: dict[str, Any]) -> dict[str, Any]:
    """u and v after each step, and the spikes."""
    weights = np.array(dense.pop("weights"))
    spikes_in, synapse, neurons = source(inputs), Dense(weights=weights, **dense), LIF(shape=weights.shape[:1], **lif)
    sink = Sink(shape=neurons.s_out.shape, buffer=len(inputs))
    spikes_in.s_out.connect(synapse.s_in)
    synapse.a_out.connect(neurons.a_in)
    neurons.s_out.connect(sink.a_in)
    u, v = [], []
    for _ in inputs:
        neurons.run(condition=RunSteps(1), run_cfg=FIXED)
        u.append(neurons.u.get().astype(int).tolist())
        v.append(neurons.v.get().astype(int).tolist())
    spikes = sink.data.get().T.astype(int).tolist()
    neurons.stop()
    return {"u": u, "v": v, "spikes": spikes}


def outputs(process: Any, ports: list[Any], inputs: list[Any]) -> list[Any]:
    """What a process without spikes sends for `inputs`, a list for each port."""
    sink = Sink(shape=process.s_out.shape, buffer=len(inputs[0]))
    for port, values in zip(ports, inputs, strict=True):
        source(values).s_out.connect(port)
    process.s_out.connect(sink.a_in)
    process.run(condition=RunSteps(len(inputs[0])), run_cfg=FIXED)
    sent: list[Any] = sink.data.get().T.astype(int).tolist()
    process.stop()
    return sent


def product(inputs: list[Any], **arguments: Any) -> list[Any]:
    process = ProdNeuron(shape=(len(inputs[0][0]),), **arguments)
    return outputs(process, [process.a_in1, process.a_in2], inputs)


def graded(inputs: list[Any], **arguments: Any) -> list[Any]:
    process = GradedVec(shape=(len(inputs[0][0]),), **arguments)
    return outputs(process, [process.a_in], inputs)


def inverse_root(inputs: list[Any], **arguments: Any) -> list[Any]:
    process = InvSqrt(shape=(1,), **arguments)
    return outputs(process, [process.a_in], inputs)


def failing_lif(**arguments: Any) -> str:
    """Type of the exception in the process; Lava itself would wait for ever."""
    lif = LIF(shape=(1,), **arguments)
    lif.create_runtime(run_cfg=FIXED)
    threading.Thread(target=lif.run, kwargs={"condition": RunSteps(1), "run_cfg": FIXED}, daemon=True).start()
    for _ in range(100):
        time.sleep(0.1)
        for actor in lif.runtime._messaging_infrastructure.actors:
            if actor.exception is not None:
                return type(actor.exception[0]).__name__
    return "no exception"


KNOWN = {
    "dense_lif": dense_lif,
    "product": product,
    "graded": graded,
    "inverse_root": inverse_root,
    "failing_lif": failing_lif,
}

if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as file:
        results = [KNOWN[case.pop("process")](**case) for case in json.load(file)]
    print(json.dumps(results), flush=True)
