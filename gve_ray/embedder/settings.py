"""The settings that affect vectors; they are saved with the weights as `embedder.json`.

Vectors of a query and a corpus that were embedded with different settings cannot be compared, and
nothing would show it. Therefore loading fails if the saved settings differ from those that the
caller expects; neither silently overrides the other.
"""

import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path

SETTINGS_FILE = "embedder.json"
EMBED_TOKEN = "<|endoftext|>"


@dataclass(frozen=True, kw_only=True)
class EmbedderSettings:
    """How an item becomes a sequence of tokens (arXiv:2510.27571, section 2).

    frames: number of frames sampled from a video given by path or URI; even, because two frames
    make one temporal patch. max_pixels, min_pixels: pixel budget of one frame or image; 28*28
    pixels are one visual token. max_tokens: length limit of a sequence; longer text is cut at its
    end, but the closing tokens of the turn stay. default_instruction: the system turn of an item
    without an instruction.
    """

    frames: int = 8
    max_pixels: int = 200 * 28 * 28
    min_pixels: int = 4 * 28 * 28
    max_tokens: int = 8192
    default_instruction: str = "You are a helpful assistant."

    def __post_init__(self) -> None:
        check_frame_count(self.frames)
        if not 0 < self.min_pixels <= self.max_pixels:
            raise ValueError(
                f"min_pixels={self.min_pixels}, max_pixels={self.max_pixels}: "
                "give 0 < min_pixels <= max_pixels"
            )
        if self.max_tokens < 16:
            raise ValueError(
                f"max_tokens={self.max_tokens}: the chat template alone needs about 16; use more"
            )
        if not self.default_instruction:
            raise ValueError("default_instruction is empty; the system turn needs a sentence")

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write `embedder.json` into `folder` and return its path."""
        path = Path(folder) / SETTINGS_FILE
        path.write_text(json.dumps(dataclasses.asdict(self), indent=2) + "\n", encoding="utf-8")
        return path

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> "EmbedderSettings":
        """Read a settings file. Raises ValueError if it has fields that this version does not know."""
        values = json.loads(Path(path).read_text(encoding="utf-8"))
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ValueError(f"{path}: unknown settings {unknown}; known are {sorted(known)}")
        return cls(**values)


def check_frame_count(frames: int) -> None:
    """Raise ValueError unless `frames` is a positive even number."""
    if frames < 2 or frames % 2:
        around = f"{frames - 1} or {frames + 1}" if frames > 1 else "2"
        raise ValueError(
            f"frames={frames}: Qwen-VL models need an even number of frames (temporal patch 2); use {around}"
        )


def agreed(
    saved: EmbedderSettings | None, expected: EmbedderSettings | None, source: str
) -> EmbedderSettings:
    """Return the settings to use, given those saved with the weights and those the caller expects.

    If both are None, returns the defaults. Raises ValueError naming each field in which they
    differ. source: the folder or hub id of the saved settings, for the error.
    """
    if saved is None or expected is None:
        return saved or expected or EmbedderSettings()
    differing = [
        f"{name}: {value!r} saved, {getattr(expected, name)!r} asked for"
        for name, value in dataclasses.asdict(saved).items()
        if value != getattr(expected, name)
    ]
    if differing:
        raise ValueError(
            f"{source} was made with other embedder settings ({'; '.join(differing)}); drop the settings "
            "argument to use the saved ones, or call Embedder.with_settings(...) to override them"
        )
    return saved
