"""Tests the identity of model weights: what changes it, and that values already stored stay valid."""

import hashlib
from pathlib import Path

from gve_ray.store.weights import folder_digest, sampled_folder_digest, weights_identity


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_a_folder_is_identified_by_its_visible_files(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "weights").write_text("one")
    expected = sha256(f"a/weights\0{sha256(b'one')}\n".encode())
    assert weights_identity(str(tmp_path), None) == f"sha256:{expected}"
    (tmp_path / ".cache").write_text("hidden")
    assert folder_digest(tmp_path) == expected
    (tmp_path / "a" / "weights").write_text("two")
    assert folder_digest(tmp_path) != expected


def test_the_sampled_digest_covers_top_level_model_files(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"abc")
    (tmp_path / "notes.txt").write_text("not part of the model")
    assert sampled_folder_digest(tmp_path) == sha256(b"config.json:2:{}model.safetensors:3:abc")


def test_of_a_large_file_the_sampled_digest_reads_both_ends(tmp_path: Path) -> None:
    size = 2**30
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.truncate(size)  # sparse: takes no space on disk
        file.write(b"head")
        file.seek(-4, 2)
        file.write(b"tail")
    head, tail = b"head".ljust(2**20, b"\0"), b"tail".rjust(2**20, b"\0")
    assert sampled_folder_digest(tmp_path) == sha256(f"model.safetensors:{size}:".encode() + head + tail)
