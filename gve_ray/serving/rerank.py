"""Rerank the best hits of a text by a model that looks at their pictures.

    reranker = Reranker(config)
    reranking = await reranker.rerank(query, hits, pictures, seconds=3.0)
    reranking.hits                                   # in the new order

The model is behind an endpoint, which is asked about each hit in a request of its own, from threads of the
gateway. A hit that is not judged, because the endpoint fails or the time is over, keeps its place.
"""

import asyncio
import logging
import math
import re
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from gve_ray.endpoint import Endpoint, EndpointError, image_part
from gve_ray.search import Moment, Pictures
from gve_ray.serving.config import RerankConfig
from gve_ray.serving.requests import Query

log = logging.getLogger(__name__)

CONFIRMED = 0.5  # a hit with this score or more is what was searched for, rather than not
_ATTEMPTS = 2  # a request is repeated once; somebody waits for the result
_ANSWER_TOKENS = 4  # "Yes.", and a token or two before it
_LOGPROBS = {"logprobs": True, "top_logprobs": 10}
_FAILED = "the reranker failed; the log of the service says why"
_PICTURES = (
    "The first picture is a frame of a video clip. The second picture has frames of this clip side by side, in "
    "their order in time."
)
_QUESTION = "Somebody searches for this: {text}\nIs the clip what they search for? Answer yes or no."


@dataclass(frozen=True, kw_only=True)
class Reranking:
    """The result of reranking.

    hits: all of them, in the new order. ranks: the rank of each before, from 1, by id. scores: from 0 to 1,
    by id, of those that were judged. candidates: number of hits to judge. problem: why some
    were not; None if all were.
    """

    hits: Sequence[Moment]
    ranks: Mapping[str, int]
    scores: Mapping[str, float]
    candidates: int
    problem: str | None


class _StoppedError(Exception):
    """The endpoint is not asked any more for this search."""


class Reranker:
    """Asks the endpoint of a config, whose `url` must be set."""

    def __init__(self, config: RerankConfig) -> None:
        self._config = config
        self._endpoint = Endpoint(str(config.url), config.key_variable, timeout=config.seconds)
        # Threads of its own, so that a slow endpoint does not keep those that read posters and metadata.
        self._threads = ThreadPoolExecutor(config.concurrency, thread_name_prefix="rerank")
        self._free = asyncio.Semaphore(config.concurrency)
        self._has_logprobs = True

    def close(self) -> None:
        """Ask nothing more."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def rerank(
        self,
        query: Query,
        hits: Sequence[Moment],
        pictures: Callable[[str], Awaitable[Pictures]],
        *,
        seconds: float,
    ) -> Reranking:
        """Judge the first `candidates` hits, and sort those that are judged by their scores.

        Equal ones keep their order. query: of text only. pictures: returns those of a segment. seconds: the
        time there is, at most `RerankConfig.seconds`. Errors are logged and not raised.
        """
        candidates = hits[: self._config.candidates]
        seconds = min(seconds, self._config.seconds)
        ended = threading.Event()
        scores: dict[str, float] = {}

        async def judge(hit: Moment) -> None:
            async with self._free:
                if ended.is_set():
                    return
                seen = await pictures(hit.id)
                try:
                    scores[hit.id] = await asyncio.get_running_loop().run_in_executor(
                        self._threads, self._ask, query, hit, seen, ended
                    )
                except EndpointError as error:
                    # Only this hit may be the cause if the endpoint refuses it, or has judged others.
                    if error.kind == "denied" or (error.kind == "unavailable" and not scores):
                        ended.set()
                    raise

        tasks = [asyncio.create_task(judge(hit)) for hit in candidates]
        try:
            done = (await asyncio.wait(tasks, timeout=max(0.0, seconds)))[0] if tasks else set()
        finally:
            ended.set()
            for task in tasks:
                task.cancel()
        errors = [task.exception() for task in done if not task.cancelled()]
        errors = [error for error in errors if error and not isinstance(error, _StoppedError)]
        problem = None
        if errors:
            problem = _FAILED
            log.warning("rerank: %d of %d hits judged: %s", len(scores), len(candidates), errors[0])
        elif len(scores) < len(candidates):
            problem = f"the time for it was over after {max(0.0, seconds):.3g} s"
        return Reranking(
            hits=_reordered(hits, scores),
            ranks={hit.id: rank for rank, hit in enumerate(hits, 1)},
            scores=scores,
            candidates=len(candidates),
            problem=problem,
        )

    def _ask(self, query: Query, hit: Moment, pictures: Pictures, ended: threading.Event) -> float:
        """Return the score of a hit, from 0 to 1. Raises EndpointError or _StoppedError."""

        def before() -> None:
            if ended.is_set():
                raise _StoppedError

        def post(path: str, body: Mapping[str, Any], read: Callable[[Any], float]) -> float:
            body = {"model": self._config.model, **body}
            return self._endpoint.post(path, body, read, attempts=_ATTEMPTS, before=before, wait=ended.wait)

        if self._config.api == "rerank":
            return post("rerank", rerank_request(query, hit, pictures), read_relevance)
        body = chat_request(query, hit, pictures)
        if self._has_logprobs:
            try:
                return post("chat/completions", body | _LOGPROBS, read_answer)
            except EndpointError as error:
                if error.kind != "refused" or "logprobs" not in str(error):
                    raise
                log.warning("rerank: asking without logprobs from now on (%s)", error)
                self._has_logprobs = False
        return post("chat/completions", body, read_answer)


def _reordered(hits: Sequence[Moment], scores: Mapping[str, float]) -> list[Moment]:
    """Return the hits with those that have a score sorted by it, in the places that they had."""
    places = [place for place, hit in enumerate(hits) if hit.id in scores]
    reordered = list(hits)
    for place, best in zip(places, sorted(places, key=lambda at: -scores[hits[at].id]), strict=True):
        reordered[place] = hits[best]
    return reordered


# ---- Requests and replies


def chat_request(query: Query, hit: Moment, pictures: Pictures) -> dict[str, Any]:
    """Return the fields of a chat request that asks whether a hit is what the text of a query says."""
    question = [query.instruction, _QUESTION.format(text=query.text)]
    content = [
        _text(_PICTURES),
        *_document(hit, pictures),
        _text("\n".join(part for part in question if part)),
    ]
    return {
        "messages": [{"role": "user", "content": content}],
        "temperature": 0.0,
        "max_tokens": _ANSWER_TOKENS,
    }


def rerank_request(query: Query, hit: Moment, pictures: Pictures) -> dict[str, Any]:
    """Return the fields of a request to /rerank in the form of vLLM, with one hit as its only document."""
    body: dict[str, Any] = {"query": query.text, "documents": [{"content": _document(hit, pictures)}]}
    return body | ({"instruction": query.instruction} if query.instruction else {})


def read_answer(reply: Any) -> float:
    """Return the probability of yes against no in a chat completion; 1 or 0 if it has no log-probabilities.

    Raises AttributeError, KeyError, IndexError, TypeError or ValueError for any other JSON or answer.
    """
    choice = reply["choices"][0]
    for token in (choice.get("logprobs") or {}).get("content") or ():
        if _word(token["token"]) is not None:
            likely = {other["token"]: float(other["logprob"]) for other in (*token["top_logprobs"], token)}
            yes, no = (
                sum(math.exp(logprob) for text, logprob in likely.items() if _word(text) is word)
                for word in (True, False)
            )
            return yes / (yes + no)
    answer = _word(choice["message"]["content"])
    if answer is None:
        raise ValueError("the answer is neither yes nor no")
    return float(answer)


def read_relevance(reply: Any) -> float:
    """Return the score in the reply to `rerank_request`. Raises as `read_answer`."""
    (result,) = reply["results"]
    score = float(result["relevance_score"])
    if not 0 <= score <= 1:
        raise ValueError(f"relevance_score {score:g} is not from 0 to 1")
    return score


def _document(hit: Moment, pictures: Pictures) -> list[dict[str, Any]]:
    """Return what the index has of a hit: its poster, its strip, and the words that match."""
    parts = [image_part(pictures.poster), image_part(pictures.strip)]
    if hit.words is not None:
        parts.append(_text(f"In words: {hit.words.text}"))
    return parts


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _word(text: str) -> bool | None:
    """Return whether a text begins with yes (True) or no (False); None if with neither."""
    match = re.match(r"\W*(yes|no)\b", text, re.IGNORECASE)
    return None if match is None else match[1].lower() == "yes"
