"""Asking a captioner: one prompt about one video, retried a bounded number of times.

    asker = Asker(generator, config, seed=42)
    answer = asker.ask(question).result()

A question's words depend on (seed, video_id, prompt) and each try's sampling seed on (seed, video_id, prompt,
ref, try), so what a video gets does not depend on its batch, its actor or the run that reached it. How the
words are generated is behind `Generator`; vLLM's is in vllm_captioner.py.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol

from gve_ray.config import CaptionerConfig
from gve_ray.schema import AssetRef, Frames
from gve_ray.stage import Reject
from gve_ray.store import frames_of_row
from gve_ray.synthesis.prompts import load_prompt
from gve_ray.synthesis.validate import AnswerError, Problem, parse_answer

Check = Callable[[Mapping[str, str]], list[Problem]]


@dataclass(frozen=True, kw_only=True)
class Media:
    """A part of one assets row, with its JPEG bytes still packed."""

    ref: AssetRef
    row: Mapping[str, Any]  # columns of ASSET_SCHEMA

    def frames(self) -> Frames:
        """Unpack; pixels uint8 [T, H, W, 3]. Raises OSError on bytes that are no JPEG."""
        return frames_of_row(self.row, self.ref)

    def fingerprint(self, frames: Frames) -> str:
        """Names exactly these pixels: content hash of the file, part, frame numbers, size."""
        height, width = frames.pixels.shape[1:3]
        indices = ",".join(str(i) for i in frames.indices)
        tail = f"{self.ref.part}/{self.ref.index}:{indices}:{height}x{width}"
        return f"{self.row['content_hash']}:{tail}"


@dataclass(frozen=True, kw_only=True)
class Question:
    """One prompt about one part of a video.

    ref: what the answer is about. media: in the order in which the prompt shows them. check: the rules of
    the prompt, run on the parsed answer; empty means good.
    """

    prompt_id: str
    ref: AssetRef
    media: tuple[Media, ...]
    slots: Mapping[str, str]
    keys: tuple[str, ...]
    check: Check


@dataclass(frozen=True)
class Completion:
    """What came back. finish: "stop", "length", or "refused" for a prompt the engine does not take."""

    text: str
    finish: str


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How one try is sampled."""

    seed: int
    temperature: float
    top_p: float
    max_tokens: int


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """Which weights answered: the configured name and a revision that pins them."""

    name: str
    revision: str


class Generator(Protocol):
    """Something that answers questions, many at a time."""

    info: ModelInfo

    def submit(self, question: Question, sampling: Sampling) -> "Future[Completion]":
        """Start one generation. The future raises BrokenWorker if the engine is of no more use."""
        ...


@dataclass(frozen=True)
class Attempt:
    """One try that was not kept."""

    seed: int
    problems: tuple[Problem, ...]
    text: str


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The end of a question: texts by key, or none after the last attempt; and how it came about."""

    question: Question
    texts: Mapping[str, str] | None
    seed: int  # of the last attempt
    attempts: int
    rejected: tuple[Attempt, ...] = ()

    def reject(self) -> Reject:
        """The row of rejects.lance for a question that no attempt answered."""
        last = self.rejected[-1]
        return Reject(
            reason=last.problems[0].code,
            detail="; ".join(str(problem) for problem in last.problems),
            scores={"rejected": [rejected_record(one) for one in self.rejected]},
            attempts=self.attempts,
        )


def rejected_record(attempt: Attempt) -> dict[str, Any]:
    """One try as in `schema.REJECTED_ANSWER_TYPE`."""
    return {
        "seed": attempt.seed,
        "reason": attempt.problems[0].code,
        "detail": "; ".join(str(problem) for problem in attempt.problems),
        "answer": attempt.text,
    }


def sampling_seed(seed: int, question: Question, attempt: int) -> int:
    """63 bits from the run's seed, the video, the prompt, the part it is about and the number of the try."""
    parts = (str(seed), question.ref.video_id, question.prompt_id, str(question.ref), str(attempt))
    digest = hashlib.sha256("\x1f".join(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


@dataclass(frozen=True, kw_only=True)
class Asker:
    """Asks questions of a generator, checks the answers, and asks again with another seed."""

    generator: Generator
    config: CaptionerConfig
    seed: int
    _sampling: str = field(init=False, default="")

    def __post_init__(self) -> None:
        described = {
            name: getattr(self.config, name)
            for name in ("temperature", "retry_temperature", "top_p", "max_tokens")
        }
        object.__setattr__(self, "_sampling", json.dumps(described, sort_keys=True))

    def ask(self, question: Question) -> "Future[Answer]":
        """Ask until an answer is good or `config.max_attempts` were not. The future raises BrokenWorker."""
        outer: Future[Answer] = Future()
        self._try(question, 1, (), outer)
        return outer

    def _try(
        self, question: Question, attempt: int, rejected: tuple[Attempt, ...], outer: "Future[Answer]"
    ) -> None:
        config = self.config
        sampling = Sampling(
            seed=sampling_seed(self.seed, question, attempt),
            temperature=config.temperature
            if attempt == 1
            else max(config.temperature, config.retry_temperature),
            top_p=config.top_p,
            max_tokens=config.max_tokens,
        )

        def done(future: "Future[Completion]") -> None:
            # concurrent.futures logs and drops what a callback raises: hand it to whoever waits instead.
            try:
                self._judge(question, attempt, rejected, sampling.seed, future.result(), outer)
            except Exception as error:  # noqa: BLE001 - any error is the waiter's
                outer.set_exception(error)

        self.generator.submit(question, sampling).add_done_callback(done)

    def _judge(
        self,
        question: Question,
        attempt: int,
        rejected: tuple[Attempt, ...],
        seed: int,
        completion: Completion,
        outer: "Future[Answer]",
    ) -> None:
        texts, problems = _read(question, completion)
        if problems:
            rejected = (*rejected, Attempt(seed, tuple(problems), completion.text))
            # A prompt the engine does not take is the same prompt next time.
            if attempt < self.config.max_attempts and completion.finish != "refused":
                self._try(question, attempt + 1, rejected, outer)
                return
        outer.set_result(
            Answer(
                question=question,
                texts=None if problems else texts,
                seed=seed,
                attempts=attempt,
                rejected=rejected,
            )
        )

    def record(self, answer: Answer) -> dict[str, Any]:
        """The provenance of an answer as in `schema.GENERATION_TYPE`."""
        question = answer.question
        info = self.generator.info
        return {
            "prompt_id": question.prompt_id,
            "prompt_version": load_prompt(question.prompt_id).version,
            "ref": str(question.ref),
            "slots": json.dumps(dict(question.slots), sort_keys=True, ensure_ascii=False),
            "model": info.name,
            "revision": info.revision,
            "sampling": self._sampling,
            "seed": answer.seed,
            "attempts": answer.attempts,
            "reason": None if answer.texts is not None else answer.rejected[-1].problems[0].code,
            "rejected": [rejected_record(one) for one in answer.rejected],
        }


def _read(question: Question, completion: Completion) -> tuple[dict[str, str], list[Problem]]:
    if completion.finish == "refused":
        return {}, [Problem("refused", completion.text)]
    if completion.finish == "length":
        return {}, [Problem("truncated", f"no end after {len(completion.text)} characters")]
    try:
        texts = parse_answer(completion.text, question.keys)
    except AnswerError as error:
        return {}, [error.problem]
    return texts, question.check(texts)
