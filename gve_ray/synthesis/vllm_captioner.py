"""Generate captions with a vLLM vision-language model that is fed by a queue.

A dedicated thread owns the engine. It takes questions from all callers, decodes frames in advance on
other threads, keeps the engine's batch full, and returns each completion as soon as it is done. All
rows and retries share one running batch, so a slow answer delays only its own row.

On the CPU the engine runs in this process. On GPUs it runs in separate processes while this process
prepares the next prompts.
"""

import json
import logging
import os
import queue
import threading
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from gve_ray.config import resolve_model
from gve_ray.media.video_metadata import video_metadata
from gve_ray.stage import BrokenWorker, report_status, report_tokens
from gve_ray.store.weights import sampled_folder_digest
from gve_ray.synthesis.audit import ScoredToken, last_tokens
from gve_ray.synthesis.captioner import Completion, ModelInfo, Question, Refused, Sampling
from gve_ray.synthesis.config import CaptionerConfig
from gve_ray.synthesis.orphan_reaper import start_orphan_reaper
from gve_ray.synthesis.prompts import load_prompt, messages

CPU_KV_CACHE_BYTES = 2 * 2**30
_CPU_BATCHED_TOKENS = 8192
_UNPACKERS = 2
_MAX_NUM_SEQS = 128
_AHEAD = 16  # prompts that wait in the engine, and as many before it: each may hold 20 MB of pixels


class ModelError(RuntimeError):
    """The captioner's model cannot be loaded."""


def json_regex(json_schema: str) -> str:
    """The schema of a flat object of patterned strings as a regular expression, spelled as `json.dumps` does.

    A regex and not the schema itself, since vLLM's JSON grammar either lets a small model wander off into
    whitespace or forbids the space after commas and colons that models write by habit.
    """
    members = []
    for key, value in json.loads(json_schema)["properties"].items():
        pattern = value["pattern"].removeprefix("^").removesuffix("$")
        members.append(f'"{key}": "{pattern}"')
    return r"\{" + ", ".join(members) + r"\}"


def multi_modal(question: Question) -> dict[str, Any]:
    """Return a question's media in vLLM's format, with ids derived from their content; nothing without media."""
    from PIL import Image

    if not question.media:
        return {}
    data: dict[str, list[Any]] = {}
    uuids: dict[str, list[str]] = {}
    for media in question.media:
        frames = media.frames()
        if media.ref.part == "frame":
            kind = "image"
            data.setdefault(kind, []).append(Image.fromarray(frames.pixels[0]))
        else:
            kind = "video"
            item = (np.ascontiguousarray(frames.pixels), video_metadata(frames))
            data.setdefault(kind, []).append(item)
        uuids.setdefault(kind, []).append(media.fingerprint(frames))
    return {"multi_modal_data": data, "multi_modal_uuids": uuids}


def model_revision(folder_or_id: str, loaded_commit: str | None) -> str:
    """Return what identifies the weights: the hub's commit or a hash of a local folder's files."""
    folder = Path(folder_or_id)
    return f"sha256:{sampled_folder_digest(folder)[:16]}" if folder.is_dir() else loaded_commit or "unknown"


@dataclass
class _Job:
    """A question to answer, or, without sampling, whose answer to score."""

    question: Question
    sampling: Sampling | None
    future: "Future[Any]"
    answer: str = ""
    prompt: "Future[dict[str, Any]] | None" = None


class VllmGenerator:
    """A `captioner.Generator` on vLLM. Thread-safe; the engine lives until the process ends.

    config: model, engine arguments. threads: CPU threads of the engine where it runs on the CPU.
    Raises ModelError when the model cannot be loaded.
    """

    info: ModelInfo

    def __init__(self, config: CaptionerConfig, *, threads: int = 1, seed: int = 0) -> None:
        self._config = config
        self._threads = threads
        self._seed = seed
        self._inbox: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._broken: BrokenWorker | None = None
        ready: Future[ModelInfo] = Future()
        threading.Thread(target=self._main, args=(ready,), name="captioner-engine", daemon=True).start()
        self.info = ready.result()

    def submit(self, question: Question, sampling: Sampling) -> "Future[Completion]":
        """Queue one generation; see `captioner.Generator`."""
        return self._queue(_Job(question, sampling, Future()))

    def score(self, question: Question, answer: str) -> "Future[list[ScoredToken]]":
        """Queue one reading of an answer; see `captioner.Generator`."""
        return self._queue(_Job(question, None, Future(), answer))

    def _queue(self, job: _Job) -> "Future[Any]":
        if self._broken is not None:
            job.future.set_exception(self._broken)
        else:
            self._inbox.put(job)
        return job.future

    # ---- the engine's thread

    def _main(self, ready: "Future[ModelInfo]") -> None:
        try:
            info = self._load()
        except Exception as error:  # noqa: BLE001 - vLLM, torch and the hub raise all kinds; none is hidden
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            failure = ModelError(
                f"captioner.model={self._config.model!r}: vLLM cannot load it ({type(error).__name__}: "
                f"{reason}); name a vision-language model of vLLM's, or correct captioner.engine_args"
            )
            failure.__cause__ = error
            ready.set_exception(failure)
            return
        ready.set_result(info)
        self._outstanding: deque[_Job] = deque()
        self._running: dict[str, _Job] = {}
        with ThreadPoolExecutor(_UNPACKERS, thread_name_prefix="unpack") as self._pool:
            try:
                self._serve()
            except Exception as error:  # noqa: BLE001 - after any error the engine is in an unknown state
                self._fail(BrokenWorker(f"{type(error).__name__}: {error}"), error)

    def _load(self) -> ModelInfo:
        name = self._config.model
        report_status("starting the captioner: importing vLLM")
        model = resolve_model(name)
        on_cpu = _environment(self._config, self._threads)
        if os.environ.get("VLLM_ENABLE_V1_MULTIPROCESSING") != "0":
            self._orphan_reaper = start_orphan_reaper()
        from vllm import EngineArgs
        from vllm.v1.engine.llm_engine import LLMEngine

        arguments = engine_arguments(self._config, model, seed=self._seed, on_cpu=on_cpu)
        if on_cpu:
            import torch

            torch.set_num_threads(self._threads)  # of this thread, which runs the model
        report_status(f"starting the captioner: loading {name}")
        self._engine = LLMEngine.from_engine_args(EngineArgs(**arguments))
        # On the CPU it warns of every change of the thread number, of which vLLM's own renderer makes two a
        # request. Making an engine resets vLLM's loggers, so this comes after.
        logging.getLogger("vllm.v1.worker.cpu_worker").setLevel(logging.ERROR)
        model_config = self._engine.vllm_config.model_config
        self._limit = self._engine.vllm_config.scheduler_config.max_num_seqs + _AHEAD
        self._template = _chat_template(self._engine, model, self._config)
        self._special_tokens = special_tokens(self._engine.get_tokenizer())
        self._number = 0
        commit = getattr(model_config.hf_config, "_commit_hash", None)
        return ModelInfo(name=name, revision=model_revision(model, commit))

    def _serve(self) -> None:
        while True:
            self._receive(block=not self._running and not self._outstanding)
            while self._outstanding and len(self._running) < self._limit:
                first = self._outstanding[0].prompt
                assert first is not None
                if self._running and not first.done():
                    break
                self._start(self._outstanding.popleft())
            if self._running:
                begun = time.monotonic()
                outputs = self._engine.step()
                report_tokens(busy_seconds=time.monotonic() - begun)
                for output in outputs:
                    if output.finished:
                        self._finish(output)

    def _receive(self, *, block: bool) -> None:
        """Take what callers have queued, and have its frames unpacked, a bounded number ahead."""
        while len(self._outstanding) < _AHEAD:
            try:
                job = self._inbox.get(block=block)
            except queue.Empty:
                return
            block = False
            job.prompt = self._pool.submit(self._prompt, job.question, job.answer)
            self._outstanding.append(job)

    def _prompt(self, question: Question, answer: str) -> dict[str, Any]:
        text = self._template(
            messages(
                question.prompt_id,
                special_tokens=self._special_tokens,
                with_media=bool(question.media),
                **question.slots,
            )
        )
        return {"prompt": text + answer, **multi_modal(question)}

    def _start(self, job: _Job) -> None:
        from vllm.exceptions import VLLMClientError

        assert job.prompt is not None
        try:
            prompt = job.prompt.result()
        except Exception as error:  # noqa: BLE001 - an error in this row's bytes, not in the engine
            job.future.set_exception(error)
            return
        self._number += 1
        request = str(self._number)
        try:
            (rendered,) = self._engine.renderer.render_cmpl([prompt])
            self._engine.add_request(request, rendered, _sampling_params(job))
        except (VLLMClientError, ValueError) as error:  # e.g. a prompt longer than the model's context
            if job.sampling is None:
                job.future.set_exception(Refused(str(error)))
            else:
                job.future.set_result(Completion(str(error), "refused"))
            return
        self._running[request] = job

    def _finish(self, output: Any) -> None:
        job = self._running.pop(output.request_id)
        (completion,) = output.outputs
        report_tokens(prompt=len(output.prompt_token_ids), output=len(completion.token_ids))
        if completion.finish_reason not in ("stop", "length"):
            raise RuntimeError(f"request ended with finish_reason={completion.finish_reason!r}")
        if job.sampling is None:
            tokens = [  # the first token of a prompt has no probability
                ScoredToken(token.decoded_token or "", token.logprob)
                for position in output.prompt_logprobs[1:]
                for token in position.values()
            ]
            job.future.set_result(last_tokens(tokens, len(job.answer)))
        else:
            job.future.set_result(Completion(completion.text, completion.finish_reason))

    def _fail(self, broken: BrokenWorker, cause: Exception) -> None:
        broken.__cause__ = cause
        self._broken = broken
        jobs = [*self._running.values(), *self._outstanding]
        while not self._inbox.empty():
            jobs.append(self._inbox.get())
        for job in jobs:
            job.future.set_exception(broken)


def engine_arguments(config: CaptionerConfig, model: str, *, seed: int, on_cpu: bool) -> dict[str, Any]:
    """Return the arguments of vLLM's EngineArgs: our defaults, overridden by the config."""
    arguments: dict[str, Any] = {
        "model": model,
        "revision": config.revision,
        "tensor_parallel_size": config.tensor_parallel_size,
        "seed": seed,
        "max_num_seqs": _MAX_NUM_SEQS,
        "limit_mm_per_prompt": {"image": 1, "video": 2},
        "disable_log_stats": True,
    }
    if config.tensor_parallel_size > 1:
        # The actor already holds its GPUs; by default vLLM would request them from Ray again.
        arguments["distributed_executor_backend"] = "mp"
    if on_cpu:
        # vLLM 0.32 on CPU: without a size the KV cache takes nearly all memory of the machine; and a seeded
        # request whose prompt is processed in two parts crashes the engine ("CPU Generator does not use
        # offset"), so prompts are processed whole.
        length = config.engine_args.get("max_model_len") or 0
        arguments |= {
            "enable_chunked_prefill": False,
            "max_num_batched_tokens": max(_CPU_BATCHED_TOKENS, length),
        }
        if "VLLM_CPU_KVCACHE_SPACE" not in os.environ:
            arguments["kv_cache_memory_bytes"] = CPU_KV_CACHE_BYTES
    return arguments | dict(config.engine_args)


def _environment(config: CaptionerConfig, threads: int) -> bool:
    """Set vLLM's environment variables before it is imported; return whether it runs on the CPU."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ["OMP_NUM_THREADS"] = str(threads)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads starve other actors
    from vllm.platforms import current_platform

    on_cpu = bool(current_platform.is_cpu())
    if on_cpu and config.tensor_parallel_size == 1:
        # In this process: starts 10 s sooner, and dies with the actor.
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    return on_cpu


def special_tokens(tokenizer: Any) -> frozenset[str]:
    """Return the strings that a tokenizer reads as special tokens anywhere in a text."""
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    return frozenset(tokenizer.all_special_tokens) | {token.content for token in added if token.special}


def _chat_template(engine: Any, model: str, config: CaptionerConfig) -> Any:
    """The model's own chat template as a function of messages."""
    tokenizer = engine.get_tokenizer()
    if getattr(tokenizer, "chat_template", None) is None:
        from transformers import AutoProcessor

        tokenizer = AutoProcessor.from_pretrained(
            model,
            revision=config.revision,
            trust_remote_code=config.engine_args.get("trust_remote_code", False),
        )

    return partial(tokenizer.apply_chat_template, tokenize=False, add_generation_prompt=True)


def _sampling_params(job: _Job) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

    sampling = job.sampling
    if sampling is None:
        return SamplingParams(
            temperature=0.0, max_tokens=1, prompt_logprobs=0, output_kind=RequestOutputKind.FINAL_ONLY
        )
    return SamplingParams(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        max_tokens=sampling.max_tokens,
        seed=sampling.seed,
        structured_outputs=StructuredOutputsParams(
            regex=json_regex(load_prompt(job.question.prompt_id).json_schema)
        ),
        output_kind=RequestOutputKind.FINAL_ONLY,
    )
