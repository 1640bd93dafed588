"""Tests that a model behind a URI is copied once, again after a change, and always completely."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from huggingface_hub import constants
from pyarrow import fs

from gve_ray.config import resolve_model
from gve_ray.demo.tiny_vl import ADAPTER, MODEL
from gve_ray.embedder import EmbedderSettings
from gve_ray.embedder.backends import ModelConfig, identify
from gve_ray.job import PreflightError
from gve_ray.preflight import Weights
from gve_ray.store import SharedFolder, model_cache
from gve_ray.store.model_cache import folder_listing, local_copy


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which copies are kept."""
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    return tmp_path / "hf" / "gve_ray"


def publish(uri: str, **files: str) -> str:
    folder = SharedFolder(uri)
    for name, text in files.items():
        path = folder.path / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    folder.publish()
    return uri


def contents(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()
    }


def test_a_folder_is_copied_once_and_again_after_a_change(
    s3: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = publish(f"{s3}/models/adapter", config="1", deep__weights="22", **{".hidden": "3"})
    first = local_copy(uri)
    assert contents(first) == {"config": "1", "deep/weights": "22"}
    assert first.parent == home
    assert first.name.startswith("adapter-")
    with monkeypatch.context() as patched:
        patched.setattr(fs, "copy_files", None)
        assert local_copy(f"{uri}/") == first
    time.sleep(1.1)  # the server's modification times are in whole seconds
    publish(uri, deep__weights="33")
    second = local_copy(uri)
    assert second != first
    assert contents(second) == {"config": "1", "deep/weights": "33"}
    assert contents(first)["deep/weights"] == "22"
    assert sorted(home.iterdir()) == sorted([first, second])


def test_a_folder_that_changes_while_it_is_copied_is_copied_again(
    s3: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = publish(f"{s3}/m", a="1", b="1")
    copy_files = fs.copy_files
    changes: list[int] = []

    def copy_and_change(source: str, *args: object, **options: object) -> None:
        copy_files(source, *args, **options)
        if source.endswith("/a") and len(changes) < limit:
            monkeypatch.setattr(model_cache.fs, "copy_files", copy_files)
            publish(uri, b="2" * (len(changes) + 1 + limit))  # another size each time
            monkeypatch.setattr(model_cache.fs, "copy_files", copy_and_change)
            changes.append(1)

    limit = 1
    monkeypatch.setattr(model_cache.fs, "copy_files", copy_and_change)
    assert contents(local_copy(uri)) == {"a": "1", "b": "22"}
    changes, limit = [], 99
    publish(uri, b="other")
    with pytest.raises(OSError, match="its files changed during each of 3 copies"):
        local_copy(uri)
    assert len(list(home.iterdir())) == 1


def test_processes_of_a_node_may_copy_the_same_folder_at_once(s3: str, home: Path) -> None:
    uri = publish(f"{s3}/m", **{f"f{i}": str(i) for i in range(20)})
    program = f"from gve_ray.store.model_cache import local_copy; print(local_copy({uri!r}))"
    processes = [
        subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    (only,) = {process.communicate(timeout=60)[0].strip() for process in processes}
    assert list(home.iterdir()) == [Path(only)]
    assert len(contents(Path(only))) == 20


def test_a_model_behind_a_uri_has_the_identity_of_the_local_folder(s3: str, home: Path) -> None:
    shared = SharedFolder(f"{s3}/adapter")
    for path in ADAPTER.iterdir():
        if path.is_file():
            (shared.path / path.name).write_bytes(path.read_bytes())
    shared.publish()
    Weights(option="adapter", name=shared.uri, file="adapter_config.json").check()
    identity = Weights(option="adapter", name=shared.uri, file="adapter_config.json").digest()
    assert len(identity) == 8
    assert not home.exists(), "the checks above must not download anything"
    settings = EmbedderSettings.from_file(ADAPTER / "embedder.json")
    remote, local = (
        identify(ModelConfig(name="m", model=str(MODEL), adapter=adapter), settings, on_gpu=False)
        for adapter in (shared.uri, str(ADAPTER))
    )
    assert remote == local
    assert json.loads((Path(resolve_model(shared.uri)) / "adapter_config.json").read_text())
    assert resolve_model("Qwen/Qwen2.5-VL-3B-Instruct") == "Qwen/Qwen2.5-VL-3B-Instruct"
    assert resolve_model(ADAPTER.as_uri()) == str(ADAPTER)


def test_the_error_for_a_missing_model_names_it(s3: str) -> None:
    with pytest.raises(FileNotFoundError, match="no files there"):
        local_copy(f"{s3}/none")
    with pytest.raises(
        PreflightError, match=rf"model='{s3}/none': cannot be read \({s3}/none: no files there\)"
    ):
        Weights(option="model", name=f"{s3}/none").check()
    with pytest.raises(PreflightError, match="model='nosuch://x/y': cannot be read"):
        Weights(option="model", name="nosuch://x/y").check()
    publish(f"{s3}/m", weights="1")
    with pytest.raises(PreflightError, match=r"has no config\.json"):
        Weights(option="model", name=f"{s3}/m").check()
    assert list(folder_listing(f"{s3}/m")) == ["weights"]
