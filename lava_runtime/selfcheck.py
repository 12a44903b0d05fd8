"""Does Lava really run here? Two neurons and a synapse, for two steps, in a worker process.

`python -m neurotool.lava_runtime.selfcheck` is the worker; `check_lava()` starts it.
"""

import sys

from neurotool.lava_runtime import compatibility
from neurotool.lava_runtime.session import run_in_own_session

TIMEOUT = 60.0
"""Seconds. An exception inside a Lava process model hangs its parent for ever; a good run takes about one second."""


def check_lava(timeout: float = TIMEOUT) -> str | None:
    """Run the tiny network in a worker; None when its result is right, else the reason in one line."""
    problem = compatibility.installation_problem()
    if problem:
        return problem
    exit_code, output = run_in_own_session([sys.executable, "-m", "neurotool.lava_runtime.selfcheck"], timeout)
    if exit_code is None:
        return f"no answer from the Lava worker within {timeout:g} s"
    if exit_code != 0:
        lines = output.strip().splitlines() or [f"the Lava worker ended with exit code {exit_code}"]
        return lines[-1]
    return None


def run_tiny_network() -> float:
    """LIF -> Dense -> LIF on Lava, two steps; the membrane voltage of the second neuron.

    The first neuron (bias 1, threshold 0.5) spikes in step 1; the Dense delays it by one step and weighs it with 2;
    the second neuron (no decay within a step, threshold 10) then holds 2.
    """
    compatibility.prepare()
    import numpy as np
    from lava.magma.core.run_conditions import RunSteps
    from lava.magma.core.run_configs import Loihi1SimCfg
    from lava.proc.dense.process import Dense
    from lava.proc.lif.process import LIF

    source = LIF(shape=(1,), vth=0.5, bias_mant=1.0, du=1.0, dv=0.0)
    synapse = Dense(weights=np.array([[2.0]]))
    target = LIF(shape=(1,), vth=10.0, du=1.0, dv=0.0)
    source.s_out.connect(synapse.s_in)
    synapse.a_out.connect(target.a_in)
    target.run(condition=RunSteps(2), run_cfg=Loihi1SimCfg(select_tag="floating_pt"))
    voltage = float(target.v.get()[0])
    target.stop()
    return voltage


if __name__ == "__main__":
    voltage = run_tiny_network()
    if voltage != 2.0:
        sys.exit(f"the tiny Lava network gave v = {voltage}, 2.0 expected")
