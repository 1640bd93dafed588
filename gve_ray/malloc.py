"""Make a process give freed memory back to the system. With other C libraries than glibc, nothing changes.

limit_kept_memory()     # at the start of a process that works for hours
trim()                  # after large objects of several threads were freed
"""

import ctypes
import gc
import os

import pyarrow as pa

_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8  # in malloc.h of glibc
_LARGE_BYTES = 2**20


def limit_kept_memory() -> None:
    """Change defaults with which the driver of a long job grows by what it frees. Call it before most threads start.

    malloc makes up to eight arenas per core, and memory that is freed in one is not reused by the threads of others. It
    returns a freed object of up to 32 MB only if no object above it is in use; here those of 1 MB and more are
    returned at once. pyarrow's buffers are allocated by mimalloc, which keeps what is freed, unless
    ARROW_DEFAULT_MEMORY_POOL names another allocator; here by malloc. docs/LOG.md has the figures.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_ARENA_MAX, 1)
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
        if not os.environ.get("ARROW_DEFAULT_MEMORY_POOL"):
            pa.set_memory_pool(pa.system_memory_pool())


def trim() -> None:
    """Give the free memory of all arenas back to the system, also that of circles of references.

    Ray Serve's errors of cancelled calls are such circles, with the last part of a body.
    """
    gc.collect()
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)
