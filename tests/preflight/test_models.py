"""Tests the checks that models are available and equal on two nodes."""

import shutil
from pathlib import Path

import pytest

from gve_ray.config import ModelConfig
from gve_ray.demo.tiny_vl import ADAPTER, MODEL
from gve_ray.embedder import EmbedderSettings
from gve_ray.job import PreflightError
from gve_ray.preflight import Embedder, Weights
from tests.endpoint import Reply, http_endpoint


def test_a_missing_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(PreflightError, match=r"model='/no/such/model': no such folder"):
        Weights(option="model", name="/no/such/model").check()
    with pytest.raises(PreflightError, match=rf"model='{tmp_path}'.*has no config\.json"):
        Weights(option="model", name=str(tmp_path)).check()
    with pytest.raises(PreflightError, match=r"model.*package://no/such"):
        Weights(option="model", name="package://no/such").check()
    (tmp_path / "config.json").write_text("{}")
    Weights(option="model", name=str(tmp_path)).check()
    with pytest.raises(PreflightError, match=r"has no adapter_config\.json"):
        Weights(option="adapter", name=str(tmp_path), file="adapter_config.json").check()


def test_a_hub_id_is_downloaded_before_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    requests = []

    def download(name: str, file: str, *, revision: str | None) -> str:
        requests.append((name, file, revision))
        raise FileNotFoundError("not in the cache\nand more lines")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    with pytest.raises(PreflightError, match=r"'org/name' \(revision main\).*not in the cache\)"):
        Weights(option="model", name="org/name").check()
    assert requests == [("org/name", "config.json", None)]


def test_an_embedder_must_match_the_saved_settings() -> None:
    saved = EmbedderSettings.from_file(ADAPTER / "embedder.json")
    model = ModelConfig(name="tiny", model=str(MODEL), adapter=str(ADAPTER))
    Embedder(option="model", model=model, settings=saved).check()
    other = EmbedderSettings(
        frames=saved.frames * 2, max_pixels=saved.max_pixels, min_pixels=saved.min_pixels
    )
    with pytest.raises(PreflightError, match=r"model: .*frames.*rescale: true"):
        Embedder(option="model", model=model, settings=other).check()


def test_nothing_is_loaded_for_an_endpoint() -> None:
    endpoint = ModelConfig(name="a", model="m", engine="openai", url="http://127.0.0.1:1/v1")
    assert Embedder(option="models.a", model=endpoint, settings=None).weights == []


def test_copies_of_a_model_have_equal_digests(tmp_path: Path) -> None:
    first = tmp_path / "a"
    (first / "sub").mkdir(parents=True)
    (first / "config.json").write_text("{}")
    (first / "sub" / "model.safetensors").write_bytes(bytes(300_000))
    second = Path(shutil.copytree(first, tmp_path / "b"))

    def digest(folder: Path) -> str:
        return Weights(option="model", name=str(folder)).digest()

    assert digest(second) == digest(first)
    (second / ".cache").mkdir()
    (second / ".cache" / "lock").write_text("hidden files do not count")
    assert digest(second) == digest(first)
    (second / "sub" / "model.safetensors").write_bytes(bytes(299_999) + b"x")
    assert digest(second) != digest(first)
    (second / "sub" / "model.safetensors").write_bytes(bytes(300_001))
    assert digest(second) != digest(first)


def test_a_missing_package_of_an_engine_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    from gve_ray.preflight import models

    monkeypatch.setattr(models, "find_spec", lambda name: None)
    model = ModelConfig(name="st", model="some/model", engine="sentence-transformers")
    with pytest.raises(PreflightError, match=r"models.st.engine=sentence-transformers: .* is not installed"):
        Embedder(option="models.st", model=model, settings=None).check()


def test_an_endpoint_that_does_not_answer_or_take_the_key_is_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("MY_KEY", raising=False)

    def embedder(url: str) -> Embedder:
        model = ModelConfig(name="far", model="m", engine="openai", url=url, key_variable="MY_KEY")
        return Embedder(option="models.far", model=model, settings=None)

    with http_endpoint(lambda number, body: Reply()) as endpoint:
        embedder(endpoint.url).check()
    with pytest.raises(PreflightError, match=r"models.far.url=.*: cannot connect"):
        embedder(endpoint.url).check()
    with (
        http_endpoint(lambda number, body: Reply(), models=Reply(401)) as endpoint,
        pytest.raises(
            PreflightError, match=r"models.far.key_variable='MY_KEY': .* none is set; set the variable"
        ),
    ):
        embedder(endpoint.url).check()
