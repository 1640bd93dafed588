"""The dtypes of weights, by their names in torch. Needs no torch, so that drivers and checks start quickly."""

import re
from pathlib import Path

_BFLOAT16_INSTRUCTIONS = {"avx512_bf16", "amx_bf16", "bf16"}  # the last one: ARM
_BYTES = (
    {"float64": 8, "double": 8, "float32": 4, "float": 4, "float16": 2, "half": 2, "bfloat16": 2}
    | dict.fromkeys(
        ("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"), 1
    )
    | {"int8": 1, "uint8": 1}
)


def default_dtype(*, on_gpu: bool) -> str:
    """Return bfloat16 on a GPU and on a processor with instructions for it, else float32.

    A processor without them computes in bfloat16 several times more slowly than in float32.
    """
    return "bfloat16" if on_gpu or _BFLOAT16_INSTRUCTIONS & cpu_flags(Path("/proc/cpuinfo")) else "float32"


def cpu_flags(cpuinfo: Path) -> set[str]:
    """Return the instruction sets of the first processor that the kernel lists in a file.

    The set is empty if there is no such file, as on macOS.
    """
    text = cpuinfo.read_text() if cpuinfo.exists() else ""
    listed = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    return set(listed[1].split()) if listed else set()


def itemsize(dtype: str) -> int:
    """Return the bytes of one value. Raises ValueError for a name that is no dtype of weights."""
    if dtype not in _BYTES:
        raise ValueError(f"dtype={dtype!r} is not a dtype of weights; use 'float32', 'bfloat16' or 'float16'")
    return _BYTES[dtype]
