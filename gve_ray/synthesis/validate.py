"""Check generated captions and composed queries before they are kept.

Each check returns the problems it found, empty when the answer is good. A problem has a code from a closed
set, so that rejects can be counted, and a detail for people. The rules are general English, for any
captioner: word lists and word forms, no parser. When in doubt they accept a query.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gve_ray.synthesis.lexicon import load_words
from gve_ray.synthesis.prompts import COMPOSED_CLIP_WORDS, COMPOSED_IMAGE_WORDS, Style

SHORT_BELOW = 20  # prompt 1: at least one caption has fewer words,
LONG_ABOVE = 100  # and at least one has more
SAME_ABOVE = 0.9  # Jaccard of word pairs from which two texts count as the same
COPY_ABOVE = 0.8  # the same, of a query and a caption of its target
LOOP_BELOW = 0.4  # share of distinct word triples below which a text is repetitive
MIN_KEYWORDS = 3

_WORDS = {name: frozenset(words.split()) for name, words in load_words("queries").items()}
_NO_ATTRIBUTE = _WORDS["grammar_words"] | _WORDS["vague_words"] | _WORDS["relation_words"]
# "the man who kneads", "where it kneads": a verb recognized by its position, for verbs that are in no list.
_CLAUSE_VERB = re.compile(r"\b(?:that|which|who|it|he|she|they)\s+(?!(?:is|was|has|does)\b)[a-z]{3,}s\b")
_MEDIUM = (
    r"(?:image|picture|photo|photograph|frame|still|screenshot|shot|clip|footage|recording|segment|snippet|"
    r"excerpt|reference)"
)
_BINDING = re.compile(
    r"\b(?:this|these|the same|same|shown|pictured|depicted|displayed|seen here|here"
    rf"|(?:that|the|given|provided|reference|query)\s+{_MEDIUM})\b(?:\s+{_MEDIUM}\b)?",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Problem:
    """One broken rule: a code to count and a detail to read."""

    code: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.code}: {self.detail}" if self.detail else self.code


class AnswerError(Exception):
    """The answer is not the requested JSON."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


def words(text: str) -> list[str]:
    """Lower-case words of a text; a number is a word, punctuation is not."""
    return re.findall(r"[^\W_]+(?:['’-][^\W_]+)*", text.lower())


def parse_answer(text: str, keys: Sequence[str]) -> dict[str, str]:
    """The JSON object of an answer, its values stripped. Raises AnswerError if it has another shape."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise AnswerError(Problem("invalid_json", f"{error.msg} at {error.pos} of {len(text)}")) from error
    if not isinstance(value, dict) or set(value) != set(keys):
        have = sorted(value) if isinstance(value, dict) else type(value).__name__
        raise AnswerError(Problem("wrong_keys", f"have {have}, want {sorted(keys)}"))
    not_text = [key for key in keys if not isinstance(value[key], str)]
    if not_text:
        raise AnswerError(Problem("not_text", f"keys {not_text}"))
    return {key: value[key].strip() for key in keys}


def check_captions(captions: Mapping[str, str], styles: Mapping[str, Style]) -> list[Problem]:
    """Rules of prompts 1 and 4 on each caption, and that no two captions say the same in the same words."""
    problems = []
    for key, style in styles.items():
        problems += _word_range(captions[key], style.min_words, style.max_words, style.name)
        if style.name == "keywords":
            if captions[key].count(",") < MIN_KEYWORDS - 1:
                problems.append(Problem("not_keywords", f"fewer than {MIN_KEYWORDS} terms between commas"))
        elif _distinct_share(captions[key]) < LOOP_BELOW:
            problems.append(Problem("repetitive", style.name))
    keys = list(styles)
    for i, a in enumerate(keys):
        for b in keys[:i]:
            if _overlap(captions[a], captions[b]) >= SAME_ABOVE:
                problems.append(Problem("same_captions", f"{styles[b].name} and {styles[a].name}"))
    return problems


def check_video_captions(captions: Mapping[str, str], styles: Mapping[str, Style]) -> list[Problem]:
    """`check_captions`, and prompt 1's rule on the shortest and the longest caption."""
    problems = check_captions(captions, styles)
    counts = [len(words(text)) for text in captions.values()]
    if min(counts) >= SHORT_BELOW:
        problems.append(Problem("no_short_caption", f"shortest has {min(counts)} words"))
    if max(counts) <= LONG_ABOVE:
        problems.append(Problem("no_long_caption", f"longest has {max(counts)} words"))
    return problems


def check_frame_captions(captions: Mapping[str, str], styles: Mapping[str, Style]) -> list[Problem]:
    """`check_captions`, and prompt 4's rule that a still has no sequence and no speed."""
    problems = check_captions(captions, styles)
    for key, style in styles.items():
        claims = sorted(set(words(captions[key])) & _WORDS["sequence_claims"])
        if claims:
            problems.append(Problem("sequence_claim", f"{style.name}: {', '.join(claims)}"))
    return problems


def check_image_query(query: str, strategy: str, captions: Sequence[str]) -> list[Problem]:
    """Rules of prompt 2. `captions` are those of the target video, which the query must not copy."""
    problems = _check_query(query, COMPOSED_IMAGE_WORDS, captions)
    if not _is_dynamic(query):
        problems.append(Problem("no_dynamics", "adds nothing that only a video shows"))
    if strategy == "negative constraint" and not _WORDS["negations"] & set(words(query)):
        problems.append(Problem("no_negation", f"strategy {strategy}"))
    return problems


def check_clip_query(query: str, captions: Sequence[str]) -> list[Problem]:
    """Rules of prompt 3. `captions` are those of the target video, which the query must not copy."""
    problems = _check_query(query, COMPOSED_CLIP_WORDS, captions)
    if not (_is_dynamic(query) or _WORDS["relation_words"] & set(words(query))):
        problems.append(Problem("no_relation", "does not say how the target differs from the clip"))
    return problems


def _check_query(query: str, limits: tuple[int, int], captions: Sequence[str]) -> list[Problem]:
    problems = _word_range(query, *limits, "query")
    if not _BINDING.search(query):
        problems.append(Problem("no_binding", "does not point at the reference"))
    if not _attributes(query):
        problems.append(Problem("no_attribute", "names nothing that the reference shows"))
    flat = " ".join(words(query))
    if any(
        flat in " ".join(words(caption)) or _overlap(query, caption) >= COPY_ABOVE for caption in captions
    ):
        problems.append(Problem("copies_caption", "finds the target without the reference"))
    return problems


def _word_range(text: str, low: int, high: int, name: str) -> list[Problem]:
    count = len(words(text))
    if count < low:
        return [Problem("too_short", f"{name}: {count} words, at least {low}")]
    if count > high:
        return [Problem("too_long", f"{name}: {count} words, at most {high}")]
    return []


def _runs(text: str, size: int) -> list[tuple[str, ...]]:
    tokens = words(text)
    return list(zip(*(tokens[i:] for i in range(size)), strict=False))


def _distinct_share(text: str) -> float:
    runs = _runs(text, 3)
    return len(set(runs)) / len(runs) if runs else 1.0


def _overlap(a: str, b: str) -> float:
    """Jaccard of the sets of word pairs; of the words where a text has only one."""
    size = 2 if min(len(words(a)), len(words(b))) > 1 else 1
    left, right = set(_runs(a, size)), set(_runs(b, size))
    return len(left & right) / len(left | right) if left | right else 1.0


def _attributes(query: str) -> set[str]:
    """Words of the query that could name something seen: neither grammar, nor pointing, nor motion."""
    return {
        word
        for word in words(_BINDING.sub(" ", query))
        if word not in _NO_ATTRIBUTE and not _is_dynamic_word(word)
    }


def _is_dynamic(query: str) -> bool:
    return any(_is_dynamic_word(word) for word in words(query)) or bool(_CLAUSE_VERB.search(query.lower()))


def _is_dynamic_word(word: str) -> bool:
    """In the list of motion, change and order, as a form of a listed verb, or an -ing form of another."""
    if word in _WORDS["dynamic_words"]:
        return True
    if word.endswith("ing") and len(word) > 5:
        return word not in _WORDS["ing_nouns"]
    for suffix in ("s", "es", "d", "ed"):
        if word.endswith(suffix) and word.removesuffix(suffix) in _WORDS["dynamic_words"]:
            return True
    stem = word.removesuffix("ies").removesuffix("ied")
    if stem != word and stem + "y" in _WORDS["dynamic_words"]:
        return True
    if word.endswith("ed") and len(word) > 4 and word[-3] == word[-4]:  # stopped
        return word[:-3] in _WORDS["dynamic_words"]
    return False
