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

from gve_ray.config import SequenceSettings

SETTINGS_FILE = "embedder.json"
EMBED_TOKEN = "<|endoftext|>"


@dataclass(frozen=True, kw_only=True)
class EmbedderSettings(SequenceSettings):
    """How an item becomes a sequence of tokens (arXiv:2510.27571, section 2).

    default_instruction: the system turn of an item without an instruction; None: that of the model
    (`ModelFamily.complete`). The other settings are those of `gve_ray.config.SequenceSettings`.
    """

    default_instruction: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.default_instruction == "":
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


def agreed(
    saved: EmbedderSettings | None, expected: EmbedderSettings | None, source: str
) -> EmbedderSettings:
    """Return the settings to use, given those saved with the weights and those the caller expects.

    If both are None, returns the defaults. An expected value of None agrees with any saved one.
    Raises ValueError naming each field in which they differ. source: the folder or hub id of the
    saved settings, for the error.
    """
    if saved is None or expected is None:
        return saved or expected or EmbedderSettings()
    differing = [
        f"{name}: {value!r} saved, {getattr(expected, name)!r} asked for"
        for name, value in dataclasses.asdict(saved).items()
        if getattr(expected, name) not in (None, value)
    ]
    if differing:
        raise ValueError(
            f"{source} was made with other embedder settings ({'; '.join(differing)}); drop the settings "
            "argument to use the saved ones, or call Embedder.with_settings(...) to override them"
        )
    return saved
