"""Clean raw web captions and drop those that describe nothing (arXiv:2510.27571, section 4).

    rectify("IMG_2034.MOV")                      -> Rectified(None, "file_name")
    rectify("<p>a dog runs &amp; barks</p> #dog") -> Rectified("a dog runs & barks", None)

First what can be cleaned is cleaned (markup, links, file names, trailing tags, mis-decoded bytes), then what
is left is judged by rules and by letter statistics that hold for any subject. The default is to keep:
terse captions and captions in any language pass; a caption is dropped only for a reason that has a name.

Trade-off: no model is used, so a fluent text that does not match the video passes; the
consistency filter rejects those.
"""

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass
from html import unescape
from itertools import pairwise

from gve_ray.synthesis.gibberish import keyboard_share, plain_letters, strangeness
from gve_ray.synthesis.web_text import (
    FILLER,
    INTERJECTIONS,
    PLACEHOLDERS,
    call_to_action,
    site_text,
)

REASONS = (
    "empty",
    "url",
    "file_name",
    "hashtags",
    "markup",
    "non_linguistic",
    "gibberish",
    "boilerplate",
    "call_to_action",
    "placeholder",
    "repeated",
    "too_short",
)

_STRANGE = 5.2  # bits a letter pair; see gibberish.strangeness
_EXTENSIONS = (
    "mp4|m4v|mov|avi|mkv|webm|wmv|flv|f4v|mpe?g|mpg|m2ts|mts|ts|3gp|3g2|ogv|vob|mxf|gif|jpe?g|png|webp|heic|bmp|"
    "tiff?|srt|vtt|mp3|wav|aac|m4a|psd|prproj|aep|zip|rar|7z|pdf|docx?|pptx?|xlsx?|txt|csv|json|xml|html?|php|part|tmp"
)
# UTF-8 read as cp1252: a lead byte's letter, then a continuation byte's sign.
_MOJIBAKE = re.compile(
    "[\u00c2\u00c3\u00c5\u00d0\u00d1\u00e2\u00ef]"
    "[\u0080-\u00bf\u20ac\u2018-\u201e\u2020-\u2026\u2030\u2039\u203a\u0152\u0153\u0160\u0161\u0178\u017d\u017e"
    "\u0192\u02c6\u02dc\u2122]"
)
_DEBRIS = frozenset(
    "¤¦§¨©ª¬¯°±²³´¶·¸¹º¼½¾¿¡¢£¥€Ÿ†‡‰‹›ˆ˜\ufffd"
)  # typical characters of wrongly decoded bytes
_SCRIPT = re.compile(r"<(script|style|iframe|noscript|svg)\b.*?(</\1\s*>|$)|<!--.*?(-->|$)", re.I | re.S)
_TAG = re.compile(r"</?[a-z!][^<>]*>?", re.I)
_BBCODE = re.compile(
    r"\[/?(b|i|u|s|url|img|quote|code|size|color|font|center|left|right|list|\*|video|youtube|media|spoiler|email|"
    r"embed|gallery|caption|vc_\w+|/?[a-z]+\s+[a-z]+=[^\]]*)(=[^\]]*)?\]",
    re.I,
)
_BB_PAYLOAD = re.compile(r"\[(img|video|youtube|media|embed)(=[^\]]*)?\].*?(\[/\1\]|$)", re.I | re.S)
_MARKDOWN_IMAGE = re.compile(r"!\[([^\]]*)\]\([^)]*\)?")
_MARKDOWN_LINK = re.compile(r"\[([^\]]*)\]\([^)]*\)?")
_MARKDOWN_SIGNS = re.compile(
    r"^\s{0,3}(#{1,6}\s|>\s?|[-*+]\s|```\w*|-{3,}|={3,}|\*{3,})|\*{2,3}|__|~~|`+", re.M
)
_CODE = re.compile(
    r"[{};]\s*$|\b(function|var|const|let|return|import|def|class|null|undefined|true|false)\b\s*[({=;:]|=>|\$\(|"
    r"&\w+=|\{\{|\}\}|\{%|%\}|\$\{|<\?|\?>|::|[\"']\s*:\s*[\"'\d\[{]|\b[\w-]+\s*:\s*[\w#.%-]+\s*;|\w+\s*=\s*\"",
    re.I,
)
_URL = re.compile(
    r"(?:[a-z][a-z0-9+.-]*://|www\.)\S+|\b[\w.+-]+@[\w-]+(?:\.[\w-]+)+|"
    r"\b(?:[\w-]+\.)+(?:com|net|org|io|tv|info|biz|co|edu|gov|me|ly|be|gl|app|dev|de|fr|es|it|nl|pl|ru|uk|us|jp|cn|br|"
    r"in|eu|ch|at|se|no|xyz|site|online|shop|store|blog|club|link|live|video)(?:/\S*)?(?=$|[\s,;:!?)\]>\"'.])",
    re.I,
)
_FILE = re.compile(rf"(?:[\w()+~-][\w()+~.\[\]-]*)\.(?:{_EXTENSIONS})(?:\.\w{{1,4}})?(?![\w])", re.I)
# A title with an ending is one name ("my holiday 2019.mp4"), unless the last word alone is a file name.
_FILE_SPACED = re.compile(
    rf"^(?!.*\s[a-z]+[_-]?\d[\w-]*\.\w+$)[^.!?\n]{{0,80}}\.(?:{_EXTENSIONS})(?:\s*\(\d+\))?$", re.I
)
_PATH = re.compile(r"(?:[a-z]:)?(?:[\\/][\w .()~-]+){2,}[\\/]?|(?:[\w.~-]+[\\/]){2,}[\w.~-]*", re.I)
_CAMERA = re.compile(
    r"\b(?:img|vid|video|dsc[nf]?|mvi|mov|pxl|gopr|gx|gh|dji|mah|wp|cimg|p|s|screen[ _-]?recording|"
    r"screenshot|screencast|capture|recording|clip|movie|sequence|seq|untitled|project|final|export|render|"
    r"output|whatsapp video|snapchat|tiktok|reel|trim|copy of|take|scene|shot|cam|bild|foto|aufnahme|"
    r"grabaci[oó]n|enregistrement)"
    r"(?:[ _-]*(?:v?\d[\w:.-]*|final|copy|edit(?:ed)?|draft|export|\(\d+\)|at))+(?=\W|$)",
    re.I,
)
_HANDLE = re.compile(r"(?<!\w)@[\w.]+")
_HASHTAG = re.compile(r"(?<!\w)[#\uff03]([\w'-]+)")
_TAIL_TAGS = re.compile(r"(?<!\w)[#\uff03][\w'-]+(?:[\s,;|/·•-]*[#\uff03][\w'-]+)*[\s.!]*$")
_TAG_RUN = re.compile(r"(?<!\w)(?:[#\uff03][\w'-]+){2,}")
_TOKEN = re.compile(r"[^\W\d_]+(?:['’\u02bc-][^\W\d_]+)*")
_ID = re.compile(r"\b(?=\w*\d)(?=\w*[a-z])[\w-]{5,}\b|\b[0-9a-f]{8,}\b|\b\d{4,}\b", re.I)
_SEGMENT = re.compile(r"(?<=[.!?。！？…])\s+|\s*[\n|•·»►▶→✅👉🔔]+\s*|\s+[–—-]\s+|(?<=[。！？])")
_NO_SPACES = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR")


@dataclass(frozen=True)
class Rectified:
    """text: the cleaned caption, or None with the reason (one of `REASONS`) it was dropped for."""

    text: str | None
    reason: str | None


def rectify(caption: str | None) -> Rectified:
    """Clean a raw caption and judge whether it describes anything. Pure and deterministic."""
    if caption is None or not caption.strip():
        return Rectified(None, "empty")
    text, removed = _clean(_repair(caption))
    reason = _judge(text, removed)
    return Rectified(None, reason) if reason else Rectified(text, None)


def _repair(text: str) -> str:
    """Undo UTF-8 read as cp1252 where that gives a text; normalise; drop control characters."""
    if _MOJIBAKE.search(text):
        for encoding in ("cp1252", "latin-1"):
            try:
                text = text.encode(encoding).decode("utf-8")
                break
            except UnicodeError:
                continue
    text = unicodedata.normalize("NFC", text)
    return "".join(
        c if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cf", "Co", "Cs") else " " for c in text
    )


def _clean(text: str) -> tuple[str, str | None]:
    """The text without what is not language, and the name of the kind that was most of what went."""
    went: Counter[str] = Counter()

    def drop(kind: str, pattern: re.Pattern[str], by: str = " ") -> None:
        nonlocal text
        left = pattern.sub(by, text)
        went[kind] += len(text) - len(left)
        text = left

    text = unescape(unescape(text))
    drop("markup", _SCRIPT)
    drop("markup", _BB_PAYLOAD)
    drop("markup", _MARKDOWN_IMAGE, r" \1 ")
    drop("markup", _MARKDOWN_LINK, r" \1 ")
    drop("markup", _TAG)
    drop("markup", _BBCODE)
    drop("url", _URL)
    drop("markup", _MARKDOWN_SIGNS)
    text = " ".join(text.split(" ")).strip()
    drop("file_name", _FILE_SPACED)
    drop("file_name", _PATH)
    drop("file_name", _FILE)
    drop("hashtags", _TAIL_TAGS, "")
    drop("hashtags", _TAG_RUN)
    drop("hashtags", _HANDLE)
    if 2 * len(_HASHTAG.findall(text)) >= len(text.split()):
        drop("hashtags", _HASHTAG)
    text = _HASHTAG.sub(r"\1", text)  # a few inside a sentence are its words
    text = _trim_site_text(text)
    text = re.sub(r"\s+", " ", text).strip(" \t\n-–—|•·:;,/\\*_~>")
    kind = went.most_common(1)[0] if went else ("", 0)
    return text, kind[0] if kind[1] > 0 else None


def _trim_site_text(text: str) -> str:
    """Drop calls to action and site text that follow a caption; what begins with them stays, to be judged."""
    parts = [part for part in _SEGMENT.split(text) if part and part.strip()]
    keep = 0
    while keep < len(parts) and not (site_text(parts[keep]) or call_to_action(parts[keep])):
        keep += 1
    if keep == len(parts) or keep == 0 or len(_words(" ".join(parts[:keep]))) < 3:
        return text
    end = text.find(parts[keep], sum(len(part) for part in parts[:keep]))
    return text[:end] if end > 0 else text


def _judge(text: str, removed: str | None) -> str | None:
    """The reason to drop a cleaned text, or None."""
    visible = [c for c in text if not c.isspace()]
    words = _words(text)
    if not visible:
        return removed or "empty"
    if _is_code(text):
        return "markup"
    if sum(c in _DEBRIS for c in visible) > 0.25 * len(visible):
        return "gibberish"
    if sum(unicodedata.category(c)[0] in "LM" for c in visible) < 0.5 * len(visible) or not words:
        return removed or ("file_name" if _CAMERA.search(text) else "non_linguistic")
    if _is_file_name(text):
        return "file_name"
    if _is_gibberish(text, words):
        return "gibberish"
    if site_text(text):
        return "boilerplate"
    if call_to_action(text):
        return "call_to_action"
    if _is_repeated(words):
        return "repeated"
    if _is_placeholder(words):
        return "placeholder"
    return _too_short(words, removed)


def _words(text: str) -> list[str]:
    """Words of letters, lower case; scripts without spaces count two signs as a word."""
    tokens: list[str] = []
    for word in _TOKEN.findall(text.lower()):
        if unicodedata.name(word[0], "").startswith(_NO_SPACES):
            tokens.extend(word[i : i + 2] for i in range(0, len(word), 2))
        else:
            tokens.append(word)
    return tokens


def _is_code(text: str) -> bool:
    signs = sum(c in '{}[]();=<>"$%&\\_^|' for c in text)
    return len(_CODE.findall(text)) >= 1 and signs >= max(3, 0.04 * len(text))


def _is_file_name(text: str) -> bool:
    """A camera's or editor's name without its ending, or words glued by underscores and digits."""
    left = _ID.sub(" ", _CAMERA.sub(" ", text))
    if len(left) < len(text) and not [word for word in _words(left) if len(word) > 2 and word not in FILLER]:
        return True
    glued = [part for part in text.split() if "_" in part or re.fullmatch(r"[\w]+(-[\w]+){3,}", part)]
    return sum(map(len, glued)) > 0.5 * len(text) or bool(re.fullmatch(r"\S*\w[_]\w\S*", text))


def _is_gibberish(text: str, words: list[str]) -> bool:
    """Random letters, keyboard mash, random capitals or digits inside words, bytes read wrongly."""
    if len(_MOJIBAKE.findall(text)) >= 2 or sum(c in _DEBRIS for c in text) > 0.25 * len(text):
        return True
    latin = [word for word in words if plain_letters(word)]
    letters = sum(len(plain_letters(word)) for word in latin)
    if letters * 2 < sum(map(len, words)):
        return _is_mixed_script(words)
    odd = sum(len(part) for part in text.split() if _is_odd_token(part))
    if odd > 0.5 * len(text.replace(" ", "")):
        return True
    mashed = sum(len(word) for word in latin if keyboard_share(word) >= 0.7 and len(word) >= 4)
    if mashed > 0.5 * letters:
        return True
    if letters >= 10 and strangeness(" ".join(latin)) > _STRANGE:
        return True
    return letters >= 6 and not any(c in "aeiouy" for word in latin for c in plain_letters(word))


def _is_odd_token(token: str) -> bool:
    """Digits amid letters (x7f9q), or capitals scattered inside a word (aKjdHsYe)."""
    core = token.strip(".,;:!?()[]\"'")
    flips = sum(a.isdigit() != b.isdigit() for a, b in pairwise(core) if a.isalnum() and b.isalnum())
    if len(core) >= 5 and flips >= 3:
        return True
    cases = [c.isupper() for c in core if c.isalpha()]
    turns = sum(not a and b for a, b in pairwise(cases))
    return len(cases) >= 5 and turns >= 2 and turns >= 0.2 * len(cases)


def _is_mixed_script(words: list[str]) -> bool:
    """Words whose letters come from several alphabets: a sign of wrong decoding."""
    mixed = 0
    for word in words:
        scripts = {unicodedata.name(c, "? ").split()[0] for c in word}
        mixed += len(scripts - {"HIRAGANA", "KATAKANA", "CJK", "KATAKANA-HIRAGANA"}) > 1
    return mixed * 2 > len(words)


def _is_repeated(words: list[str]) -> bool:
    if len(words) < 3:
        return len(words) == 2 and words[0] == words[1]
    if len(words) < 4 and len(set(words)) > 1:
        return False
    content = [word for word in words if word not in FILLER] or words
    return Counter(content).most_common(1)[0][1] > 0.6 * len(content) and len(content) >= 3


def _is_placeholder(words: list[str]) -> bool:
    """Only words that name no content: "untitled video", "my new clip", "wow so cool"."""
    content = [word for word in words if word not in FILLER]
    return all(word in PLACEHOLDERS or word in INTERJECTIONS or len(word) < 2 for word in content)


def _too_short(words: list[str], removed: str | None) -> str | None:
    content = [word for word in words if word not in FILLER]
    if len(words) >= 2 and content:
        return None
    return removed or "too_short"
