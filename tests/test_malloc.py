import subprocess
import sys
from pathlib import Path

PROGRAM = """
import ctypes, sys, threading
from gve_ray.malloc import limit_arenas
libc = ctypes.CDLL(None)
libc.fopen.restype = ctypes.c_void_p
if sys.argv[2] == "limited":
    limit_arenas()
all_started = threading.Barrier(8)
def work():
    bytes(100_000)
    all_started.wait()
threads = [threading.Thread(target=work) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
file = ctypes.c_void_p(libc.fopen(sys.argv[1].encode(), b"w"))
libc.malloc_info(0, file)
libc.fclose(file)
"""


def test_threads_share_malloc_arenas(tmp_path: Path) -> None:
    arenas = {}
    for setting in ("limited", "default"):
        path = tmp_path / setting
        subprocess.run([sys.executable, "-c", PROGRAM, str(path), setting], check=True)
        arenas[setting] = path.read_text().count("<heap nr=")
    assert arenas["default"] >= 8, "an arena for each thread"
    assert arenas["limited"] <= 2, "one for the main thread; imports may have made another before the limit"


def test_free_memory_between_objects_is_given_back() -> None:
    program = """
import gc, psutil
from gve_ray.malloc import trim
gc.disable()
used = psutil.Process().memory_info
objects = [bytearray(1000) for _ in range(100_000)]
circle = [b"x" * 40_000_000]
circle.append(circle)
kept, most = objects[::100], used().rss
del objects, circle
before = used().rss
trim()
print(most - before, before - used().rss)
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    freed_at_once, freed_by_trim = map(int, done.stdout.split())
    assert freed_at_once < 20e6, "objects that are kept prevent it"
    assert freed_by_trim > 60e6 + 40e6
