"""Score captions by a second look of the captioner at the video, to find those that say what it does not show.

    text, spans = spell(captions)
    scores = support(tokens_with_the_video, tokens_without_it, spans)

The captioner reads its captions again, once with the video and once without it, and gives the probability
of each token. p is that of a token with the video, q without it. |p - q| says how much the token depends
on the video: near 0 for grammar and wording, near 1 for what can only be known from the frames. The support
of a caption is the product of p ** |p - q| over its tokens: 1 if the model is certain of all that it took
from the video, near 0 if it could as well have said something else. Both probabilities are those of
visual generative pre-training scores (arXiv:2306.01879), which compare whole texts.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Span = tuple[int, int]  # of characters


@dataclass(frozen=True)
class ScoredToken:
    """A token of a text that the model has read: its characters, and its log-probability (natural)."""

    text: str
    logprob: float


def spell(captions: Mapping[str, str]) -> tuple[str, dict[str, Span]]:
    """Return captions as the JSON object that prompts ask for, and where in it each caption is."""
    text = "{"
    spans: dict[str, Span] = {}
    for key, caption in captions.items():
        text += f"{', ' if spans else ''}{json.dumps(key)}: "
        value = json.dumps(caption, ensure_ascii=False)
        spans[key] = len(text) + 1, len(text) + len(value) - 1
        text += value
    return text + "}", spans


def last_tokens(tokens: Sequence[ScoredToken], length: int) -> list[ScoredToken]:
    """Return the tokens of the last `length` characters of a prompt."""
    first, characters = len(tokens), 0
    while first and characters < length:
        first -= 1
        characters += len(tokens[first].text)
    return list(tokens[first:])


def support(
    shown: Sequence[ScoredToken], hidden: Sequence[ScoredToken], spans: Mapping[str, Span]
) -> dict[str, float]:
    """Return the support of each caption, from 0 to 1.

    shown, hidden: the tokens of the text of `spell`, read with and without the video. spans: those of `spell`.
    Raises ValueError if the two are not the same tokens.
    """
    if [token.text for token in shown] != [token.text for token in hidden]:
        raise ValueError("the captioner read the captions as other tokens without the video")
    logs = dict.fromkeys(spans, 0.0)
    start = 0
    for with_video, without in zip(shown, hidden, strict=True):
        end = start + len(with_video.text)
        for key, (first, last) in spans.items():
            if first <= start and end <= last:
                weight = abs(math.exp(with_video.logprob) - math.exp(without.logprob))
                logs[key] += weight * with_video.logprob
        start = end
    return {key: math.exp(total) for key, total in logs.items()}
