"""Settings of glibc's malloc, which keeps more memory than a process uses. Other C libraries ignore them.

limit_arenas()     # at the start of a process that works for hours
trim()             # after large objects of several threads were freed
"""

import ctypes
import gc

_M_ARENA_MAX = -8  # in malloc.h of glibc


def limit_arenas() -> None:
    """Let malloc make no more arenas for the threads of this process.

    Otherwise it makes up to eight per core, and what a thread frees in one is not used by the threads of others,
    so a driver that works for hours grows (docs/LOG.md). To be called before most threads start.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_ARENA_MAX, 1)


def trim() -> None:
    """Give the free memory of all arenas back to the system, also that of circles of references.

    Ray Serve's errors of cancelled calls are such circles, with the last part of a body.
    """
    gc.collect()
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)
