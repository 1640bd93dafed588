"""Count the tokens that the engines of a stage's workers process, and the time in which they work.

    report_tokens(prompt=1200, output=300, busy_seconds=0.4)     # in a worker, from any thread

Outside a stage this does nothing. Totals are sent to the driver twice a second at most, and at the end of
each batch. The progress, run.json, the report and Ray's metrics show them.
"""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

_SECONDS = 0.5


@dataclass(frozen=True, kw_only=True)
class TokenCounts:
    """Tokens of one or more workers: of prompts, and of output.

    busy_seconds: in which their engines worked. seconds: since they began, in total over the workers.
    """

    prompt: int = 0
    output: int = 0
    busy_seconds: float = 0.0
    seconds: float = 0.0
    workers: int = 0

    def __add__(self, other: "TokenCounts") -> "TokenCounts":
        """Return the counts of both, which are of different workers."""
        sums = {item.name: getattr(self, item.name) + getattr(other, item.name) for item in fields(self)}
        return TokenCounts(**sums)

    @property
    def busy(self) -> float:
        """The share of the time in which the engines worked, from 0 to 1."""
        return min(1.0, self.busy_seconds / self.seconds) if self.seconds else 0.0

    @property
    def per_second(self) -> tuple[float, float]:
        """Tokens of prompts and of output per second, of all workers together."""
        seconds = self.seconds / self.workers if self.workers else 0.0
        return (self.prompt / seconds, self.output / seconds) if seconds else (0.0, 0.0)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for run.json."""
        prompt, output = self.per_second
        return {
            "prompt": self.prompt,
            "output": self.output,
            "prompt_per_second": round(prompt, 1),
            "output_per_second": round(output, 1),
            "busy": round(self.busy, 4),
        }


def tokens_text(tokens: Mapping[str, Any]) -> str:
    """Return a dictionary of `TokenCounts.to_dict` as text."""
    return (
        f"{tokens['prompt_per_second']:,.0f} prompt and {tokens['output_per_second']:,.0f} output tokens/s, "
        f"{tokens['busy']:.0%} busy"
    )


class TokenMeter:
    """Adds up what one process reports. send: gets the totals, and what is new since the last call."""

    def __init__(self, send: Callable[[TokenCounts, TokenCounts], object]) -> None:
        self._send = send
        self._lock = threading.Lock()
        self._prompt, self._output, self._busy = 0, 0, 0.0
        self._since = 0.0  # when the first work began, by the monotonic clock
        self._sent, self._sent_at = TokenCounts(), 0.0

    def add(self, prompt: int, output: int, busy_seconds: float) -> None:
        """Count tokens, and time in which the engine worked until now."""
        with self._lock:
            now = time.monotonic()
            self._since = self._since or now - busy_seconds
            self._prompt, self._output = self._prompt + prompt, self._output + output
            self._busy += busy_seconds
            if now - self._sent_at >= _SECONDS:
                self._flush(now)

    def flush(self) -> None:
        """Send the totals if there is anything to send."""
        with self._lock:
            if self._since:
                self._flush(time.monotonic())

    def _flush(self, now: float) -> None:
        total = TokenCounts(
            prompt=self._prompt,
            output=self._output,
            busy_seconds=self._busy,
            seconds=now - self._since,
            workers=1,
        )
        last, self._sent, self._sent_at = self._sent, total, now
        new = TokenCounts(
            prompt=total.prompt - last.prompt,
            output=total.output - last.output,
            busy_seconds=total.busy_seconds - last.busy_seconds,
        )
        self._send(total, new)


_meter: TokenMeter | None = None  # of this process: each worker has its own


def report_tokens(*, prompt: int = 0, output: int = 0, busy_seconds: float = 0.0) -> None:
    """Count tokens that an engine has processed, and the seconds in which it worked. Callable from any thread."""
    if _meter is not None:
        _meter.add(prompt, output, busy_seconds)


def send_tokens_with(send: Callable[[TokenCounts, TokenCounts], object]) -> TokenMeter:
    """Pass the counts of this process to `send` from now on; see `TokenMeter`."""
    global _meter
    _meter = TokenMeter(send)
    return _meter
