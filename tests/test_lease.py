import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import obstore
import pytest
from obstore.store import from_url

from gve_ray.store import FolderLock, RunFolder, RunFolderError, runfolder
from gve_ray.store.lease import LEASE_FILE, Lease, LeaseError

BEAT = 0.1
PROGRAM = f"""
import sys, time
from gve_ray.store.lease import Lease
lease = Lease(sys.argv[1], beat_seconds={BEAT})
lease.take()
print("in", flush=True)
sys.stdin.read()
lease.release()
print("out", flush=True)
"""


def lease_of(folder: str, *, dead_after: float = 30.0) -> Lease:
    """A lease that writes often. dead_after: short where the other holder is dead, else longer than any pause."""
    return Lease(folder, beat_seconds=BEAT, dead_after=dead_after)


@contextmanager
def another_process(folder: str) -> "Iterator[subprocess.Popen[str]]":
    """A process that holds the lease of a folder until its standard input is closed."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "in\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_lease_is_refused_while_another_process_holds_it(s3: str) -> None:
    folder = f"{s3}/run"
    with another_process(folder) as process:
        with pytest.raises(LeaseError, match=f"{process.pid} on "):
            lease_of(folder).take()
        out, _ = process.communicate("")
        assert out == "out\n"
    lease = lease_of(folder)
    lease.take()
    lease.check()
    lease.release()


def test_the_lease_of_a_killed_process_can_be_taken(s3: str) -> None:
    folder = f"{s3}/run"
    with another_process(folder) as process:
        process.kill()
        process.wait()
        lease = lease_of(folder, dead_after=0.5)
        lease.take()
        lease.check()
        lease.release()


def test_of_two_that_find_a_dead_lease_one_gets_it(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = f"{s3}/run"
    obstore.put(bucket(folder), LEASE_FILE, b'{"token": "a", "holder": "7 on nowhere"}')
    first, second = (lease_of(folder, dead_after=0.5) for _ in range(2))
    write = Lease._write

    def write_after_the_other(self: Lease, condition: object) -> bool:
        if self is first:
            monkeypatch.setattr(Lease, "_write", write)
            second.take()
        return write(self, condition)

    monkeypatch.setattr(Lease, "_write", write_after_the_other)
    with pytest.raises(LeaseError):
        first.take()
    second.check()
    second.release()


def test_a_holder_notices_that_its_lease_was_taken(s3: str) -> None:
    folder = f"{s3}/run"
    lease = lease_of(folder)
    lease.take()
    obstore.put(bucket(folder), LEASE_FILE, b'{"token": "b", "holder": "8 on elsewhere"}')
    assert lease._thread is not None
    lease._thread.join(30)  # it ends when the lease is lost
    with pytest.raises(LeaseError, match="8 on elsewhere"):
        lease.check()
    lease.release()
    assert bytes(obstore.get(bucket(folder), LEASE_FILE).bytes()).startswith(b'{"token": "b"'), (
        "the lease of the other is not deleted"
    )


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"\xff"])
def test_a_damaged_lease_can_be_taken(s3: str, content: bytes) -> None:
    folder = f"{s3}/run"
    obstore.put(bucket(folder), LEASE_FILE, content)
    lease = lease_of(folder, dead_after=0.2)
    lease.take()
    lease.release()


@pytest.mark.parametrize("use", [lambda folder: FolderLock(folder), lambda folder: run_of(folder)])
def test_a_folder_in_a_bucket_has_one_driver(
    s3: str, use: "Callable[[str], FolderLock | RunFolder]", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runfolder, "Lease", lease_of)
    folder = f"{s3}/run"
    with use(folder), pytest.raises(RunFolderError, match="in use by process"), use(folder):
        pass
    with use(folder):
        pass


def test_a_run_stops_when_another_has_taken_its_folder(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def taken(self: Lease) -> None:
        raise LeaseError("9 on elsewhere")

    with (  # noqa: PT012
        pytest.raises(RunFolderError, match="taken over by process 9 on elsewhere"),
        run_of(f"{s3}/run") as run,
    ):
        monkeypatch.setattr(Lease, "check", taken)
        run.record(rows=1)


def run_of(folder: str) -> RunFolder:
    return RunFolder(folder, job="j", config={"a": 1})


def bucket(folder: str) -> "obstore.store.ObjectStore":
    return from_url(folder, client_options={"allow_http": True})
