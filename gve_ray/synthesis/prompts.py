"""The four prompts of V-SynFlow (paper appendix; requirements in our words, texts our own).

A prompt is a TOML template in `prompts/` with an id and a version. Its system turn is constant; what
varies by video (emphasis, levels, strategy, raw caption) comes last in the user turn, after the media.
Every draw is a function of (seed, video_id, purpose), so a rerun asks exactly the same question.
"""

import hashlib
import json
import random
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from string import Template

PROFILES: Mapping[str, float] = {"spatial": 0.3, "temporal": 0.6, "other": 0.1}  # probabilities, normalized
READABILITY = ("easy", "standard", "advanced")
EDUCATION = ("primary school", "high school", "university")
STRATEGIES = ("action change", "scene change", "negative constraint", "relation transfer")
RELATIONS = ("temporal continuation", "perspective variation", "quality variation", "minor action variation")
NO_CAPTION = "none"


@dataclass(frozen=True)
class Style:
    """One of the five caption styles: its name and its word range, both ends included."""

    name: str
    min_words: int
    max_words: int


VIDEO_STYLES = {
    "1": Style("short", 10, 25),
    "2": Style("rich", 80, 200),
    "3": Style("abstract", 30, 100),
    "4": Style("keywords", 5, 30),
    "5": Style("partial", 10, 70),
}
FRAME_STYLES = {**VIDEO_STYLES, "2": Style("rich", 50, 200)}
_TARGET = (
    {"type": "text", "text": "Target video: "},
    {"type": "video"},
    {"type": "text", "text": " Reference: "},
)
# What the user turn shows before its text, which varies.
_MEDIA: Mapping[str, tuple[Mapping[str, str], ...]] = {
    "video_captions": ({"type": "video"},),
    "frame_captions": ({"type": "image"},),
    "composed_image": (*_TARGET, {"type": "image"}),
    "composed_clip": (*_TARGET, {"type": "video"}),
}
COMPOSED_IMAGE_WORDS = (1, 50)
COMPOSED_CLIP_WORDS = (5, 15)

# Strict JSON in the grammar itself: no control characters, quotes or backslashes inside a value, so
# every text that the grammar accepts also parses (a bare "string" type lets raw newlines through). No upper
# length: max_tokens bounds it, and xgrammar takes 380 us a token for {8,1600} where it takes 2 us for {8,}.
_TEXT = {"type": "string", "pattern": r'^[^\x00-\x1f\x7f"\\]{8,}$'}


def _object(keys: tuple[str, ...]) -> str:
    return json.dumps(
        {
            "type": "object",
            "properties": dict.fromkeys(keys, _TEXT),
            "required": list(keys),
            "additionalProperties": False,
        }
    )


CAPTIONS_JSON_SCHEMA = _object(tuple(VIDEO_STYLES))
QUERY_JSON_SCHEMA = _object(("query",))


@dataclass(frozen=True)
class Prompt:
    """A versioned template: `system` is constant, `user` has `$slots`."""

    id: str
    version: int
    system: str
    user: str
    json_schema: str

    def fill(self, **slots: str) -> str:
        """The user turn's text. Raises KeyError on a missing slot."""
        return Template(self.user).substitute(slots)


@cache
def load_prompt(prompt_id: str) -> Prompt:
    """The prompt of that id; one of video_captions, frame_captions, composed_image, composed_clip."""
    path = files("gve_ray.synthesis") / "prompts" / f"{prompt_id}.toml"
    if not path.is_file():
        raise ValueError(f"prompt {prompt_id!r}: there is no such template in gve_ray/synthesis/prompts")
    raw = tomllib.loads(path.read_text(encoding="utf-8"))
    schema = CAPTIONS_JSON_SCHEMA if prompt_id.endswith("_captions") else QUERY_JSON_SCHEMA
    return Prompt(raw["id"], raw["version"], raw["system"].strip(), raw["user"].strip(), schema)


def rng_for(seed: int, *parts: str) -> random.Random:
    """Return a random generator that depends only on the seed and the given names."""
    digest = hashlib.sha256("\x1f".join((str(seed), *parts)).encode()).digest()
    return random.Random(digest)


def draw_caption_slots(seed: int, video_id: str, prompt_id: str, caption: str | None) -> dict[str, str]:
    """The slots of prompts 1 and 4: information profile 30/60/10, readability, education, raw caption."""
    rng = rng_for(seed, video_id, prompt_id)
    return {
        "profile": rng.choices(list(PROFILES), weights=list(PROFILES.values()))[0],
        "readability": rng.choice(READABILITY),
        "education": rng.choice(EDUCATION),
        "caption": caption or NO_CAPTION,
    }


def draw_query_slots(seed: int, video_id: str, prompt_id: str) -> dict[str, str]:
    """The slots of prompts 2 and 3: strategy or relation, readability, education."""
    rng = rng_for(seed, video_id, prompt_id)
    slots = {"readability": rng.choice(READABILITY), "education": rng.choice(EDUCATION)}
    if prompt_id == "composed_image":
        return {"strategy": rng.choice(STRATEGIES), **slots}
    return {"relation": rng.choice(RELATIONS), **slots}


def as_words(text: str, special_tokens: Iterable[str] = ()) -> str:
    """Return an untrusted text without any special token: "<|im_end|>" becomes "< |im_end|>".

    A space goes in after every "<" that something follows, which breaks up the tokens of nearly all models, and
    after the first character of each of `special_tokens` (those of other shapes, such as "[INST]").
    """
    text = re.sub(r"<(?=\S)", "< ", text)
    for token in sorted(special_tokens, key=len, reverse=True):
        if len(token) > 1:
            text = text.replace(token, f"{token[0]} {token[1:]}")
    return text


def messages(
    prompt_id: str, *, special_tokens: Iterable[str] = (), with_media: bool = True, **slots: str
) -> list[dict[str, object]]:
    """The whole conversation for a chat template: system turn, then the user turn with media placeholders.

    special_tokens: of the captioner's tokenizer. What fills the slots is words only, whoever wrote it: see `as_words`.
    with_media: False leaves the placeholders out.
    """
    prompt = load_prompt(prompt_id)
    words = {name: as_words(value, special_tokens) for name, value in slots.items()}
    media = _MEDIA[prompt_id] if with_media else ()
    return [
        {"role": "system", "content": prompt.system},
        {"role": "user", "content": [*media, {"type": "text", "text": prompt.fill(**words)}]},
    ]
