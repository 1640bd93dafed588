"""Checkpoints from a hub: ids, revisions, refusals, broken downloads, caches and forms of the weights.

The library reads HF_ENDPOINT and HF_HOME when it is imported, so each client is a process of its own.
"""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from gve_ray.embedder import Embedder
from gve_ray.schema import Item
from tests.hub import Hub

NAME = "org/tiny"
TEXTS = ("a cat", "a dog on a red sofa")
CLIENT = """
import json, sys
from gve_ray.embedder import Embedder
from gve_ray.schema import Item
name, revision, *texts = sys.argv[1:]
embedder = Embedder.from_pretrained(name, revision=revision or None, dtype="float32", device="cpu")
print(json.dumps(embedder.embed([Item(text=text) for text in texts]).tolist()))
"""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    with Hub(tmp_path / "cache") as hub:
        yield hub


def load(
    hub: Hub, name: str = NAME, revision: str = "", **environment: str
) -> "subprocess.CompletedProcess[str]":
    """Load a model in a new process, which prints the vectors of TEXTS."""
    return subprocess.run(
        [sys.executable, "-c", CLIENT, name, revision, *TEXTS],
        env=hub.environment | environment,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


def vectors(done: "subprocess.CompletedProcess[str]") -> np.ndarray:
    """The vectors that a client has printed, [n, d]."""
    assert done.returncode == 0, done.stderr
    return np.array(json.loads(done.stdout.splitlines()[-1]))


def expected(folder: Path) -> np.ndarray:
    """The vectors of TEXTS by the model in a folder, [n, d]."""
    embedder = Embedder.from_pretrained(folder, dtype="float32", device="cpu")
    return embedder.embed([Item(text=text) for text in TEXTS])


def changed(tiny: Path, folder: Path) -> Path:
    """A copy of the model with other weights."""
    shutil.copytree(tiny, folder)
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] = weights["model.norm.weight"].cumsum(0)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_the_mirror_answers_like_a_hub(hub: Hub, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "weights.bin").write_bytes(b"0123456789")
    commit = hub.add(NAME, folder, "v1")
    file = f"{hub.url}/{NAME}/resolve/v1/weights.bin"
    with httpx.Client(trust_env=False) as client:
        head = client.head(file)
        assert (head.headers["X-Repo-Commit"], head.headers["Content-Length"]) == (commit, "10")
        part = client.get(file, headers={"Range": "bytes=4-"})
        assert (part.status_code, part.content, part.headers["Content-Range"]) == (
            206,
            b"456789",
            "bytes 4-9/10",
        )
        facts = client.get(f"{hub.url}/api/models/{NAME}/revision/v1").json()
        assert (facts["sha"], facts["siblings"]) == (commit, [{"rfilename": "weights.bin", "size": 10}])
        assert (
            client.get(f"{hub.url}/{NAME}/resolve/main/weights.bin").headers["X-Error-Code"]
            == "RevisionNotFound"
        )
        hub.gated[NAME] = 403
        assert client.get(file).status_code == 403
        hub.gated.clear()
        hub.cut["weights.bin"] = 1
        with pytest.raises(httpx.RemoteProtocolError):
            client.get(file)
        assert client.get(file).content == b"0123456789"


@pytest.mark.slow
def test_ids_and_revisions_load_and_the_cache_works_offline(hub: Hub, tiny: Path, tmp_path: Path) -> None:
    """The client with HF_HUB_OFFLINE sends no request, and gets the vectors of the cached revision."""
    other = changed(tiny, tmp_path / "other")
    hub.add(NAME, tiny)
    commit = hub.add(NAME, other, "v1")
    first, second = expected(tiny), expected(other)
    assert np.abs(first - second).max() > 1e-3
    assert vectors(load(hub)) == pytest.approx(first, abs=1e-6)
    assert vectors(load(hub, revision="v1")) == pytest.approx(second, abs=1e-6)
    assert any(path == f"/{NAME}/resolve/{commit}/model.safetensors" for _, path, _ in hub.requests)
    hub.requests.clear()
    assert vectors(load(hub, revision=commit, HF_HUB_OFFLINE="1")) == pytest.approx(second, abs=1e-6)
    assert hub.requests == []


@pytest.mark.slow
@pytest.mark.parametrize("status", [401, 403])
def test_a_gated_repository_is_named_with_the_way_to_get_access(hub: Hub, tiny: Path, status: int) -> None:
    hub.add(NAME, tiny)
    hub.gated[NAME] = status
    done = load(hub)
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"PermissionError: {NAME}: the hub refused access (HTTP {status}); ")
    assert "set HF_TOKEN" in last


@pytest.mark.slow
def test_a_download_that_breaks_off_continues(hub: Hub, tiny: Path, tmp_path: Path) -> None:
    """The first answer ends after half of the weights; the client then asks for the rest. The file has 30 MB more
    of metadata, since the library keeps whole chunks of 10 MB.
    """
    large = tmp_path / "large"
    shutil.copytree(tiny, large)
    weights = load_file(large / "model.safetensors")
    metadata = {"format": "pt", "padding": "x" * 30_000_000}
    save_file(weights, large / "model.safetensors", metadata=metadata)
    hub.add(NAME, large)
    hub.cut["model.safetensors"] = 1
    assert vectors(load(hub)) == pytest.approx(expected(tiny), abs=1e-6)
    ranges = [
        wanted
        for method, path, wanted in hub.requests
        if method == "GET" and path.endswith("/model.safetensors")
    ]
    assert len(ranges) == 2
    assert ranges[0] == ""
    start = re.fullmatch(r"bytes=(\d+)-", ranges[1])
    assert start is not None
    assert 0 < int(start[1]) <= (large / "model.safetensors").stat().st_size // 2


@pytest.mark.slow
def test_sharded_weights_and_both_generations_of_names_load(hub: Hub, tiny: Path, tmp_path: Path) -> None:
    """Before transformers 4.52, the weights of Qwen2.5-VL were `model.layers` and `visual`; transformers 5 still
    writes these names. Since then, they are `model.language_model.layers` and `model.visual`.
    """
    old = load_file(tiny / "model.safetensors")
    assert {name.partition(".")[0] for name in old} == {"model", "visual"}
    new = {
        f"model.{name}"
        if name.startswith("visual.")
        else name.replace("model.", "model.language_model.", 1): tensor
        for name, tensor in old.items()
    }
    renamed, sharded = tmp_path / "renamed", tmp_path / "sharded"
    for folder in (renamed, sharded):
        shutil.copytree(tiny, folder)
    save_file(new, renamed / "model.safetensors", metadata={"format": "pt"})
    (sharded / "model.safetensors").unlink()
    shards = [dict(list(old.items())[start::2]) for start in (0, 1)]
    files = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    for file, shard in zip(files, shards, strict=True):
        save_file(shard, sharded / file, metadata={"format": "pt"})
    index = {
        "metadata": {"total_size": sum(tensor.nbytes for tensor in old.values())},
        "weight_map": {name: file for file, shard in zip(files, shards, strict=True) for name in shard},
    }
    (sharded / "model.safetensors.index.json").write_text(json.dumps(index))
    wanted = expected(tiny)
    assert expected(renamed) == pytest.approx(wanted, abs=1e-6)
    hub.add(NAME, sharded)
    assert vectors(load(hub)) == pytest.approx(wanted, abs=1e-6)
    fetched = {path.rpartition("/")[2] for method, path, _ in hub.requests if method == "GET"}
    assert set(files) <= fetched
