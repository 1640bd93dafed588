"""The settings that decide what a vector means; they travel with the weights as `embedder.json`.

A query embedded with other settings than its corpus is silently wrong, so a folder's settings are
refused when the caller expects different ones instead of being overwritten.
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
    """How an item becomes a sequence (paper section 2, protocol).

    frames: frames sampled from a video given by path or URI (even: temporal patch 2).
    max_pixels, min_pixels: pixel budget of one frame or image; 28*28 pixels are one visual token.
    max_tokens: longest sequence; longer text is cut at its end, the turn's closing tokens stay.
    default_instruction: the system turn of an item without an instruction.
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
        """Read a settings file. Raises ValueError when it has fields this version does not know."""
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
    travelling: EmbedderSettings | None, expected: EmbedderSettings | None, where: str
) -> EmbedderSettings:
    """The settings to use, given those saved with the weights and those the caller expects.

    Raises ValueError naming each field on which they disagree; with neither, the paper's defaults.
    """
    if travelling is None or expected is None:
        return travelling or expected or EmbedderSettings()
    differing = [
        f"{name}: {saved!r} saved, {getattr(expected, name)!r} asked for"
        for name, saved in dataclasses.asdict(travelling).items()
        if saved != getattr(expected, name)
    ]
    if differing:
        raise ValueError(
            f"{where} was made with other embedder settings ({'; '.join(differing)}); drop the settings "
            "argument to use the saved ones, or Embedder.with_settings(...) to depart from them on purpose"
        )
    return travelling
