"""Generate captions with a vision-language model behind an OpenAI-compatible chat endpoint.

Each actor asks `captioner.concurrency` questions at the same time, on as many threads. Frames are sent as
the JPEG files that assets.lance has. The answer's JSON schema goes with the question as `response_format`;
an endpoint that refuses this field is asked without it, and the checks of every answer do the rest.

A failure of the endpoint ends the job, and leaves rows without a result to a later run: only answers, or a
refusal of this one question, decide about a row.
"""

import json
import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import count
from typing import Any, TypeVar

from gve_ray.endpoint import ATTEMPTS, Endpoint, EndpointError, image_part, video_options, video_part
from gve_ray.stage import report_tokens
from gve_ray.synthesis.audit import ScoredToken, last_tokens
from gve_ray.synthesis.captioner import Completion, Media, ModelInfo, Question, Refused, Sampling, Stopped
from gve_ray.synthesis.config import CaptionerConfig
from gve_ray.synthesis.prompts import load_prompt, messages
from gve_ray.synthesis.spending import Ledger, Usage

T = TypeVar("T")

log = logging.getLogger(__name__)

_REFUSALS = 8  # if so many questions are refused before the first answer, it is not because of the questions
_READING = Sampling(seed=0, temperature=0.0, top_p=1.0, max_tokens=1)  # of a request that only reads
# They are vLLM's: the answer belongs to the prompt, whose tokens are given with their log-probabilities.
_READING_OPTIONS = {"add_generation_prompt": False, "continue_final_message": True, "prompt_logprobs": 0}


@dataclass(frozen=True, order=True)
class _Job:
    is_first: bool  # of its video
    number: int
    question: Question = field(compare=False)
    sampling: Sampling | None = field(compare=False)  # None: score the answer
    future: "Future[Any]" = field(compare=False)
    answer: str = field(compare=False, default="")


class EndpointGenerator:
    """A `captioner.Generator` on an endpoint. Thread-safe.

    config: its engine is openai. threads, seed: of other generators; not used. ledger: counts the tokens.
    requests_per_minute: of this actor; None: no limit. endpoint: that of the config by default.
    """

    info: ModelInfo

    def __init__(
        self,
        config: CaptionerConfig,
        *,
        ledger: Ledger,
        requests_per_minute: float | None = None,
        endpoint: Endpoint | None = None,
        threads: int = 1,
        seed: int = 0,
    ) -> None:
        self._config, self._ledger = config, ledger
        self._endpoint = endpoint or Endpoint(str(config.url), config.key_variable)
        self._pace = Pace(requests_per_minute)
        self._waiting: queue.PriorityQueue[_Job] = queue.PriorityQueue()
        self._numbers = count()
        self._has_schema = True
        self._answered = -1.0  # when the last answer came, by the monotonic clock
        self._refused = 0
        self._lock = threading.Lock()  # of the three above
        self._end: Stopped | None = None
        self._ended = threading.Event()
        self._no_audit = (
            f"audit.threshold: captioner.url={config.url!r} does not give the `prompt_logprobs` of vLLM's server; "
            "leave audit.threshold out"
        )
        self.info = ModelInfo(name=config.model, revision=self._endpoint.host)
        for i in range(config.concurrency):
            threading.Thread(target=self._work, name=f"captioner-{i}", daemon=True).start()

    def submit(self, question: Question, sampling: Sampling) -> "Future[Completion]":
        """Queue one generation; see `captioner.Generator`."""
        return self._queue(question, sampling)

    def score(self, question: Question, answer: str) -> "Future[list[ScoredToken]]":
        """Queue one reading of an answer; see `captioner.Generator`."""
        return self._queue(question, None, answer)

    def _queue(self, question: Question, sampling: Sampling | None, answer: str = "") -> "Future[Any]":
        future: Future[Any] = Future()
        # The questions about a video that has captions come first: if the job has to end, few videos are
        # half done.
        is_first = question.prompt_id == "video_captions" and sampling is not None
        self._waiting.put(_Job(is_first, next(self._numbers), question, sampling, future, answer))
        return future

    def _work(self) -> None:
        while True:
            job = self._waiting.get()
            try:
                if job.sampling is None:
                    job.future.set_result(self._read(job.question, job.answer))
                else:
                    job.future.set_result(self._ask(job.question, job.sampling))
            except Exception as error:  # noqa: BLE001 - any error is raised in the waiting caller
                job.future.set_exception(error)

    def _ask(self, question: Question, sampling: Sampling) -> Completion:
        """Answer a question."""
        self._check_cost()
        begun = time.monotonic()
        try:
            completion, usage = self._request(request(self._config, question, sampling), question)
        except EndpointError as error:
            return self._failed(error, begun)
        self._count(usage, begun)
        return completion

    def _read(self, question: Question, answer: str) -> list[ScoredToken]:
        """Score an answer. Raises Refused or Stopped."""
        self._check_cost()
        begun = time.monotonic()
        body = request(self._config, question, _READING)
        body["messages"].append({"role": "assistant", "content": answer})
        body |= _READING_OPTIONS
        try:
            tokens, usage = self._post(body, read_tokens)
        except EndpointError as error:
            if error.kind == "refused" and any(name in str(error) for name in _READING_OPTIONS):
                raise self._stop(f"{self._no_audit} ({error})") from error
            raise Refused(self._failed(error, begun).text) from error
        self._count(usage, begun)
        if tokens is None:
            raise self._stop(self._no_audit)
        return last_tokens(tokens, len(answer))

    def _count(self, usage: Usage | None, begun: float) -> None:
        """Count the tokens of a response, and the share of the connections that it kept busy."""
        with self._lock:
            self._answered = time.monotonic()
        report_tokens(
            prompt=usage.prompt_tokens if usage else 0,
            output=usage.output_tokens if usage else 0,
            busy_seconds=(time.monotonic() - begun) / self._config.concurrency,
        )
        if usage is not None:
            self._ledger.add(usage.prompt_tokens, usage.output_tokens)
        elif self._config.has_prices:
            raise self._stop(
                f"captioner.url={self._config.url!r}: its responses have no `usage`, so their cost is unknown; "
                "leave out captioner.max_cost and the prices"
            )

    def _request(self, body: dict[str, Any], question: Question) -> tuple[Completion, Usage | None]:
        """Send a question, with its schema unless the endpoint has refused that."""
        if self._has_schema:
            try:
                return self._post(body | {"response_format": _response_format(question)}, read_reply)
            except EndpointError as error:
                if error.kind != "refused" or "response_format" not in str(error):
                    raise
                with self._lock:
                    if self._has_schema:
                        log.warning("captioner: asking without response_format from now on (%s)", error)
                    self._has_schema = False
        return self._post(body, read_reply)

    def _post(self, body: Mapping[str, Any], read: Callable[[Any], T]) -> T:
        return self._endpoint.post("chat/completions", body, read, before=self._before, wait=self._ended.wait)

    def _before(self) -> None:
        """Wait until a request may be sent. Raises Stopped if none may be any more."""
        self._pace.wait(self._ended)
        if self._end is not None:
            raise self._end

    def _check_cost(self) -> None:
        limit = self._config.max_cost
        if limit is None or self._end is not None:
            return
        usage = self._ledger.usage()
        cost = self._config.cost(usage.prompt_tokens, usage.output_tokens) or 0.0
        if cost >= limit:
            raise self._stop(
                f"captioner.max_cost={limit:g}: {usage.answers:,} answers have cost {cost:,.2f}, so no question is "
                "asked any more; raise captioner.max_cost to go on"
            )

    def _failed(self, error: EndpointError, begun: float) -> Completion:
        """Return a refusal if only this question is the cause, or raise Stopped."""
        config = self._config
        if error.kind == "refused" and "media_io_kwargs" in str(error):
            raise self._stop(
                f"captioner.video_as={config.video_as!r}: the endpoint does not take the times of frames ({error}); "
                "start vLLM's server with --trust-request-mm-kwargs, or set captioner.video_as to images"
            )
        if error.kind == "refused":
            with self._lock:
                self._refused += 1
                never = self._answered < 0 and self._refused >= _REFUSALS
            if not never:
                return Completion(str(error), "refused")
            raise self._stop(
                f"captioner.url={config.url!r}: refuses all questions ({error}); correct what it names, e.g. "
                "captioner.video_as or captioner.max_tokens"
            )
        if error.kind == "denied":
            option = {
                401: f"captioner.key_variable={config.key_variable!r}",
                402: f"captioner.key_variable={config.key_variable!r}",
                403: f"captioner.key_variable={config.key_variable!r}",
                404: f"captioner.url={config.url!r}, captioner.model={config.model!r}",
            }.get(error.status or 0, f"captioner.url={config.url!r}")
            raise self._stop(f"{option}: the endpoint denies every request ({error}); correct it")
        with self._lock:
            others = self._answered > begun
        if error.status == 500 and others:
            return Completion(f"{ATTEMPTS} attempts, while others were answered: {error}", "refused")
        raise self._stop(
            f"captioner.url={config.url!r}: no answer to {ATTEMPTS} attempts ({error}); start the job again when "
            "the endpoint answers, with fewer captioner.requests_per_minute if it had too many"
        )

    def _stop(self, message: str) -> Stopped:
        """Let all other questions fail, and return the error. The first call decides which."""
        with self._lock:
            self._end = self._end or Stopped(message)
        self._ended.set()
        return self._end


class Pace:
    """Lets requests pass one by one, at equal distances. per_minute: None: all at once."""

    def __init__(self, per_minute: float | None) -> None:
        self._distance = 0.0 if per_minute is None else 60.0 / per_minute
        self._next = 0.0
        self._lock = threading.Lock()

    def wait(self, ended: threading.Event) -> None:
        """Wait for this request's turn, or until `ended` is set."""
        with self._lock:
            now = time.monotonic()
            turn = max(now, self._next)
            self._next = turn + self._distance
        if turn > now:
            ended.wait(turn - now)


def request(config: CaptionerConfig, question: Question, sampling: Sampling) -> dict[str, Any]:
    """Return the body of a request, without its `response_format`.

    A request has one set of times for all its videos: that of the first. Another video is sent with these
    times if it has as many frames, else as images; as images, a model takes it for pictures of things that
    do not move (docs/LOG.md). Raises OSError for bytes that are no JPEG.
    """
    system, user = messages(question.prompt_id, with_media=bool(question.media), **question.slots)
    media = iter(question.media)
    content: list[Any] = []
    more: dict[str, Any] = {}
    length = 0  # frames of the first video
    parts: Any = user["content"]
    for part in parts:
        if part["type"] == "text":
            content.append(part)
            continue
        shown: Media = next(media)
        frames = shown.frames()  # also for a picture: bytes that are no JPEG are this row's error
        is_video = part["type"] == "video" and config.video_as == "video"
        if is_video and len(frames.pixels) == (length := length or len(frames.pixels)):
            content.append(video_part(shown.jpegs()))
            more = more or video_options(frames)
        else:
            content += map(image_part, shown.jpegs())
    return {
        "model": config.model,
        "messages": [system, {"role": "user", "content": content}],
        "seed": sampling.seed,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": sampling.max_tokens,
        **more,
    }


def read_reply(reply: Any) -> tuple[Completion, Usage | None]:
    """Return the answer in a chat completion, and its tokens if the endpoint counts them.

    Raises AttributeError, KeyError, IndexError, TypeError or ValueError for any other JSON.
    """
    choice = reply["choices"][0]
    message, finish = choice["message"], choice.get("finish_reason")
    text, refusal = message.get("content"), message.get("refusal")
    if not isinstance(text, str | None):
        raise TypeError(f"content is a {type(text).__name__}")
    if refusal or finish == "content_filter":
        completion = Completion(str(refusal or "content_filter"), "refused")
    else:
        completion = Completion(text or "", "length" if finish == "length" else "stop")
    return completion, _usage(reply)


def read_tokens(reply: Any) -> tuple[list[ScoredToken] | None, Usage | None]:
    """Return the tokens of the prompt of a chat completion, and what they took.

    None: the endpoint does not give them. Raises as `read_reply`.
    """
    positions = reply.get("prompt_logprobs")
    if positions is None:
        return None, _usage(reply)
    tokens = [
        ScoredToken(str(token["decoded_token"]), float(token["logprob"]))
        for position in positions[1:]  # the first token has no probability
        for token in position.values()
    ]
    return tokens, _usage(reply)


def _usage(reply: Any) -> Usage | None:
    usage = reply.get("usage")
    return usage and Usage(1, int(usage["prompt_tokens"]), int(usage["completion_tokens"]))


def _response_format(question: Question) -> dict[str, Any]:
    schema = json.loads(load_prompt(question.prompt_id).json_schema)
    return {
        "type": "json_schema",
        "json_schema": {"name": question.prompt_id, "schema": schema, "strict": True},
    }
