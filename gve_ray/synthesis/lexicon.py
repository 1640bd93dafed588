"""Load the word lists, patterns and paragraphs in language/*.toml, by which texts are judged."""

import tomllib
from functools import cache
from importlib.resources import files
from typing import Any


@cache
def load_words(name: str) -> dict[str, Any]:
    """Return the tables of language/<name>.toml."""
    return tomllib.loads((files("gve_ray.synthesis") / "language" / f"{name}.toml").read_text("utf-8"))
