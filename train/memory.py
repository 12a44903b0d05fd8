"""Memory of the process."""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # mallopt(3)


def keep_freed_memory() -> bool:
    """Ask glibc to keep large freed blocks instead of handing them back to the kernel; False where there is no glibc.

    By default every activation is mapped anew, page by page, at every step, which on CPU costs more than computing
    many of them (benchmarks/step_time.py --return-freed-memory shows it).
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, 1 << 30) and mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1))
