"""The conventions of published embedding models, as data: how each of them must be run.

    find_convention("gve-3b").options()      # {"model": "Alibaba-NLP/GVE-3B", "revision": ...}
    for convention in conventions(): ...     # what `gve models` prints

The table is `models.yaml`. A value that nobody has checked is null, and its name is in `not_checked`.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

TABLE = "models.yaml"


@dataclass(frozen=True, kw_only=True)
class Convention:
    """How one published model must be run.

    name: in configs. repository, revision: on the Hugging Face hub. engine: the engine of this package
    that runs it; None: none does, for the reason in `note`. takes: modalities that it was made for;
    "+" joins those it takes together. instruction: that of an item without one; None: it takes none.
    placement: where the instruction goes. end_instructions: whether an instruction gets a full stop if
    it ends without a punctuation mark. pooling: how token or frame states become a vector. padding:
    the side of the padding in the published code. order: of the parts of an item. frames, fps: of a
    video in the published code; fps with the most frames. max_pixels: of one frame. max_tokens: of a
    text. dimension: of a vector. needs_remote_code: whether it needs Python code that comes with the
    weights. note: what else to know. source: where the values come from. not_checked: fields that
    were not checked.
    """

    name: str
    repository: str | None
    revision: str | None
    engine: str | None
    takes: Sequence[str]
    instruction: str | None
    placement: str | None
    end_instructions: bool
    pooling: str | None
    padding: str | None
    order: Sequence[str] | None
    frames: int | None
    fps: float | None
    max_pixels: int | None
    max_tokens: int | None
    dimension: int | None
    needs_remote_code: bool | None
    note: str
    source: str
    not_checked: Sequence[str]

    def options(self) -> dict[str, Any]:
        """Return the options of a `ModelConfig` that the convention determines.

        Raises ValueError if no engine runs the model.
        """
        if self.engine is None:
            raise ValueError(f"convention={self.name}: no engine runs this model: {self.note}")
        options: dict[str, Any] = {"model": self.repository, "revision": self.revision, "engine": self.engine}
        if self.engine == "sentence-transformers":  # the engines torch and vllm know it from the family
            options |= {
                "default_instruction": self.instruction,
                "end_instructions": self.end_instructions,
            }
        return options

    def check_remote_code(self, *, allowed: bool) -> None:
        """Raise ValueError if the model needs code that comes with its weights and that is not allowed."""
        if self.needs_remote_code and not allowed:
            raise ValueError(
                f"convention={self.name}: {self.repository} runs Python code that comes with its weights; read "
                "it, then set allow_remote_code: true for this model"
            )


@functools.cache
def _table() -> Mapping[str, Convention]:
    import yaml

    rows = yaml.safe_load((files("gve_ray.conventions") / TABLE).read_text(encoding="utf-8"))
    empty = dict.fromkeys(Convention.__dataclass_fields__) | {
        "takes": (),
        "end_instructions": False,
        "note": "",
        "not_checked": (),
    }
    return {name: Convention(**(empty | {"name": name} | row)) for name, row in rows.items()}


def listing() -> str:
    """Return the table as text: a line for each model."""
    lines = [f"{'name':<28}{'engine':<24}{'takes':<44}{'numbers':>8}  repository"]
    for row in conventions():
        engine = row.engine or "none"
        remote = "*" if row.needs_remote_code and row.engine else ""
        lines.append(
            f"{row.name:<28}{engine + remote:<24}{', '.join(row.takes):<44}{row.dimension or '-':>8}  "
            f"{row.repository or '-'}"
        )
    notes = (
        "* runs code that comes with the weights, only with allow_remote_code: true",
        "use: models: [{convention: NAME}]; --json shows all values and their sources",
    )
    return "\n".join([*lines, "", *notes])


def conventions() -> list[Convention]:
    """Return all conventions, in the order of the table."""
    return list(_table().values())


def find_convention(name: str) -> Convention:
    """Return a convention by its name. Raises ValueError if there is none of this name."""
    if name not in _table():
        raise ValueError(f"convention={name!r}: not in the table; use one of {', '.join(_table())}")
    return _table()[name]
