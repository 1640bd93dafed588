"""Settings of glibc's malloc, which keeps more memory than a process uses. They change nothing with other C libraries.

keep_little()     # at the start of a process that works for hours
trim()            # after large objects of several threads were freed
"""

import ctypes
import gc

import pyarrow as pa

_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8  # in malloc.h of glibc
_LARGE_BYTES = 2**20


def keep_little() -> None:
    """Let this process keep little of the memory that it frees. To be called before most threads start.

    With the defaults, the driver of a job that works for hours grows by what it has freed (docs/LOG.md):
    malloc makes up to eight arenas per core for threads, and what one frees is not used by others; it gives an object
    of up to 32 MB back to the system only if none behind it is in use; and Arrow has an allocator of its own, which
    keeps what it frees.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_ARENA_MAX, 1)
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
        pa.set_memory_pool(pa.system_memory_pool())


def trim() -> None:
    """Give the free memory of all arenas back to the system, also that of circles of references.

    Ray Serve's errors of cancelled calls are such circles, with the last part of a body.
    """
    gc.collect()
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)
