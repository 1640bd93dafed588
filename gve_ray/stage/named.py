"""Import the classes and functions that users name in a config."""

import sys
from pathlib import Path
from pkgutil import resolve_name
from typing import Any


def load_named(name: str) -> Any:
    """Import a class or a function by "module:name" from the environment or the current folder.

    Raises ImportError or AttributeError with what is wrong.
    """
    here = str(Path.cwd())
    if here not in sys.path:  # at the end, so that a file there does not hide an installed module
        sys.path.append(here)
    return resolve_name(name)
