"""What an answer must be before it is kept: pure checks of captions and composed queries (METHOD 3).

Each check returns the problems it found, empty when the answer is good. A problem has a code from a closed
set, so that rejects can be counted, and a detail for people. The rules are general English, for any captioner:
word lists and word forms, no parser. They err towards letting an odd but good query through; what they
stop for certain is an answer that breaks a rule of its prompt.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gve_ray.synthesis.prompts import COMPOSED_CLIP_WORDS, COMPOSED_IMAGE_WORDS, Style

SHORT_BELOW = 20  # prompt 1: at least one caption has fewer words,
LONG_ABOVE = 100  # and at least one has more
SAME_ABOVE = 0.9  # Jaccard of word pairs from which two texts are one text said twice
COPY_ABOVE = 0.8  # the same, of a query and a caption of its target
LOOP_BELOW = 0.4  # share of distinct word triples below which a text runs in circles
MIN_KEYWORDS = 3


@dataclass(frozen=True)
class Problem:
    """One broken rule: a code to count and a detail to read."""

    code: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.code}: {self.detail}" if self.detail else self.code


class AnswerError(Exception):
    """The answer is not the JSON that was asked for."""

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
        claims = sorted(set(words(captions[key])) & SEQUENCE_CLAIMS)
        if claims:
            problems.append(Problem("sequence_claim", f"{style.name}: {', '.join(claims)}"))
    return problems


def check_image_query(query: str, strategy: str, captions: Sequence[str]) -> list[Problem]:
    """Rules of prompt 2. `captions` are those of the target video, which the query must not copy."""
    problems = _check_query(query, COMPOSED_IMAGE_WORDS, captions)
    if not _is_dynamic(query):
        problems.append(Problem("no_dynamics", "adds nothing that only a video shows"))
    if strategy == "negative constraint" and not NEGATIONS & set(words(query)):
        problems.append(Problem("no_negation", f"strategy {strategy}"))
    return problems


def check_clip_query(query: str, captions: Sequence[str]) -> list[Problem]:
    """Rules of prompt 3. `captions` are those of the target video, which the query must not copy."""
    problems = _check_query(query, COMPOSED_CLIP_WORDS, captions)
    if not (_is_dynamic(query) or RELATION_WORDS & set(words(query))):
        problems.append(Problem("no_relation", "does not say how the target differs from the clip"))
    return problems


def _check_query(query: str, limits: tuple[int, int], captions: Sequence[str]) -> list[Problem]:
    problems = _word_range(query, *limits, "query")
    if not BINDING.search(query):
        problems.append(Problem("no_binding", "does not point at the reference"))
    if not _attributes(query):
        problems.append(Problem("no_attribute", "names nothing that the reference shows"))
    flat = " ".join(words(query))
    if any(flat in " ".join(words(one)) or _overlap(query, one) >= COPY_ABOVE for one in captions):
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
    found = words(text)
    return list(zip(*(found[i:] for i in range(size)), strict=False))


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
        for word in words(BINDING.sub(" ", query))
        if word not in _NO_ATTRIBUTE and not _is_dynamic_word(word)
    }


def _is_dynamic(query: str) -> bool:
    return any(_is_dynamic_word(word) for word in words(query)) or bool(_CLAUSE_VERB.search(query.lower()))


def _is_dynamic_word(word: str) -> bool:
    """In the list of motion, change and order, as a form of a listed verb, or an -ing form of another."""
    if word in DYNAMIC_WORDS:
        return True
    if word.endswith("ing") and len(word) > 5:
        return word not in ING_NOUNS
    for suffix in ("s", "es", "d", "ed"):
        if word.endswith(suffix) and word.removesuffix(suffix) in DYNAMIC_WORDS:
            return True
    stem = word.removesuffix("ies").removesuffix("ied")
    if stem != word and stem + "y" in DYNAMIC_WORDS:
        return True
    if word.endswith("ed") and len(word) > 4 and word[-3] == word[-4]:  # stopped
        return word[:-3] in DYNAMIC_WORDS
    return False


# "the man who kneads", "where it kneads": a verb by its place, for verbs in no list.
_CLAUSE_VERB = re.compile(r"\b(?:that|which|who|it|he|she|they)\s+(?!is\b|are\b|was\b|has\b|have\b|does\b)[a-z]{3,}s\b")

_MEDIUM = r"(?:image|picture|photo|photograph|frame|still|screenshot|shot|clip|footage|recording|segment|snippet|excerpt|reference)"
BINDING = re.compile(
    r"\b(?:this|these|the same|same|shown|pictured|depicted|displayed|seen here|here"
    rf"|(?:that|the|given|provided|reference|query)\s+{_MEDIUM})\b(?:\s+{_MEDIUM}\b)?",
    re.IGNORECASE,
)

GRAMMAR_WORDS = frozenset(
    """a an the and or but nor so as at by for from in into of off on onto out over to up down with without within
    is are was were be been being has have had do does did can could will would may might must should shall
    i you he she it we they me him her us them his hers its their theirs our your my who whom whose which what
    that this these those there here where when why how not no never only also too very just than then if
    while during before after until between under above below near through across along around about against
    any some all each every both either neither more most much many few other another such own same again
    video videos clip clips movie film footage recording image images picture pictures photo frame frames still scene
    scenes shot find show shows search look looking target reference query one ones""".split()
)
VAGUE_WORDS = frozenset(
    """thing things something anything everything nothing object objects subject subjects item items stuff entity
    someone somebody anyone person's part parts way kind sort type different similar same new next
    version moment action motion scene shot""".split()
)
NEGATIONS = frozenset(
    """no not never without neither nor none nobody nothing instead isn't doesn't don't didn't won't cannot can't
    isn’t doesn’t don’t didn’t won’t can’t""".split()
)
SEQUENCE_CLAIMS = frozenset(
    """then afterwards afterward later subsequently eventually finally gradually meanwhile previously
    quickly slowly rapidly swiftly suddenly faster slower speeds accelerates accelerating""".split()
)
RELATION_WORDS = frozenset(
    """before after afterwards next then later earlier follows following continues continued continuation start
    beginning end ending rest remainder whole full entire complete longer shorter clearer larger smaller bigger
    sharper brighter darker closer wider higher lower blurred blurry resolution quality view viewpoint angle
    perspective camera zoom closeup close-up side above behind distance instead but except different faster slower
    once twice again more less""".split()
)
DYNAMIC_WORDS = frozenset(
    """accelerate appear approach arrive ascend back become becomes begin bend blink blow bounce break bring bump burn
    carry catch change chase circle climb close collapse collide come continue contract cook crawl cross cut dance
    dart descend disappear dive drag draw drift drink drive drop eat emerge end enter exit expand explode fade fall
    feed fight fill finish flap flash flicker flip float flow fly fold follow gallop get gets give glide go goes grab
    grow hang hit hold hop hover hug jog join jump kick kneel land laugh launch lay lead leap leave lie lift light
    lower march melt merge mix motion move movement open orbit overtake pace pan park pass pause pedal perform
    pick play point pour press proceed pull push put raise reach recede remain repeat rest return reverse ride rise
    rock roll rotate row rub run rush sail scatter score shake shatter shift shoot shrink sing sit skate ski skid skip
    slam sleep slice slide slip slow smile spin splash split spread sprint stand start stay step stir stop stretch
    stroll swap sway sweep swim swing switch talk tap tear throw tilt toss touch transform travel trot try tumble turn
    twirl twist vanish vibrate wag wait wake walk wander wash watch wave work wrap write yawn zoom
    ran went came rose fell flew swam sang spun swung threw drove rode shook broke began became got gave grew
    left drew ate drank ran sat stood stuck struck slid stole tore woke wrote
    after afterwards before during finally first gradually later meanwhile next once slowly quickly suddenly then
    until while when eventually again faster slower""".split()
) - {"light", "close", "back", "row", "rock", "score", "lower", "work", "park", "left", "lead", "wave", "first", "circle", "point"}
ING_NOUNS = frozenset(
    """anything building ceiling clothing during evening everything lightning morning nothing painting something
    drawing spring string wedding railing awning siding earring clearing crossing dwelling interesting""".split()
)
_NO_ATTRIBUTE = GRAMMAR_WORDS | VAGUE_WORDS | RELATION_WORDS
