"""Divide texts into terms, the words that full-text search compares, and mark them in a snippet.

    [term.text for term in terms_of("Two red Balls")]        # ["two", "red", "ball"]

Terms have no upper case and no accents, and an English plural has the form of its singular. Chinese,
Japanese and other scripts without spaces between words give characters and pairs of adjacent ones. The
same function makes the terms of queries and of indexed texts, so marks are exactly what has matched.
"""

import functools
import re
import unicodedata
from collections.abc import Collection, Iterator
from dataclasses import dataclass

MAX_TERMS = 64  # of a query
SNIPPET = 160  # characters
_LONGEST = 64  # characters of a term; the rest of a longer one is ignored
# Words that say nothing about what is searched, and those that ask for speech or pictures. A query of only such
# words is searched with all of them.
_COMMON = frozenset(
    "a about an and any are as at be been being but by can could d did do does for from had has have he her "
    "his how i if in into is it its ll m me my no not of on or our re s she should so some t than that the "
    "their them then there they this those to up ve was we were what when where which who whose why will with "
    "would you your say said talk talking tell mention speak show see video film clip scene".split()
)
# Scripts that are written without spaces: Thai to Khmer, and Chinese and Japanese.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_MARKS = ("Mn", "Mc")  # Unicode's categories of combining marks


@dataclass(frozen=True, slots=True)
class Term:
    """A term and its place in the text: the characters from `start` to before `end`."""

    text: str
    start: int
    end: int


@dataclass(frozen=True, kw_only=True)
class Snippet:
    """The part of a text in which most terms of a query occur.

    marks: start and end of each word that matches, in characters (Unicode code points) of `text`.
    """

    text: str
    marks: list[tuple[int, int]]


def terms_of(text: str) -> Iterator[Term]:
    """Yield the terms of a text in order. Pairs of characters overlap each other."""
    for match in _pattern().finditer(text):
        start, end = match.span()
        if match.lastgroup == "unspaced":
            for at in range(start, end):
                yield Term(_folded(text[at]), at, at + 1)
                if at + 1 < end:
                    yield Term(_folded(text[at : at + 2]), at, at + 2)
        elif term := _singular(_folded(match[0][:_LONGEST])):
            yield Term(term, start, end)


def query_terms(query: str) -> list[str]:
    """Return the different terms of a query without very common words, at most `MAX_TERMS`."""
    terms = list(dict.fromkeys(term.text for term in terms_of(query)))
    return ([term for term in terms if term not in _COMMON] or terms)[:MAX_TERMS]


def snippet(text: str, wanted: Collection[str], *, longest: int = SNIPPET) -> Snippet:
    """Return the part of a text, of about `longest` characters, that has the most different terms of `wanted`.

    Line breaks become spaces, and a part that is cut off becomes an ellipsis.
    """
    matches = [term for term in terms_of(text) if term.text in wanted]
    start, end = 0, min(len(text), longest)
    if matches and len(text) > longest:
        first = max(range(len(matches)), key=lambda i: (len(_near(matches, i, longest)), -i))
        near = [term for term in matches[first:] if term.end <= matches[first].start + longest] or [
            matches[first]
        ]
        spare = max(0, longest - (near[-1].end - near[0].start))
        start = max(0, near[0].start - spare // 2)
        end = min(len(text), max(start + longest, near[-1].end))
        start = max(0, min(start, end - longest))
    start, end = _at_spaces(text, start, end)
    before, after = "…" * (start > 0), "…" * (end < len(text))
    marks: list[tuple[int, int]] = []
    for term in matches:
        if term.start < start or term.end > end:
            continue
        first, last = (at - start + len(before) for at in (term.start, term.end))
        if marks and first < marks[-1][1]:  # pairs of characters overlap
            marks[-1] = (marks[-1][0], max(marks[-1][1], last))
        else:
            marks.append((first, last))
    shown = "".join(" " if character.isspace() else character for character in text[start:end])
    return Snippet(text=f"{before}{shown}{after}", marks=marks)


def _near(matches: list[Term], first: int, longest: int) -> set[str]:
    """Return the different terms from number `first` on within `longest` characters."""
    limit, near = matches[first].start + longest, set()
    for term in matches[first:]:
        if term.end > limit:
            break
        near.add(term.text)
    return near


def _at_spaces(text: str, start: int, end: int) -> tuple[int, int]:
    """Move both ends of a part outwards to a space, by at most 20 characters."""
    first = max((at for at in range(max(0, start - 20), start) if text[at].isspace()), default=None)
    last = next((at for at in range(end, min(len(text), end + 20)) if text[at].isspace()), None)
    if start > 0:
        start = start if first is None else first + 1
        start = 0 if start <= 20 and first is None else start
    if end < len(text):
        end = end if last is None else last
        end = len(text) if last is None and len(text) - end <= 20 else end
    return start, end


@functools.cache
def _pattern() -> re.Pattern[str]:
    """Return the pattern of words: letters with their combining marks, or digits."""
    marks = "".join(chr(code) for code in range(0x300, 0x20000) if unicodedata.category(chr(code)) in _MARKS)
    letter = rf"[^\W\d_{_UNSPACED}]"
    return re.compile(rf"(?P<unspaced>[{_UNSPACED}]+)|{letter}(?:{letter}|[{marks}])*|\d+")


def _folded(word: str) -> str:
    if word.isascii():
        return word.lower()
    parts = unicodedata.normalize("NFKD", word.casefold())
    # Only Latin, Greek and Cyrillic letters have accents; in other scripts such marks are vowels.
    return "".join(part for part in parts if not "\u0300" <= part <= "\u036f")


def _singular(term: str) -> str:
    """Return an English word without its plural ending (the S stemmer of Harman, 1991)."""
    if len(term) < 4 or not term.endswith("s") or term in _COMMON:
        return term
    if term.endswith("ies") and term[-4] not in "ae":
        return term[:-3] + "y"
    if term.endswith("es") and term[-3] not in "aeo":
        return term[:-1]
    return term if term[-2] in "us" else term[:-1]
