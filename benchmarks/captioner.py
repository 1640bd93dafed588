"""How fast does the captioner write, compared with plain vLLM, and behind vLLM's own server?

    python benchmarks/captioner.py [--videos 32] [--rounds 3] [--threads 2] [--server]

Prints JSON. The tiny captioner answers prompt 1 about rendered scenes, at temperature 0. `vllm.LLM` gets the same
prompts, with the same sampling parameters and engine arguments, as one list, like `vllm bench throughput`; our
generator gets the same questions one by one, unpacks their frames and builds their prompts itself. Both have
their own engine in this process, and rounds are interleaved. `ratio` is our rate of output tokens divided by
that of `vllm.LLM`. `same_texts` says whether both gave the same answers. With --server, the
same questions go to vLLM's OpenAI-compatible server on this machine as well, by the engine openai.
"""

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from audit import ENGINE, SEED, asset_rows

from gve_ray.demo.tiny_vl import MODEL
from gve_ray.stage.tokens import TokenCounts, send_tokens_with
from gve_ray.synthesis.captioner import Generator, Question, Sampling
from gve_ray.synthesis.config import CaptionerConfig
from gve_ray.synthesis.endpoint_captioner import EndpointGenerator
from gve_ray.synthesis.prompts import load_prompt, messages
from gve_ray.synthesis.questions import caption_question
from gve_ray.synthesis.spending import Usage
from gve_ray.synthesis.vllm_captioner import VllmGenerator, engine_arguments, json_regex, multi_modal

SAMPLING = Sampling(seed=SEED, temperature=0.0, top_p=0.9, max_tokens=1024)


@dataclass(frozen=True)
class Round:
    """One run over all questions."""

    seconds: float
    output_tokens: int
    texts: list[str]

    @property
    def rate(self) -> float:
        """Output tokens per second."""
        return self.output_tokens / self.seconds


class NoLedger:
    """Counts nothing: `report_tokens` does."""

    def add(self, prompt_tokens: int, output_tokens: int) -> None:
        """See `spending.Ledger`."""

    def usage(self) -> Usage:
        """See `spending.Ledger`."""
        return Usage()


class Plain:
    """`vllm.LLM` with the engine arguments of the captioner."""

    def __init__(self, config: CaptionerConfig, questions: Sequence[Question]) -> None:
        from vllm import LLM, SamplingParams
        from vllm.sampling_params import StructuredOutputsParams

        self._llm = LLM(**engine_arguments(config, str(MODEL), seed=SEED, on_cpu=True))
        tokenizer = self._llm.get_tokenizer()
        self._prompts = [
            {
                "prompt": tokenizer.apply_chat_template(
                    messages(question.prompt_id, with_media=True, **question.slots),
                    tokenize=False,
                    add_generation_prompt=True,
                ),
                **multi_modal(question),
            }
            for question in questions
        ]
        regex = json_regex(load_prompt("video_captions").json_schema)
        self._sampling = SamplingParams(
            temperature=SAMPLING.temperature,
            top_p=SAMPLING.top_p,
            max_tokens=SAMPLING.max_tokens,
            seed=SAMPLING.seed,
            structured_outputs=StructuredOutputsParams(regex=regex),
        )

    def run(self) -> Round:
        """Answer all prompts."""
        begun = time.perf_counter()
        outputs = self._llm.generate(self._prompts, self._sampling, use_tqdm=False)
        seconds = time.perf_counter() - begun
        texts = [output.outputs[0] for output in outputs]
        return Round(seconds, sum(len(text.token_ids) for text in texts), [text.text for text in texts])


class Ours:
    """A generator, whose tokens are those that it reports."""

    def __init__(self, generator: Generator, questions: Sequence[Question]) -> None:
        self._generator, self._questions = generator, questions
        self.busy: list[float] = []

    def run(self) -> Round:
        """Answer all questions."""
        totals: list[TokenCounts] = []
        meter = send_tokens_with(lambda total, new: totals.append(total))
        begun = time.perf_counter()
        futures = [self._generator.submit(question, SAMPLING) for question in self._questions]
        wait(futures)
        seconds = time.perf_counter() - begun
        meter.flush()
        self.busy.append(totals[-1].busy_seconds / seconds)
        return Round(seconds, totals[-1].output, [future.result().text for future in futures])


@contextmanager
def server() -> Iterator[str]:
    """Run vLLM's server with the tiny captioner; yields its URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = [
        "--enforce-eager", "--dtype", "float32", "--max-model-len", "2048", "--no-enable-chunked-prefill",
        "--max-num-batched-tokens", "8192", "--served-model-name", "tiny", "--trust-request-mm-kwargs",
        "--max-num-seqs", "128",
    ]  # fmt: skip
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(MODEL)]
    process = subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--port", str(port), *options],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        env={**os.environ, "VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_KVCACHE_SPACE": "1"},
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}/v1"
    try:
        while not _answers(f"{url}/models"):
            if process.poll() is not None:
                raise RuntimeError(f"vLLM's server ended with status {process.returncode}")
            time.sleep(1.0)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=5).close()
    except OSError:
        return False
    return True


def main() -> None:
    """Measure and print the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--concurrency", type=int, default=16, help="requests to the server at the same time")
    parser.add_argument("--server", action="store_true")
    args = parser.parse_args()
    os.environ["VLLM_LOGGING_LEVEL"] = "ERROR"  # it logs to the output
    with tempfile.TemporaryDirectory() as folder:
        rows = asset_rows(1, args.videos, Path(folder))
    questions = [caption_question(row, SEED) for _, row in rows]
    config = CaptionerConfig(model=str(MODEL), engine_args=ENGINE, temperature=0.0)
    # Ours is first, because it sets the environment of both engines.
    ways: dict[str, Any] = {"captioner": Ours(VllmGenerator(config, threads=args.threads), questions)}
    ways["vllm.LLM"] = Plain(config, questions)
    rounds = measure(ways, args.rounds)
    ratios = [
        ours.rate / plain.rate for ours, plain in zip(rounds["captioner"], rounds["vllm.LLM"], strict=True)
    ]
    result: dict[str, Any] = {
        "videos": args.videos,
        "threads": args.threads,
        "output_tokens_per_second": median_rates(rounds),
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in ratios],
        "busy": round(statistics.median(ways["captioner"].busy), 3),
        "same_texts": rounds["captioner"][0].texts == rounds["vllm.LLM"][0].texts,
    }
    if args.server:
        with server() as url:
            behind = CaptionerConfig(
                model="tiny", engine="openai", url=url, temperature=0.0, concurrency=args.concurrency
            )
            there = Ours(EndpointGenerator(behind, ledger=NoLedger()), questions)
            both = measure({"vllm": ways["captioner"], "openai": there}, args.rounds)
        result["engines"] = median_rates(both)
        result["same_texts_of_server"] = both["vllm"][0].texts == both["openai"][0].texts
    print(json.dumps(result, indent=1))


def median_rates(rounds: dict[str, list[Round]]) -> dict[str, float]:
    """Return the median rate of each way, in output tokens per second."""
    return {name: round(statistics.median(one.rate for one in some), 1) for name, some in rounds.items()}


def measure(ways: dict[str, Any], rounds: int) -> dict[str, list[Round]]:
    """Run all ways in turn, after one round each that is not counted."""
    results: dict[str, list[Round]] = {name: [] for name in ways}
    for i in range(rounds + 1):
        for name, way in ways.items():
            measured = way.run()
            if i:
                results[name].append(measured)
    return results


if __name__ == "__main__":
    main()
