"""Does Lava really run here? Two neurons and a synapse, for two steps, in a worker process.

`python -m neurotool.lava_runtime.selfcheck` is the worker; `check_lava()` starts it.
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence

from neurotool.lava_runtime import compatibility

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


def run_in_own_session(command: Sequence[str], timeout: float) -> tuple[int | None, str]:
    """Run a command that starts processes of its own, and leave none of them behind, whatever happens.

    Lava's processes survive the death of their parent, so the whole process group is killed at the end.

    Returns:
        exit code (None after `timeout` seconds) and the combined output, bytes that are not UTF-8 replaced.
    """
    with tempfile.TemporaryFile() as output:  # not a pipe: a surviving grandchild would keep that open
        worker = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            exit_code = worker.wait(timeout)
        except subprocess.TimeoutExpired:
            exit_code = None
        finally:
            _end_group(worker.pid)
            worker.wait()
        output.seek(0)
        return exit_code, output.read().decode(errors="replace")


def _end_group(group: int) -> None:
    # Nobody left: ProcessLookupError, and on macOS PermissionError when only zombies are.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


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
