"""Tests the stage engine, in particular failures of rows, workers and the driver."""

import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pytest

from gve_ray.progress import ProgressState, shown_by
from gve_ray.stage import (
    REJECT_SCHEMA,
    Reject,
    StageCounts,
    StageError,
    StageResources,
    StageRunner,
    run_stage,
)
from gve_ray.stage.committer import Committer
from gve_ray.stage.in_flight import Activity, InFlightRows
from gve_ray.stage.memory import WorkerProcess
from gve_ray.stage.metrics import StageMetrics
from gve_ray.stage.pool import BatchQueue
from gve_ray.stage.shared import ClosedError, share
from gve_ray.stage.worker import _IsolationLock, check_result, to_table
from gve_ray.store import Store

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import stage_workers as workers  # noqa: E402

# Ray starts many processes, which takes long on a busy machine.
pytestmark = pytest.mark.timeout(600)


def run(folder: Path, worker: type, n: int = 40, **changes: Any) -> StageCounts:
    out, rejects = workers.stores(folder)
    options: dict[str, Any] = {"actors": 1, "num_cpus": 0.5, "batch_size": 8, **changes.pop("resources", {})}
    arguments: dict[str, Any] = {
        "pending": workers.pending(n),
        "worker_args": {"folder": str(folder)} if issubclass(worker, workers.Squares) else {},
        "out": out,
        "rejects": rejects,
        "resources": StageResources(**options),
        **changes,
    }
    return run_stage("squares", worker=worker, **arguments)


def outcome(folder: Path) -> tuple[dict[str, int], dict[str, str]]:
    """Return the square by id and the reject reason by id; check that no id occurs twice."""
    out, rejects = workers.stores(folder)
    good, bad = out.table().to_pylist(), rejects.table().to_pylist()
    ids = [row["video_id"] for row in [*good, *bad]]
    assert len(ids) == len(set(ids)), [key for key, count in Counter(ids).items() if count > 1]
    return {row["video_id"]: row["square"] for row in good}, {row["video_id"]: row["reason"] for row in bad}


def times_processed(folder: Path) -> Counter[str]:
    return Counter(line for file in folder.glob("seen-*.txt") for line in file.read_text().split())


def squares(n: int) -> dict[str, int]:
    return {f"v{i:04d}": i * i for i in range(n) if i % 10}


def rejected_tens(n: int) -> dict[str, str]:
    return {f"v{i:04d}": "ten" for i in range(0, n, 10)}


# ---- Stages on Ray


def test_the_output_of_a_job(cluster: None, tmp_path: Path) -> None:
    """A quiet job, one whose worker fails, and a verbose one, as a user sees them in a file."""
    import ray

    address = ray.get_runtime_context().gcs_address
    done = subprocess.run(
        [sys.executable, str(HERE / "quiet_jobs.py"), address, str(tmp_path)],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent)]),
            "RAY_DEDUP_LOGS": "0",
        },
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    quiet, failing, verbose = (part.splitlines() for part in done.stdout.split("====\n"))

    def log_of(lines: list[str]) -> str:
        (path,) = (line.removeprefix("log  ") for line in lines if line.startswith("log  "))
        return Path(path).read_text()

    head, *middle, last = quiet
    assert head.startswith(f"log  {tmp_path}/quiet/logs/")
    assert last == "16 squares"
    assert [line for line in middle if not re.match(r"\d\d:\d\d:\d\d squares: ", line)] == [
        "warning: only 2 of 3 sides are square"
    ]
    # The worker waits in the middle of its first batch of 8 until the driver has reported this.
    news = [line.partition("squares: ")[2] for line in middle if "squares: " in line]
    assert any(line.startswith("4/16 rows") for line in news), news
    assert len(set(news)) == len(news)
    assert re.match(r"16/16 rows in .*, 2 rejected$", news[-1]), news
    log = log_of(quiet)
    for part in ("FutureWarning: old name", "a line of a library", "squares: 16/16", "pid="):
        assert part in log
    assert "error: stage squares: too many sides" in failing
    assert "  the last line of a library" in failing
    assert any(line.startswith("  ") and line.endswith("StageError: too many sides") for line in failing)
    assert f"log    {tmp_path}/failing/logs/" in "\n".join(failing)
    assert len(failing) < 30
    assert not any("(pid=" in line or "FutureWarning" in line for line in quiet)
    assert any("pid=" in line and "a line of a library" in line for line in verbose)
    assert "16 squares" in verbose


def test_each_row_is_output_or_rejected_and_a_second_run_processes_only_new_rows(
    cluster: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="gve_ray.progress"):
        counts = run(tmp_path, workers.Squares)
    assert (counts.n_in, counts.n_out, counts.n_rejected) == (40, 36, 4)
    assert outcome(tmp_path) == (squares(40), rejected_tens(40))
    reports = [record for record in caplog.records if record.name == "gve_ray.progress"]
    (last,) = reports[-1].args or ()
    assert isinstance(last, ProgressState)
    assert (last.done, last.total, last.detail, last.seconds_left) == (40, 40, "4 rejected", 0)
    reject = workers.stores(tmp_path)[1].table(filter="video_id = 'v0030'").to_pylist()
    assert reject == [
        {
            "video_id": "v0030",
            "stage": "squares",
            "unit": "video",
            "reason": "ten",
            "detail": "n is 30",
            "scores": '{"n": 30}',
            "attempts": 1,
        }
    ]
    counts = run(tmp_path, workers.Squares, n=50)
    assert (counts.n_in, counts.n_out, counts.n_rejected) == (50, 45, 5)
    assert outcome(tmp_path) == (squares(50), rejected_tens(50))
    assert set(times_processed(tmp_path).values()) == {1}
    again = run(tmp_path, workers.Unstartable, n=50)  # with nothing to do, no worker is started
    assert (again.n_in, again.n_out) == (50, 45)


def test_crashes_and_exceptions_affect_only_the_rows_that_cause_them(cluster: str, tmp_path: Path) -> None:
    counts = run(tmp_path, workers.Troubled, n=100, resources={"max_attempts": 1, "actors": 2})
    good, bad = outcome(tmp_path)
    assert bad == rejected_tens(100) | {"v0013": "quarantined", "v0014": "quarantined", "v0042": "error"}
    assert good == {key: square for key, square in squares(100).items() if key not in bad}
    assert counts.n_out + counts.n_rejected == 100
    rows = {row["video_id"]: row for row in workers.stores(tmp_path)[1].table().to_pylist()}
    assert rows["v0013"]["attempts"] == 1
    assert "no square of 42" in rows["v0042"]["detail"]
    times = times_processed(tmp_path)
    assert times["v0013"] == 2  # once with its batch, once alone
    # A row that succeeded in isolation is not run again when a later row of its batch kills the
    # worker.
    assert times["v0009"] == 2


@pytest.fixture
def control_group() -> Iterator[Path]:
    """Yield a control group whose processes may use 200 MB of memory together."""
    group = Path()
    for folder, limit in (
        ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
        ("/sys/fs/cgroup", "memory.max"),
    ):
        group = Path(folder) / f"gve-tests-{os.getpid()}"
        try:
            group.mkdir()
            (group / limit).write_text(str(200 * 2**20))
            break
        except OSError:
            if group.exists():
                group.rmdir()
    else:
        pytest.skip("this user cannot make a control group with a limit of memory")
    yield group
    for process in (group / "cgroup.procs").read_text().split():
        with suppress(psutil.NoSuchProcess):
            psutil.Process(int(process)).wait(60)
    group.rmdir()


def sizes(folder: Path) -> list[str]:
    """Return the numbers of rows that each process of the worker `Hungry` got at once."""
    return [file.read_text().strip() for file in sorted(folder.glob("sizes-*.txt"))]


@pytest.mark.slow
def test_a_worker_that_runs_out_of_memory_gets_fewer_rows_at_once(
    cluster: str, tmp_path: Path, control_group: Path
) -> None:
    """The kernel ends the worker with 8, 4 and, for row 37, with 2 and 1 rows at once."""
    arguments = {"folder": str(tmp_path), "group": str(control_group)}
    resources = {"max_attempts": 2}
    with pytest.raises(StageError, match=r"1 rows are not done: 'v0037': .*died 2 times.*no memory left"):
        run(tmp_path, workers.Hungry, worker_args=arguments, resources=resources)
    good, bad = outcome(tmp_path)
    assert good == {key: square for key, square in squares(40).items() if key != "v0037"}
    assert bad == rejected_tens(40)
    assert [max(map(int, rows.split())) for rows in sizes(tmp_path)] == [8, 4, 2, 1, 1, 1]
    log = (tmp_path / "stage.log").read_text().splitlines()
    no_memory = "in work ended, because its node had no memory left; trying"
    assert log == [
        f"squares: a worker with 8 rows {no_memory} them one by one, and later batches with 4 at once",
        f"squares: a worker with 4 rows {no_memory} them one by one, and later batches with 2 at once",
        f"squares: a worker with 2 rows {no_memory} them one by one, and later batches with 1 at once",
        f"squares: a worker with one row {no_memory} again",
        f"squares: a worker with one row {no_memory} again",
    ]
    assert run(tmp_path, workers.Squares).n_out == 36


@pytest.mark.slow
def test_with_concurrent_calls_only_the_row_that_kills_its_worker_is_quarantined(
    cluster: str, tmp_path: Path
) -> None:
    resources = {"concurrency": 3, "batch_size": 3, "max_attempts": 2}
    run(tmp_path, workers.OneKiller, n=18, resources=resources)
    good, bad = outcome(tmp_path)
    assert bad == rejected_tens(18) | {"v0005": "quarantined"}
    assert len(good) == 15
    assert times_processed(tmp_path)["v0005"] == 3  # once with its batch, twice alone


@pytest.mark.slow
def test_a_killed_reader_of_the_queue_starts_again(cluster: str, tmp_path: Path) -> None:
    """An open stage runs two parts on one actor; its reader is killed in the first one."""
    out, rejects = workers.stores(tmp_path)
    runner = StageRunner(
        "squares",
        worker=workers.KillsTheReader,
        worker_args={"folder": str(tmp_path)},
        out=out,
        rejects=rejects,
        resources=StageResources(actors=1, num_cpus=0.5, batch_size=1),
        is_open=True,
    )
    rows = workers.pending(40)
    with runner:
        parts = [runner.run(rows.slice(0, 30), part=0), runner.run(rows.slice(30), part=1)]
    assert (tmp_path / "killed").read_text() == "1"
    assert [(part.n_in, part.n_out, part.n_rejected) for part in parts] == [(30, 27, 3), (10, 9, 1)]
    assert len(list(tmp_path.glob("seen-*.txt"))) == 1  # one process
    assert outcome(tmp_path) == (squares(40), rejected_tens(40))
    assert set(times_processed(tmp_path).values()) == {1}


@pytest.mark.slow
def test_without_its_tracker_a_stage_fails_and_the_next_run_goes_on(cluster: str, tmp_path: Path) -> None:
    with pytest.raises(StageError, match="the process that tracks its rows has died"):
        run(tmp_path, workers.KillsTheTracker)
    assert run(tmp_path, workers.KillsTheTracker).n_out == 36
    assert outcome(tmp_path) == (squares(40), rejected_tens(40))


def test_calls_of_a_shared_object_end_when_it_is_closed(cluster: str) -> None:
    """Other objects in the same actor go on; if the actor is dead, the next object gets a new one."""
    import ray

    batches, other = share(BatchQueue), share(InFlightRows)
    waiting = batches.send("at", 0)
    batches.ask("add", 0, 1, [b"rows"])
    assert ray.get(waiting)["rows"] == b"rows"
    waiting = batches.send("at", 1)
    batches.close()
    with pytest.raises(ClosedError, match="while a call waited"):
        ray.get(waiting, timeout=60)
    with pytest.raises(ClosedError):
        batches.ask("at", 0)
    assert other.ask("begin", "actor", ["a", "b"]) == (0, {}, 2)
    with pytest.raises(AttributeError):
        other.ask("misspelt")
    ray.kill(other._actor)

    def ask_until_it_is_dead() -> None:
        while True:  # Ray does not wait until the actor has ended
            other.ask("activity")

    with pytest.raises(ray.exceptions.ActorDiedError):
        ask_until_it_is_dead()
    assert share(InFlightRows).ask("activity") == Activity()


def test_a_runner_that_keeps_its_actors_can_be_entered_again(cluster: str, tmp_path: Path) -> None:
    """Between the blocks, rows are deleted, which the next one does again, in the same process."""
    out, rejects = workers.stores(tmp_path)
    runner = StageRunner(
        "squares",
        worker=workers.Squares,
        worker_args={"folder": str(tmp_path)},
        out=out,
        rejects=rejects,
        resources=StageResources(actors=1, num_cpus=0.5, batch_size=8),
        keeps_actors=True,
    )
    try:
        for rows in (20, 40):
            with runner:
                counts = runner.run(workers.pending(rows))
            assert (counts.n_in, counts.n_rejected) == (rows, rows // 10)
            assert outcome(tmp_path) == (squares(rows), rejected_tens(rows))
            out.delete(["v0001"])
            rejects.delete(["v0010"])
    finally:
        runner.stop()
    assert len(list(tmp_path.glob("seen-*.txt"))) == 1
    assert times_processed(tmp_path) == Counter(f"v{i:04d}" for i in range(40)) + Counter(["v0001", "v0010"])


def test_undone_rows_are_left_to_the_next_run_and_the_others_are_committed(
    cluster: str, tmp_path: Path
) -> None:
    """The worker leaves the odd rows while a file exists. A tenth of the rows is rejected, as always."""
    (tmp_path / "wait.txt").touch()
    with pytest.raises(StageError, match=r"stage squares: 20 rows are not done: until wait.txt is gone"):
        run(tmp_path, workers.LeavesOdd)
    good, bad = outcome(tmp_path)
    assert good == {key: value for key, value in squares(40).items() if value % 2 == 0}
    assert bad == rejected_tens(40)
    (tmp_path / "wait.txt").unlink()
    assert run(tmp_path, workers.LeavesOdd).n_out == 36
    assert outcome(tmp_path) == (squares(40), rejected_tens(40))


@pytest.mark.parametrize(
    ("worker", "message"),
    [
        (workers.Unstartable, "cannot start: FileNotFoundError: model 'nowhere/to-be-found'"),
        pytest.param(workers.DiesAtStart, "died 3 times in a row while starting", marks=pytest.mark.slow),
        pytest.param(workers.TooFew, "TooFew returned 7 results for 8 rows", marks=pytest.mark.slow),
    ],
)
def test_a_broken_worker_fails_the_job_with_a_one_line_message(
    cluster: str, tmp_path: Path, worker: type, message: str
) -> None:
    with pytest.raises(StageError, match=message) as caught:
        run(tmp_path, worker, n=8)
    assert "\n" not in str(caught.value)
    assert "stage squares" in str(caught.value)
    assert outcome(tmp_path) == ({}, {})


@pytest.mark.slow
def test_a_worker_that_fails_on_everything_fails_the_job_and_rejects_nothing(
    cluster: str, tmp_path: Path
) -> None:
    with pytest.raises(StageError, match=r"16 rows in a row.*CUDA is gone"):
        run(tmp_path, workers.AlwaysRaises, resources={"max_errors_in_a_row": 16})
    assert outcome(tmp_path) == ({}, {})
    run(tmp_path, workers.Squares)  # with a working worker, nothing is missing
    assert outcome(tmp_path) == (squares(40), rejected_tens(40))


def test_pending_must_have_each_key_once(tmp_path: Path) -> None:
    repeated = pa.table({"video_id": ["a", "b", "a"], "n": [1, 2, 3]})
    with pytest.raises(ValueError, match=r"repeats \['a'\]"):
        run(tmp_path, workers.Squares, pending=repeated)
    with pytest.raises(ValueError, match="no key 'video_id'"):
        run(tmp_path, workers.Squares, pending=pa.table({"n": [1]}))


# ---- Killing the driver


def driver(folder: Path, commit_seconds: float) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(HERE / "stage_workers.py"), str(folder), "120", str(commit_seconds)]
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE.parent), *sys.path])}
    # In a new session, so that the test can kill the driver with all of its Ray processes.
    return subprocess.Popen(
        command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes], seconds: float = 300.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, f"the driver exited with {process.returncode} before it was killed"
        assert time.monotonic() < end, f"the condition did not become true within {seconds:g} s"
        time.sleep(0.02)


def kill(process: subprocess.Popen[bytes]) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def fragments(folder: Path) -> set[str]:
    data = folder / "out.lance" / "data"
    return set(os.listdir(data)) if data.exists() else set()


@pytest.mark.slow
def test_after_the_driver_is_killed_in_a_stage_no_row_is_lost_or_repeated(
    cluster: str, tmp_path: Path
) -> None:
    process = driver(tmp_path, 0.2)
    try:
        wait_for(lambda: workers.stores(tmp_path)[0].count() > 20, process)
    finally:
        kill(process)
    before = workers.stores(tmp_path)[0].keys()
    assert 20 < len(before) < 108
    counts = run(tmp_path, workers.Squares, n=120)
    assert (counts.n_in, counts.n_out, counts.n_rejected) == (120, 108, 12)
    assert outcome(tmp_path) == (squares(120), rejected_tens(120))
    assert all(times_processed(tmp_path)[key] == 1 for key in before)  # not processed again


@pytest.mark.slow
def test_a_driver_killed_between_write_and_commit_leaves_only_invisible_files(
    cluster: str, tmp_path: Path
) -> None:
    process = driver(tmp_path, 3600.0)
    try:
        wait_for(lambda: len(fragments(tmp_path)) >= 4, process)
    finally:
        kill(process)
    orphans = fragments(tmp_path)
    assert workers.stores(tmp_path)[0].count() == 0
    run(tmp_path, workers.Squares, n=120)
    assert outcome(tmp_path) == (squares(120), rejected_tens(120))
    assert not orphans & fragments(tmp_path)


# ---- Parts of the engine, without Ray


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ("nine", "W returned a str for row 'a'; return a dict or a Reject"),
        ({"video_id": "b", "square": 9}, "W returned video_id='b' for row 'a'"),
        ({"video_id": "a", "sqare": 9}, r"W returned columns \['sqare'\]"),
    ],
)
def test_a_result_that_breaks_the_contract_is_described(tmp_path: Path, result: Any, message: str) -> None:
    out, _ = workers.stores(tmp_path)
    check_result("W", out, {"video_id": "a", "n": 3}, {"video_id": "a", "square": 9})
    with pytest.raises(StageError, match=message):
        check_result("W", out, {"video_id": "a", "n": 3}, result)


def test_the_error_for_a_value_of_the_wrong_type_names_worker_and_store(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"^W: a value does not fit its column in .*out\.lance"):
        to_table("W", workers.stores(tmp_path)[0], [{"video_id": "a", "square": "nine"}])


def test_the_history_of_rows_in_flight_is_kept_until_their_batch_ends() -> None:
    rows = InFlightRows()
    assert rows.begin("x", ["a", "b"]) == (0, {}, 2)
    assert rows.begin("x", ["a", "b"]) == (1, {"a": (0, None), "b": (0, None)}, 1)
    rows.begin_isolated("a")
    rows.save("a", {"out": ["f"]})
    rows.begin_isolated("b")
    assert rows.begin("x", ["a", "b"]) == (2, {"a": (1, {"out": ["f"]}), "b": (1, None)}, 1)
    assert rows.begin("x", ["c"]) == (0, {}, 1)
    rows.end(["a", "b"], errors=0)
    assert rows.begin("x", ["a", "b"]) == (0, {}, 2)


def test_a_stage_remembers_how_many_rows_were_too_many() -> None:
    rows = InFlightRows()
    assert rows.begin("x", list("abcdefgh"))[2] == 8
    assert rows.begin("y", list("ijklm"))[2] == 5
    assert rows.ran_out_of_memory("x") == (8, 4)
    assert rows.ran_out_of_memory("x") is None
    assert rows.begin("x", list("nopqr"))[2] == 4
    assert rows.ran_out_of_memory("y") == (5, 2)
    assert rows.begin("y", list("ijklm"))[2] == 1
    assert rows.ran_out_of_memory("y") == (1, 1)


def test_consecutive_errors_are_counted_across_batches_until_a_row_succeeds() -> None:
    rows = InFlightRows()
    assert [rows.end(["a", "b"], 2), rows.end(["c"], 1), rows.end(["d", "e"], 1)] == [2, 3, 0]


def test_unfinished_starts_are_counted_per_actor() -> None:
    rows = InFlightRows()
    one, two, three, four = (WorkerProcess(id=i, node="n", log="", kernel_kills=0) for i in "1234")
    assert [rows.starting("x", one), rows.starting("y", two), rows.starting("x", three)] == [
        (0, None),
        (0, None),
        (1, one),
    ]
    rows.started("x")
    assert rows.starting("x", four) == (0, three)
    assert rows.activity().workers == 1


def test_an_isolated_batch_waits_for_running_calls_and_blocks_new_ones() -> None:
    lock, order = _IsolationLock(), []
    inside, leave = threading.Event(), threading.Event()

    def shared() -> None:
        with lock.shared():
            order.append("shared in")
            inside.set()
            leave.wait(10)
            order.append("shared out")

    def alone() -> None:
        with lock.alone():
            order.append("alone")

    def late() -> None:
        with lock.shared():
            order.append("late")

    threads = [threading.Thread(target=target, daemon=True) for target in (shared, alone, late)]
    threads[0].start()
    assert inside.wait(10)
    threads[1].start()
    while not lock._waiting:
        time.sleep(0.001)
    threads[2].start()
    leave.set()
    for thread in threads:
        thread.join(10)
    assert order == ["shared in", "shared out", "alone", "late"]


def test_a_batch_that_is_delivered_twice_is_committed_once(tmp_path: Path) -> None:
    out, rejects = (store.create() for store in workers.stores(tmp_path))

    def record(keys: list[str]) -> dict[str, Any]:
        rows = pa.Table.from_pylist([{"video_id": key, "square": 1} for key in keys], schema=workers.SCHEMA)
        return {
            "keys": keys,
            "out": [out.write(rows)],
            "rejects": [],
            "reasons": [],
            "undone": [],
            "errors": 0,
        }

    def committer() -> Committer:
        return Committer("s", out, rejects, total=4, done=0, rejected=0, commit_seconds=3600.0)

    with committer() as running:
        running.add(record(["a", "b"]))
        running.add(record(["a", "b"]))
        running.add(record(["c"]))
    assert sorted(out.table()["video_id"].to_pylist()) == ["a", "b", "c"]
    with pytest.raises(StageError, match="'d' was delivered twice"), committer() as running:  # noqa: PT012
        running.add(record(["d"]))
        running.add(record(["d", "e"]))


def test_rows_of_batches_in_work_are_counted_once(tmp_path: Path) -> None:
    out, rejects = (store.create() for store in workers.stores(tmp_path))
    states: list[ProgressState] = []

    class Recorder:
        def show(self, state: ProgressState) -> None:
            states.append(state)

        def hide(self, label: str) -> None: ...

    def record(*keys: str) -> dict[str, Any]:
        return {"keys": list(keys), "out": [], "rejects": [], "reasons": [], "undone": [], "errors": 0}

    now = Activity(status="loading")
    with (
        shown_by(Recorder()),
        Committer(
            "s", out, rejects, total=8, done=0, rejected=0, commit_seconds=3600.0, activity=lambda: now
        ) as committer,
    ):

        def shown(activity: Activity) -> int:
            nonlocal now
            now = activity  # its thread may report at any time as well
            committer._report_progress(activity)
            return states[-1].done

        shown(now)
        assert states[-1].status == "loading"
        assert shown(Activity(workers=1, finished={"a": 3})) == 3
        committer.add(record("a", "b", "c", "d"))
        assert shown(Activity(workers=1, finished={"a": 3, "e": 1})) == 5  # "a" has arrived
        assert shown(Activity(workers=1)) == 5  # the worker of "e" died
        assert shown(Activity(workers=1, finished={"e": 9})) == 7  # the last row counts when it arrives
        committer.add(record("e", "f", "g", "h"))
    assert (states[-1].done, states[-1].is_finished) == (8, True)


def test_rejects_from_exceptions_are_held_until_a_row_succeeds(tmp_path: Path) -> None:
    out, rejects = (store.create() for store in workers.stores(tmp_path))

    def failed_record(key: str) -> dict[str, Any]:
        row = Reject("error").row(key, stage="s", unit="video")
        written = rejects.write(pa.Table.from_pylist([row], schema=REJECT_SCHEMA))
        return {
            "keys": [key],
            "out": [],
            "rejects": [written],
            "reasons": ["error"],
            "undone": [],
            "errors": 1,
        }

    good_record = {"keys": ["w"], "out": [], "rejects": [], "reasons": [], "undone": [], "errors": 0}

    def committer() -> Committer:
        return Committer("s", out, rejects, total=4, done=0, rejected=0, commit_seconds=3600.0)

    with pytest.raises(RuntimeError), committer() as running:  # noqa: PT012
        running.add(failed_record("a"))
        raise RuntimeError("the stage failed")
    assert rejects.keys() == set()
    with committer() as running:
        running.add(failed_record("b"))
        running.add(good_record)
    with committer() as running:
        running.add(failed_record("c"))
    assert rejects.keys() == {"b", "c"}


def test_a_failing_commit_fails_the_stage(tmp_path: Path) -> None:
    out, rejects = workers.stores(tmp_path)
    bad = {"keys": ["a"], "out": ["[{}]"], "rejects": [], "reasons": [], "undone": [], "errors": 0}
    committer = Committer("s", out, rejects, total=1, done=0, rejected=0, commit_seconds=0.01)
    with pytest.raises(StageError, match="commit failed"), committer:  # noqa: PT012
        committer.add(bad)
        committer._thread.join(10)


def test_the_number_of_metric_series_for_reject_reasons_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: Counter[str] = Counter()

    class Series:
        def __init__(self, *args: Any, **options: Any) -> None: ...

        def set_default_tags(self, tags: dict[str, str]) -> "Series":
            return self

        def inc(self, count: int = 1, tags: dict[str, str] | None = None) -> None:
            counted[(tags or {}).get("reason", "errors")] += count

    for name in ("Counter", "Gauge", "Histogram"):
        monkeypatch.setattr(f"ray.util.metrics.{name}", Series)
    metrics = StageMetrics("s")
    metrics.rejected(["static", "static", "short"], errors=1)
    metrics.rejected([f"row {i}" for i in range(100)], errors=0)
    metrics.rejected(["static", "row 99"], errors=0)
    assert (counted["static"], counted["short"], counted["errors"]) == (3, 1, 1)
    assert counted["other"] == 71  # only 32 of the 102 reasons get their own series
    assert len(counted) == 32 + 2


def test_counts_that_do_not_add_up_are_an_error() -> None:
    with pytest.raises(StageError, match="5 in, but 3 out"):
        StageCounts(name="s", n_in=5, n_out=3, n_rejected=1, seconds=0.0)


@pytest.mark.parametrize("name", ["actors", "batch_size", "max_attempts", "concurrency"])
def test_resources_must_be_positive(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        StageResources(**{name: 0})


def test_a_store_can_be_committed_while_it_is_read(tmp_path: Path) -> None:
    out = Store(str(tmp_path / "o.lance"), workers.SCHEMA).create()
    out.append(pa.Table.from_pylist([{"video_id": "a", "square": 1}], schema=workers.SCHEMA))
    stream = out.batches(rows=1)
    out.append(pa.Table.from_pylist([{"video_id": "b", "square": 2}], schema=workers.SCHEMA))
    assert sum(batch.num_rows for batch in stream) in (1, 2)
