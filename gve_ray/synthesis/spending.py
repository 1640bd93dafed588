"""Count the tokens of a captioner behind an endpoint, over all actors and all runs of an output folder.

    ledger = start_ledger(output)     # in the driver
    ledger.add(1200, 300)             # in any actor, after each answer
    ledger.usage().prompt_tokens

One small Ray actor on the driver's node counts, so that the limit `captioner.max_cost` holds for all actors
together. It writes `spending.json` into the output folder every few seconds, apart from the rows: an
answer costs money whether or not the row that it belongs to is committed. If the driver's node dies, the
answers of the last seconds are not counted.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from pyarrow import fs

from gve_ray.stage import StageError
from gve_ray.stage.shared import on_this_node
from gve_ray.store.runfolder import filesystem, write_atomically
from gve_ray.synthesis.captioner import Stopped

SPENDING_FILE = "spending.json"
_SAVE_SECONDS = 5.0
_MAX_RESTARTS = 3


@dataclass(frozen=True)
class Usage:
    """Answers of an endpoint, and the tokens that they took, as the endpoint counts them."""

    answers: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0


class Ledger(Protocol):
    """Counts the tokens of all actors."""

    def add(self, prompt_tokens: int, output_tokens: int) -> None:
        """Count one answer."""
        ...

    def usage(self) -> Usage:
        """Return all that has been counted in this output folder."""
        ...


class FileLedger:
    """A `Ledger` for one thread, which continues from spending.json in `output`, and keeps it up to date."""

    def __init__(self, output: str) -> None:
        self._output = output
        self._usage = read_usage(output)
        self._saved, self._saved_at = self._usage, time.monotonic()

    def add(self, prompt_tokens: int, output_tokens: int) -> None:
        """See `Ledger`."""
        now = self._usage
        self._usage = Usage(
            now.answers + 1, now.prompt_tokens + prompt_tokens, now.output_tokens + output_tokens
        )
        if time.monotonic() - self._saved_at >= _SAVE_SECONDS:
            self.save()

    def usage(self) -> Usage:
        """See `Ledger`."""
        return self._usage

    def save(self) -> Usage:
        """Write spending.json if something is new, and return its content."""
        if self._usage != self._saved:
            files, root = filesystem(self._output)
            write_atomically(files, f"{root}/{SPENDING_FILE}", json.dumps(asdict(self._usage)).encode())
            self._saved = self._usage
        self._saved_at = time.monotonic()
        return self._usage


class SharedLedger:
    """A `Ledger` for all processes of a cluster; may be sent to actors.

    actor: a handle of a Ray actor of `FileLedger`.
    """

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def add(self, prompt_tokens: int, output_tokens: int) -> None:
        """See `Ledger`."""
        self._get(self._actor.add.remote(prompt_tokens, output_tokens))

    def usage(self) -> Usage:
        """See `Ledger`."""
        usage: Usage = self._get(self._actor.usage.remote())
        return usage

    def _get(self, reference: Any) -> Any:
        """Return a result of the actor. Raises Stopped without one: no answer must stay uncounted."""
        import ray

        try:
            return ray.get(reference)
        except ray.exceptions.RayError as error:
            raise Stopped(f"the process that counts the captioner's tokens has died ({error})") from error

    def close(self) -> Usage:
        """Write spending.json, end the actor, and return all that was counted."""
        import ray

        usage: Usage = ray.get(self._actor.save.remote())
        ray.kill(self._actor)
        return usage


def spending_text(spending: Mapping[str, Any]) -> str:
    """Return what run.json has under `spending` as text: answers, tokens, and the cost if it is known."""
    cost = "" if spending["cost"] is None else f", cost {spending['cost']:,.2f}"
    tokens = f"{spending['prompt_tokens']:,} and {spending['output_tokens']:,} tokens"
    return f"{spending['answers']:,} answers, {tokens} of prompts and output{cost}"


def start_ledger(output: str) -> SharedLedger:
    """Start the ledger of an output folder on this node; it reserves no CPU.

    Raises StageError if spending.json cannot be read.
    """
    import ray

    read_usage(output)  # here, because an error in an actor's constructor would not be seen
    actor = ray.remote(FileLedger).options(
        num_cpus=0, max_restarts=_MAX_RESTARTS, max_task_retries=_MAX_RESTARTS, **on_this_node()
    )
    return SharedLedger(actor.remote(output))


def read_usage(output: str) -> Usage:
    """Return what the runs in an output folder have used so far.

    Raises StageError if spending.json is not what a ledger writes.
    """
    files, root = filesystem(output)
    path = f"{root}/{SPENDING_FILE}"
    if files.get_file_info(path).type != fs.FileType.File:
        return Usage()
    with files.open_input_stream(path) as stream:
        text = stream.read()
    try:
        return Usage(**json.loads(text))
    except (TypeError, ValueError) as error:
        raise StageError(f"{output}/{SPENDING_FILE}: not what a run writes ({error}); restore it") from error
