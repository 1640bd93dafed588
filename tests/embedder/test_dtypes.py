"""Tests for the default dtype and the sizes of dtypes, against torch."""

from pathlib import Path

import pytest
import torch

from gve_ray.embedder.dtypes import cpu_flags, default_dtype, itemsize
from gve_ray.embedder.model import as_dtype

TORCH_NAMES = {"avx512_bf16", "amx_bf16", "bf16", "avx2", "avx512_f", "fma3", "sse4_2"}
KERNEL_NAMES = {"avx512_f": "avx512f", "fma3": "fma"}  # where they differ


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("flags\t\t: fpu avx2 bmi2", "float32"),
        ("flags\t\t: fpu avx2 avx512f avx512_vnni", "float32"),
        ("flags\t\t: fpu avx2 avx512f avx512_bf16", "bfloat16"),
        ("flags\t\t: fpu avx2 amx_bf16 amx_tile", "bfloat16"),
        ("Features\t: fp asimd svebf16 i8mm", "float32"),
        ("Features\t: fp asimd i8mm bf16", "bfloat16"),
        ("Hardware\t: of a kernel that lists no features", "float32"),
    ],
)
def test_a_processor_computes_in_bfloat16_only_if_it_has_instructions_for_it(
    line: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = "bogomips\t: 48.00 bf16"
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\n{other}\n{line}\n\nprocessor\t: 1\n{other}\n{line}\n")
    flags = cpu_flags(tmp_path / "cpuinfo")
    monkeypatch.setattr("gve_ray.embedder.dtypes.cpu_flags", lambda _: flags)
    assert default_dtype(on_gpu=False) == expected
    assert as_dtype(None, torch.device("cpu")) is getattr(torch, expected)
    assert default_dtype(on_gpu=True) == "bfloat16"


def test_tests_compute_in_float32_on_every_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gve_ray.embedder.dtypes._BFLOAT16_INSTRUCTIONS", cpu_flags(Path("/proc/cpuinfo")))
    assert default_dtype(on_gpu=False) == "float32"


def test_a_system_without_the_file_has_no_known_instructions(tmp_path: Path) -> None:
    assert cpu_flags(tmp_path / "missing") == set()


def test_the_instructions_are_those_that_torch_finds() -> None:
    ours, found = cpu_flags(Path("/proc/cpuinfo")), torch.cpu.get_capabilities()
    for name in TORCH_NAMES & set(found):
        assert (KERNEL_NAMES.get(name, name) in ours) == found[name], name


def test_sizes_are_those_of_torch() -> None:
    names = [name for name, dtype in vars(torch).items() if isinstance(dtype, torch.dtype)]
    weights = [name for name in names if getattr(torch, name).is_floating_point and "float4" not in name]
    assert len(weights) >= 7
    for name in (*weights, "int8", "uint8"):
        assert itemsize(name) == getattr(torch, name).itemsize, name
    with pytest.raises(ValueError, match="dtype='half-ish'"):
        itemsize("half-ish")
