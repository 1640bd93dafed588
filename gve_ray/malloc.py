"""Settings of glibc's malloc, which keeps more memory than a process uses. Other C libraries ignore them.

keep_little()     # at the start of a process that works for hours
trim()            # after large objects of several threads were freed
"""

import ctypes
import gc

_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8  # in malloc.h of glibc
_LARGE_BYTES = 2**20


def keep_little() -> None:
    """Let malloc keep little of what this process frees. To be called before most threads start.

    It makes no more arenas for threads: otherwise up to eight per core, and what a thread frees in one is not used by
    the threads of others. And it gives objects of 1 MB and more back to the system as soon as they are freed:
    otherwise only the first of each size, and later ones fragment the arena. With both, the driver of a job that
    works for hours does not grow by what it has freed (docs/LOG.md).
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_ARENA_MAX, 1)
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)


def trim() -> None:
    """Give the free memory of all arenas back to the system, also that of circles of references.

    Ray Serve's errors of cancelled calls are such circles, with the last part of a body.
    """
    gc.collect()
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)
