"""Tests for what is read from the small files of a checkpoint, against transformers."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoConfig

from gve_ray.embedder import EmbedderSettings
from gve_ray.embedder.checkpoint_files import complete_settings, family_of
from gve_ray.embedder.model_families import MODEL_FAMILIES, model_family
from tests.hub import Hub

CLIENT = """
import json, sys
from gve_ray.embedder import EmbedderSettings
from gve_ray.embedder.checkpoint_files import complete_settings
for name, revision in json.loads(sys.argv[1]):
    try:
        print(complete_settings(name, None, EmbedderSettings(), revision).default_instruction)
    except OSError as error:
        print(type(error).__name__, error)
"""


def test_the_family_is_that_of_the_config_that_transformers_loads(tiny_family: Path) -> None:
    loaded = AutoConfig.from_pretrained(tiny_family)
    assert family_of(tiny_family) is model_family(loaded.model_type)


@pytest.mark.parametrize("model_type", sorted(MODEL_FAMILIES))
def test_a_config_that_transformers_writes_names_its_family(model_type: str, tmp_path: Path) -> None:
    AutoConfig.for_model(model_type).save_pretrained(tmp_path)
    assert family_of(tmp_path) is MODEL_FAMILIES[model_type]


def test_the_default_instruction_is_saved_with_the_weights_or_that_of_the_family(tmp_path: Path) -> None:
    expected = EmbedderSettings(frames=4)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen3_vl"}))
    completed = complete_settings(tmp_path, None, expected, None)
    assert completed == EmbedderSettings(frames=4, default_instruction="Represent the user's input.")
    EmbedderSettings(default_instruction="Find it.").save(tmp_path)
    assert complete_settings(tmp_path, None, expected, None).default_instruction == "Find it."
    own = EmbedderSettings(default_instruction="Mine.")
    assert complete_settings(tmp_path, None, own, None) is own


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        ({"model_type": "bert"}, ValueError, "model type 'bert' is not supported; supported: qwen2_5_vl, "),
        ({"hidden_size": 8}, ValueError, "model type None is not supported"),
        (None, OSError, "no config.json there, on the hub or in its cache; name a model folder or a hub id"),
    ],
)
def test_no_family(
    config: dict[str, object] | None, error: type[Exception], message: str, tmp_path: Path
) -> None:
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(error, match=message):
        family_of(tmp_path)


def test_the_error_of_a_damaged_config_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "qwen2')
    with pytest.raises(OSError, match=r"config\.json: not valid JSON"):
        family_of(tmp_path)


def test_a_path_that_does_not_exist_is_no_hub_id(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="this folder does not exist, and the name is not a hub id"):
        family_of(tmp_path / "missing")


def ask(hub: Hub, *models: tuple[str, str | None], **environment: str) -> list[str]:
    """Return the default instruction of each model on the hub, or the error.

    A new process, because the library reads its settings when it is imported.
    """
    done = subprocess.run(
        [sys.executable, "-c", CLIENT, json.dumps(models)],
        env=hub.environment | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout.splitlines()


def test_files_of_the_hub_and_of_its_cache(tmp_path: Path) -> None:
    """One model has no saved settings, so those of its family hold; what is in the cache needs no access."""
    plain, saved = tmp_path / "plain", tmp_path / "saved"
    for folder in (plain, saved):
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({"model_type": "qwen3_vl"}))
    EmbedderSettings(default_instruction="Find it.").save(saved)
    own, refused = "Represent the user's input.", "the hub refused access (HTTP 403)"
    with Hub(tmp_path / "cache") as hub:
        for name, folder in (("org/plain", plain), ("org/saved", saved), ("org/gated", saved)):
            hub.add(name, folder)
        hub.gated["org/gated"] = 403
        answers = ask(hub, ("org/plain", None), ("org/saved", None), ("org/gated", None), ("org/plain", "v9"))
        assert answers[:2] == [own, "Find it."]
        assert answers[2].startswith(f"PermissionError org/gated: {refused}")
        assert answers[3].startswith("OSError org/plain: the hub has no revision 'v9'; ")
        hub.gated["org/saved"] = 403
        assert ask(hub, ("org/saved", None)) == ["Find it."]
        hub.requests.clear()
        answers = ask(hub, ("org/plain", None), ("org/saved", None), ("org/gated", None), HF_HUB_OFFLINE="1")
        assert answers[:2] == [own, "Find it."]
        assert answers[2].startswith("OSError org/gated: no config.json there, ")
        assert hub.requests == []
