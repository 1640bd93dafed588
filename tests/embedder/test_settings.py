"""Tests the embedder settings: defaults, validation, and saved settings against expected ones."""

import json
import re

import pytest

from gve_ray.embedder.settings import EmbedderSettings, agreed


def test_defaults_are_the_papers() -> None:
    settings = EmbedderSettings()
    assert settings.frames == 8
    assert settings.max_pixels == 156_800  # 200 tokens of 28 x 28 pixels
    assert settings.min_pixels == 3_136
    assert settings.max_tokens == 8_192
    assert settings.default_instruction is None  # that of the model


@pytest.mark.parametrize("frames,advice", [(7, "use 6 or 8"), (1, "use 2"), (0, "use 2")])
def test_an_odd_frame_count_is_refused_with_advice(frames: int, advice: str) -> None:
    with pytest.raises(ValueError, match=f"frames={frames}: .*{advice}"):
        EmbedderSettings(frames=frames)


def test_impossible_limits_are_refused() -> None:
    with pytest.raises(ValueError, match="min_pixels"):
        EmbedderSettings(min_pixels=200, max_pixels=100)
    with pytest.raises(ValueError, match="max_tokens=3"):
        EmbedderSettings(max_tokens=3)


def test_settings_survive_saving_and_loading(tmp_path) -> None:
    settings = EmbedderSettings(frames=16, max_pixels=400 * 28 * 28, default_instruction="Zoë finds a video.")
    path = settings.save(tmp_path)
    assert path.name == "embedder.json"
    assert EmbedderSettings.from_file(path) == settings


def test_an_unknown_field_is_refused(tmp_path) -> None:
    path = tmp_path / "embedder.json"
    path.write_text(json.dumps({"frames": 8, "colour": 1}))
    with pytest.raises(ValueError, match="colour"):
        EmbedderSettings.from_file(path)


def test_the_error_names_every_field_that_differs() -> None:
    saved = EmbedderSettings(frames=8, max_tokens=4096)
    with pytest.raises(ValueError, match=re.escape("max_tokens: 4096 saved, 8192 asked for")) as error:
        agreed(saved, EmbedderSettings(frames=16), "folder/adapter")
    assert "frames: 8 saved, 16 asked for" in str(error.value)
    assert "folder/adapter" in str(error.value)
    assert "min_pixels" not in str(error.value)


def test_an_expected_value_of_none_agrees_with_the_saved_one() -> None:
    saved = EmbedderSettings(default_instruction="Find it.")
    assert agreed(saved, EmbedderSettings(), "x") is saved
    with pytest.raises(
        ValueError, match=re.escape("default_instruction: 'Find it.' saved, 'Other.' asked for")
    ):
        agreed(saved, EmbedderSettings(default_instruction="Other."), "x")


def test_saved_settings_take_precedence_over_defaults() -> None:
    saved = EmbedderSettings(frames=4)
    assert agreed(saved, None, "x") is saved
    assert agreed(None, saved, "x") is saved
    assert agreed(None, None, "x") == EmbedderSettings()
