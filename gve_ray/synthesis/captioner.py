"""Ask a captioner one question about a video, check the answer, and retry a bounded number of times.

    asker = Asker(generator, config, seed=42)
    answer = asker.ask(question).result()

The question's text depends on (seed, video_id, prompt) and the sampling seed of each attempt on (seed,
video_id, prompt, ref, attempt), so the result for a video does not depend on its batch, actor or run.
`Generator` is the interface to the model; vllm_captioner.py implements it with vLLM, and
endpoint_captioner.py with an endpoint.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from gve_ray.schema import AssetRef, Frames
from gve_ray.stage import Reject
from gve_ray.store import frames_of_row, jpegs_of_row
from gve_ray.synthesis.audit import ScoredToken, spell, support
from gve_ray.synthesis.config import AuditConfig, CaptionerConfig
from gve_ray.synthesis.prompts import load_prompt
from gve_ray.synthesis.validate import AnswerError, Problem, parse_answer

Check = Callable[[Mapping[str, str]], list[Problem]]
AUDITED = ("video_captions",)  # the prompts whose answers are audited


@dataclass(frozen=True, kw_only=True)
class Media:
    """A part of one assets row, with its JPEG bytes still packed."""

    ref: AssetRef
    row: Mapping[str, Any]  # columns of ASSET_SCHEMA

    def frames(self) -> Frames:
        """Unpack; pixels uint8 [T, H, W, 3]. Raises OSError on bytes that are no JPEG."""
        return frames_of_row(self.row, self.ref)

    def jpegs(self) -> list[bytes]:
        """Return the frames as they are stored."""
        return jpegs_of_row(self.row, self.ref)

    def fingerprint(self, frames: Frames) -> str:
        """Names exactly these pixels: content hash of the file, start of the shot, part, frame numbers, size."""
        height, width = frames.pixels.shape[1:3]
        indices = ",".join(str(i) for i in frames.indices)
        tail = f"{self.ref.part}/{self.ref.index}:{indices}:{height}x{width}"
        shot = f"@{self.row['shot']['start']}" if self.row["shot"] else ""
        return f"{self.row['content_hash']}{shot}:{tail}"


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
    """The generated text. finish: "stop", "length", or "refused" for a prompt that the engine rejects."""

    text: str
    finish: str


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Sampling parameters of one attempt."""

    seed: int
    temperature: float
    top_p: float
    max_tokens: int


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """The model that answered: its configured name and the revision of its weights.

    An endpoint does not say which weights it has: its revision is the host.
    """

    name: str
    revision: str


class Stopped(Exception):  # noqa: N818 - the name describes the state, not an error type
    """No question can be answered any more, for a reason that has nothing to do with the questions."""


class Refused(Exception):  # noqa: N818 - the name describes what happened, as in `Completion.finish`
    """The engine rejects a prompt whose answer was to be scored."""


class Generator(Protocol):
    """The interface to a model that answers many questions at a time."""

    info: ModelInfo

    def submit(self, question: Question, sampling: Sampling) -> "Future[Completion]":
        """Start one generation.

        The future raises BrokenWorker if the engine has failed for good, and Stopped if no question can be
        answered any more.
        """
        ...

    def score(self, question: Question, answer: str) -> "Future[list[ScoredToken]]":
        """Start reading an answer to a question; the result is the tokens of the answer.

        A question without media is put without them. The future raises Refused for a prompt that the engine
        rejects, and otherwise as that of `submit`.
        """
        ...


@dataclass(frozen=True)
class Attempt:
    """One attempt whose answer was rejected."""

    seed: int
    problems: tuple[Problem, ...]
    text: str


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The final answer to a question: texts by key, or None if every attempt failed, with its history.

    support: of all texts by key, if they were audited; those under the threshold are not in `texts` but in
    `rejected`, one by one.
    """

    question: Question
    texts: Mapping[str, str] | None
    seed: int  # of the last attempt
    attempts: int
    rejected: tuple[Attempt, ...] = ()
    support: Mapping[str, float] | None = None

    def reject(self) -> Reject:
        """The row of rejects.lance for a question that no attempt answered."""
        last = self.rejected[-1]
        return Reject(
            reason=last.problems[0].code,
            detail="; ".join(str(problem) for problem in last.problems),
            scores={"rejected": [rejected_record(rejection) for rejection in self.rejected]},
            attempts=self.attempts,
        )


def rejected_record(attempt: Attempt) -> dict[str, Any]:
    """Return an attempt as a `schema.REJECTED_ANSWER_TYPE` record."""
    return {
        "seed": attempt.seed,
        "reason": attempt.problems[0].code,
        "detail": "; ".join(str(problem) for problem in attempt.problems),
        "answer": attempt.text,
    }


def sampling_seed(seed: int, question: Question, attempt: int) -> int:
    """Return a 63-bit seed derived from the run's seed, video, prompt, part and attempt number."""
    parts = (str(seed), question.ref.video_id, question.prompt_id, str(question.ref), str(attempt))
    digest = hashlib.sha256("\x1f".join(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


@dataclass(frozen=True, kw_only=True)
class Asker:
    """Asks questions of a generator, checks the answers, and asks again with another seed."""

    generator: Generator
    config: CaptionerConfig
    seed: int
    audit: AuditConfig = field(default_factory=AuditConfig)

    def ask(self, question: Question) -> "Future[Answer]":
        """Ask until an answer is valid or `config.max_attempts` are used up.

        The future raises BrokenWorker or Stopped as that of the generator.
        """
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
            # concurrent.futures logs and drops what a callback raises: pass it to the waiting caller instead.
            try:
                self._judge(question, attempt, rejected, sampling.seed, future.result(), outer)
            except Exception as error:  # noqa: BLE001 - any error is raised in the waiting caller
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
            # A refused prompt would be refused again: a retry sends the same prompt.
            if attempt < self.config.max_attempts and completion.finish != "refused":
                self._try(question, attempt + 1, rejected, outer)
                return
        answer = Answer(
            question=question,
            texts=None if problems else texts,
            seed=seed,
            attempts=attempt,
            rejected=rejected,
        )
        if answer.texts is None or self.audit.threshold is None or question.prompt_id not in AUDITED:
            outer.set_result(answer)
        else:
            self._audit(answer, answer.texts, self.audit.threshold, outer)

    def _audit(
        self, answer: Answer, texts: Mapping[str, str], threshold: float, outer: "Future[Answer]"
    ) -> None:
        """Score the texts of an answer, and pass it on with those that reach the threshold."""
        text, spans = spell(texts)
        shown = self.generator.score(answer.question, text)
        hidden = self.generator.score(replace(answer.question, media=()), text)

        def done(_: "Future[list[ScoredToken]]") -> None:
            try:
                scores = support(shown.result(), hidden.result(), spans)
                outer.set_result(audited(answer, texts, scores, threshold))
            except Refused as error:
                refused = Attempt(answer.seed, (Problem("refused", f"audit: {error}"),), text)
                outer.set_result(replace(answer, texts=None, rejected=(*answer.rejected, refused)))
            except Exception as error:  # noqa: BLE001 - as in `_try`
                outer.set_exception(error)

        # One after the other, so that no thread waits for either of them.
        shown.add_done_callback(lambda _: hidden.add_done_callback(done))

    def record(self, answer: Answer) -> dict[str, Any]:
        """Return the provenance of an answer as a `schema.GENERATION_TYPE` record."""
        question = answer.question
        info = self.generator.info
        names = ("temperature", "retry_temperature", "top_p", "max_tokens")
        return {
            "prompt_id": question.prompt_id,
            "prompt_version": load_prompt(question.prompt_id).version,
            "ref": str(question.ref),
            "slots": json.dumps(dict(question.slots), sort_keys=True, ensure_ascii=False),
            "model": info.name,
            "revision": info.revision,
            "sampling": json.dumps(
                {name: getattr(self.config, name) for name in names} | _audit_record(answer), sort_keys=True
            ),
            "seed": answer.seed,
            "attempts": answer.attempts,
            "reason": None if answer.texts is not None else answer.rejected[-1].problems[0].code,
            "rejected": [rejected_record(rejection) for rejection in answer.rejected],
        }


def _audit_record(answer: Answer) -> dict[str, Any]:
    if answer.support is None:
        return {}
    return {"audit": {key: round(score, 4) for key, score in answer.support.items()}}


def audited(
    answer: Answer, texts: Mapping[str, str], scores: Mapping[str, float], threshold: float
) -> Answer:
    """Return an answer without the texts whose support is below the threshold.

    They are in its `rejected`, with the reason `unsupported`; without any other text there is no answer.
    """
    dropped = tuple(
        Attempt(
            answer.seed,
            (Problem("unsupported", f"caption {key}: support {scores[key]:.3f}, below {threshold:g}"),),
            text,
        )
        for key, text in texts.items()
        if scores[key] < threshold
    )
    kept = {key: text for key, text in texts.items() if scores[key] >= threshold}
    return replace(answer, texts=kept or None, rejected=(*answer.rejected, *dropped), support=scores)


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
