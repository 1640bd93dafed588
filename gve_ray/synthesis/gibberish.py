"""Detect gibberish: measure with letter-pair statistics how unlike Latin-script languages a text is.

The model is the highest, over languages, of the probability of each letter after the one before it,
counted in the paragraphs of language/paragraphs.toml (accents are dropped). It separates keyboard mash and random
letters from words in languages that are not even listed, because pairs like "xk", "qz" or "wj" are rare
in all of them. A language is added by adding a paragraph.
"""

import math
import unicodedata
from collections import Counter
from functools import cache, lru_cache
from itertools import pairwise

from gve_ray.synthesis.lexicon import load_words

_EDGE = " "
_LETTERS = "abcdefghijklmnopqrstuvwxyz" + _EDGE
_FLOOR = 0.0005  # probability of a pair that occurs in no paragraph
_PRIOR = 10.0  # weight, in pairs, of the statistics over all languages in each language
_KEYBOARD = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
# Neighboring keys of a row, in both directions.
_NEIGHBOURS = frozenset(pair for row in _KEYBOARD for a, b in pairwise(row) for pair in (a + b, b + a))


@lru_cache(maxsize=65_536)  # each caption's words are looked up four times, and captions share most words
def plain_letters(word: str) -> str:
    """Lower-case a-z of a word: accents dropped, ligatures resolved, everything else removed."""
    text = word.lower().replace("ß", "ss").replace("æ", "ae").replace("ø", "o").replace("œ", "oe")
    text = text.replace("ł", "l").replace("đ", "d").replace("ı", "i").replace("þ", "th").replace("ð", "d")
    return "".join(c for c in unicodedata.normalize("NFD", text) if "a" <= c <= "z")


@cache
def _tables() -> tuple[dict[str, float], ...]:
    """Per language: bits (-log2 probability) of each letter after the one before it."""
    counts = []
    for text in load_words("paragraphs").values():
        words = [_EDGE + plain_letters(word) + _EDGE for word in text.split()]
        counts.append(Counter(word[i : i + 2] for word in words for i in range(len(word) - 1)))
    return tuple(_bits(language, sum(counts, Counter())) for language in counts)


def _bits(language: Counter[str], everywhere: Counter[str]) -> dict[str, float]:
    """Return bits per pair: the language's counts smoothed with those of all languages, with a floor."""
    bits: dict[str, float] = {}
    for a in _LETTERS:
        language_total = sum(language[a + b] for b in _LETTERS)
        total = sum(everywhere[a + b] for b in _LETTERS)
        for b in _LETTERS:
            overall_share = everywhere[a + b] / max(total, 1)
            share = (language[a + b] + _PRIOR * overall_share) / (language_total + _PRIOR)
            bits[a + b] = -math.log2(max(share, _FLOOR))
    return bits


def strangeness(text: str) -> float:
    """Mean bits a letter pair of a text costs in the language that suits it best; 0 without Latin letters.

    Words of any Latin-script language cost about 2 to 3.5, random letters above 4.
    """
    pairs = [
        word[i : i + 2]
        for word in (_EDGE + plain_letters(part) + _EDGE for part in text.split())
        if len(word) > 2
        for i in range(len(word) - 1)
    ]
    if not pairs:
        return 0.0
    return min(sum(table[pair] for pair in pairs) for table in _tables()) / len(pairs)


def keyboard_share(word: str) -> float:
    """Share of letter pairs that lie side by side on a keyboard's row; 0 for fewer than 4 letters."""
    letters = plain_letters(word)
    if len(letters) < 4:
        return 0.0
    pairs = [letters[i : i + 2] for i in range(len(letters) - 1)]
    return sum(pair in _NEIGHBOURS for pair in pairs) / len(pairs)
