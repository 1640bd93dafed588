"""Read the shell and Python examples of the project's Markdown files.

    for example in examples("sh"):
        for command in commands(example): ...

A fenced block counts as an example if its fence names a language: `sh` or `python`.
"""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))
DOCUMENTS = ("README.md", "CONTRIBUTING.md", *PAGES)
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Example:
    """A fenced block: where it stands and its text."""

    document: str
    line: int  # of its first line, counted from 1
    text: str

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"


def examples(language: str) -> list[Example]:
    """Return all blocks of a language, in the order in which they stand."""
    return [
        Example(document, text.count("\n", 0, block.start(2)) + 1, block[2])
        for document in DOCUMENTS
        for text in [(ROOT / document).read_text()]
        for block in _BLOCK.finditer(text)
        if block[1] == language
    ]


def commands(example: Example) -> list[list[str]]:
    """Split a shell block into commands, and each command into words as a shell does.

    Comments are dropped. Pipes, variables and substitutions are left as they are.
    """
    commands: list[list[str]] = []
    pending = ""
    for line in example.text.splitlines():
        pending += line
        if pending.endswith("\\"):
            pending = pending.removesuffix("\\")
            continue
        try:
            words = shlex.split(pending, comments=True)
        except ValueError:  # a quotation that continues on the next line
            pending += "\n"
            continue
        if words:
            commands.append(words)
        pending = ""
    if pending:
        raise ValueError(f"{example}: the quotation does not end: {pending}")
    return commands
