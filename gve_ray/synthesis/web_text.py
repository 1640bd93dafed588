"""Recognize text of web sites that describes no video, such as menus and notices, in a dozen languages.

A single strong phrase is sufficient. Weak words count only when several occur together, because a
single word is ambiguous ("a baker takes cookies out of the oven"). The tables are in
language/web_text.toml.
"""

import re
from functools import cache, lru_cache

from gve_ray.synthesis.lexicon import load_words

_TABLES = load_words("web_text")
_WEAK = frozenset(_TABLES["weak"].split())  # of menus and footers: they count by their share of the text
# Words without content, titles that name none, and feelings about a video.
FILLER = frozenset(_TABLES["filler"].split())
PLACEHOLDERS = frozenset(_TABLES["placeholders"].split())
INTERJECTIONS = frozenset(_TABLES["interjections"].split())

_WORD = re.compile(r"[^\W\d_]+(?:['’/][^\W\d_]+)*")


@cache
def _compiled(which: str) -> tuple[re.Pattern[str], ...]:
    """The entries of a table, each a pattern of lower-case letters.

    Joined into one, or told to ignore case, `re` no longer knows how a match begins: four times as slow.
    """
    return tuple(re.compile(entry.replace("\n", "")) for entry in _TABLES[which])


def _says(which: str, text: str) -> bool:
    lower = text.lower().replace("i\u0307", "i")  # what lower() makes of the Turkish capital İ
    return any(pattern.search(lower) for pattern in _compiled(which))


@lru_cache(maxsize=64)  # a caption of one sentence is checked as a part, then as a whole
def site_text(text: str) -> bool:
    """Return whether a text is site text: consent, rights, menus, errors or shops, in a dozen languages."""
    if _says("strong", text):
        return True
    words = _WORD.findall(text.lower())
    weak = sum(word in _WEAK for word in words)
    return weak >= 2 and weak >= 0.5 * len(words)


@lru_cache(maxsize=64)
def call_to_action(text: str) -> bool:
    """Return whether a text asks its reader to do something: click, subscribe, buy, share."""
    return _says("calls", text)
