"""Workers for the stage tests, importable by Ray's processes, and a driver for the tests to kill.

python stage_workers.py FOLDER N COMMIT_SECONDS     runs the worker `Slow` over N rows
"""

import logging
import os
import signal
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa

from gve_ray.stage import (
    REJECT_SCHEMA,
    BrokenWorker,
    Reject,
    StageError,
    StageResources,
    Undone,
    report_status,
    report_tokens,
    row_finished,
    run_stage,
)
from gve_ray.store import Store

log = logging.getLogger(__name__)

SCHEMA = pa.schema([("video_id", pa.string()), ("square", pa.int64())])
Row = dict[str, Any]


def stores(folder: Path) -> tuple[Store, Store]:
    return Store(str(folder / "out.lance"), SCHEMA), Store(str(folder / "rejects.lance"), REJECT_SCHEMA)


def pending(n: int) -> pa.Table:
    return pa.table({"video_id": [f"v{i:04d}" for i in range(n)], "n": list(range(n))})


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Squares:
    """Squares n and rejects multiples of ten; each process appends the rows it sees to a file."""

    def __init__(self, folder: str = "") -> None:
        self.folder = Path(folder) if folder else None

    def __call__(self, rows: Sequence[Row]) -> list[Row | Reject]:
        if self.folder:
            with open(self.folder / f"seen-{os.getpid()}.txt", "a") as file:
                file.writelines(f"{row['video_id']}\n" for row in rows)
        return [self.square(row) for row in rows]

    def square(self, row: Row) -> Row | Reject:
        if row["n"] % 10 == 0:
            return Reject("ten", f"n is {row['n']}", {"n": row["n"]})
        return {"video_id": row["video_id"], "square": row["n"] ** 2}

    def first_time(self, row: Row) -> bool:
        assert self.folder is not None
        try:
            (self.folder / f"once-{row['video_id']}").touch(exist_ok=False)
        except FileExistsError:
            return False
        return True


class LeavesOdd(Squares):
    """Leaves odd numbers undone while the file wait.txt exists."""

    def __call__(self, rows: Sequence[Row]) -> list[Row | Reject | Undone]:
        assert self.folder is not None
        leaves = (self.folder / "wait.txt").exists()
        results: list[Row | Reject | Undone] = list(super().__call__(rows))
        return [
            Undone("until wait.txt is gone") if leaves and row["n"] % 2 else result
            for row, result in zip(rows, results, strict=True)
        ]


class Chatty(Squares):
    """Says what it does, prints as libraries do, and reports its rows one by one.

    hold: a file without which the second half of the rows is not finished. fail: a message.
    """

    def __init__(self, hold: str, fail: str = "") -> None:
        super().__init__()
        self.hold, self.fail = Path(hold), fail
        report_status("loading squares")
        warnings.warn("old name", FutureWarning, stacklevel=1)
        print("a line of a library")
        logging.getLogger("gve_ray.squares").warning("only 2 of 3 sides are square")

    def __call__(self, rows: Sequence[Row]) -> list[Row | Reject]:
        results = []
        for row in rows:
            while len(results) == len(rows) // 2 and not self.hold.exists():
                time.sleep(0.05)
            if self.fail:
                print("the last line of a library", file=sys.stderr)
                raise StageError(self.fail)
            results.append(self.square(row))
            row_finished()
        return results


class Troubled(Squares):
    """Fails in every way a row can fail, depending on n modulo 100."""

    def square(self, row: Row) -> Row | Reject:
        kind = row["n"] % 100
        if kind in (13, 14):
            die()  # every time; two such rows are in one batch
        if kind == 31 and self.first_time(row):
            die()
        if kind == 42:
            raise ValueError(f"no square of {row['n']}")
        if kind == 57 and self.first_time(row):
            raise OSError("the disk was unavailable")
        if kind == 77 and self.first_time(row):
            raise BrokenWorker("engine dead")
        return super().square(row)


class KillsTheReader(Squares):
    """Kills the process that reads batches from the queue, once, in the middle of the rows."""

    def square(self, row: Row) -> Row | Reject:
        if row["n"] == 19 and self.first_time(row):
            siblings = psutil.Process(os.getppid()).children()  # of the raylet
            readers = [process for process in siblings if "Read" in process.cmdline()[0]]
            for process in readers:
                process.kill()
            assert self.folder is not None
            (self.folder / "killed").write_text(str(len(readers)))
        return super().square(row)


class KillsTheTracker(Squares):
    """Kills the process that tracks the rows, in the middle of them, if a file does not exist yet."""

    def square(self, row: Row) -> Row | Reject:
        assert self.folder is not None
        if row["n"] == 19 and not (self.folder / "killed").exists():
            (self.folder / "killed").touch()
            for process in psutil.Process(os.getppid()).children():  # of the raylet
                if "_Holder" in process.cmdline()[0]:
                    process.kill()
        return super().square(row)


class Logging(Squares):
    """Logs each batch, and reports a token of output and two of a prompt per row; row 7 raises."""

    def __call__(self, rows: Sequence[Row]) -> list[Row | Reject]:
        report_tokens(prompt=2 * len(rows), output=len(rows), busy_seconds=0.01)
        log.info("%d rows from %s", len(rows), rows[0]["video_id"])
        return super().__call__(rows)

    def square(self, row: Row) -> Row | Reject:
        if row["n"] == 7:
            raise ValueError("seven")
        return super().square(row)


class LoggingAndDying(Logging):
    """Like `Logging`, and the first try of row 3 kills its process."""

    def square(self, row: Row) -> Row | Reject:
        if row["n"] == 3 and self.first_time(row):
            die()
        return super().square(row)


class OneKiller(Squares):
    """Row 5 kills the process while another call runs in it."""

    def square(self, row: Row) -> Row | Reject:
        time.sleep(0.2)
        if row["n"] == 5:
            die()
        return super().square(row)


class Hungry(Squares):
    """Takes memory until it is ended when it gets more than two rows at once, and always for row 37.

    folder: gets a file per process with the numbers of rows, and what the stage logs. group: a control group that
    the process joins, unless empty.
    """

    def __init__(self, folder: str, group: str = "") -> None:
        super().__init__(folder)
        if group:
            (Path(group) / "cgroup.procs").write_text(str(os.getpid()))
        logging.getLogger("gve_ray.stage").addHandler(logging.FileHandler(Path(folder) / "stage.log"))
        self._sizes = Path(folder) / f"sizes-{time.monotonic():.3f}.txt"

    def __call__(self, rows: Sequence[Row]) -> list[Row | Reject]:
        with self._sizes.open("a") as file:
            file.write(f"{len(rows)} ")
        if len(rows) > 2 or any(row["n"] == 37 for row in rows):
            taken = []
            while len(taken) < 4096:
                taken.append(os.urandom(2**20) * 4)
            raise AssertionError(f"{len(taken) * 4} MB did not end this process")
        return super().__call__(rows)


class Unstartable:
    def __init__(self) -> None:
        raise FileNotFoundError("model 'nowhere/to-be-found': no such folder")


class DiesAtStart:
    def __init__(self) -> None:
        die()


class AlwaysRaises(Squares):
    def square(self, row: Row) -> Row | Reject:
        raise RuntimeError("CUDA is gone")


class TooFew(Squares):
    def __call__(self, rows: Sequence[Row]) -> list[Row | Reject]:
        return super().__call__(rows)[1:]


class Slow(Squares):
    def square(self, row: Row) -> Row | Reject:
        time.sleep(0.05)
        return super().square(row)


def main(folder: Path, n: int, commit_seconds: float) -> None:
    import ray

    ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR")
    out, rejects = stores(folder)
    run_stage(
        "squares",
        pending=pending(n),
        worker=Slow,
        worker_args={"folder": str(folder)},
        out=out,
        rejects=rejects,
        resources=StageResources(actors=2, num_cpus=0.5, batch_size=4),
        commit_seconds=commit_seconds,
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
