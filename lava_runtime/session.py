"""Running a command that starts processes of its own, and leaving none of them behind."""

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

GRACE = 0.5
"""Seconds for the processes to go by themselves: Python's resource tracker then frees their shared memory."""
POLL = 0.05


def run_in_own_session(
    command: Sequence[str], timeout: float | None, progress: Callable[[int], None] | None = None, **options: Any
) -> tuple[int | None, str]:
    """Run a command and end its whole process group, whatever happens: Lava's processes survive their parent's death.

    progress: called again and again with the number in the last whole line of the output; options: of Popen.
    Returns the exit code (None after `timeout` seconds) and the combined output, bytes that are not UTF-8 replaced.
    """
    with tempfile.TemporaryFile() as output:  # not a pipe: a surviving grandchild would keep that open
        worker = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            **options,
        )
        end = None if timeout is None else time.monotonic() + timeout
        try:
            while (exit_code := worker.poll()) is None and (end is None or time.monotonic() < end):
                time.sleep(POLL)
                if progress:
                    _report(output.fileno(), progress)
        finally:
            _end_group(worker)
        output.seek(0)
        return exit_code, output.read().decode(errors="replace")


def _report(output: int, progress: Callable[[int], None]) -> None:
    lines = os.pread(output, os.fstat(output).st_size, 0).split(b"\n")[:-1]
    if lines and lines[-1].isdigit():
        progress(int(lines[-1]))


def _end_group(worker: subprocess.Popen[bytes]) -> None:
    # Nobody left: ProcessLookupError, and on macOS PermissionError when only zombies are.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(worker.pid, signal.SIGTERM)
        end = time.monotonic() + GRACE
        while time.monotonic() < end:
            worker.poll()  # a child that nobody has asked for stays in its group
            os.killpg(worker.pid, 0)
            time.sleep(0.01)
        os.killpg(worker.pid, signal.SIGKILL)
    worker.wait()
