"""What is looked at on one node. Runs in a Ray task there, and in the driver.

Every probe is a function of plain values that gives plain values, or raises what the reader is to be told.
They run in threads of their own, since a file system that has gone away answers never, and no error comes.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyarrow import fs

import gve_ray
from gve_ray.config import is_uri, resolve_model
from gve_ray.job import check_model
from gve_ray.media.source import file_facts, folder_blobs, is_folder, local_path, open_remote
from gve_ray.store.model_cache import folder_listing
from gve_ray.store.runfolder import filesystem, versions

DRIVER = "driver"  # whose probe file comes first
_EDGE = 1 << 16  # bytes of a file's beginning and end by which two models are told apart


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a probe gave, or what went wrong, in words."""

    value: Any = None
    problem: str = ""


Probe = Callable[[], Any]


def examine(probes: Mapping[str, Probe], seconds: float) -> dict[str, Outcome]:
    """Run all probes at the same time; who has not answered after `seconds` is left behind and told of."""
    found: dict[str, Outcome] = {}

    def ask(name: str, probe: Probe) -> None:
        try:
            found[name] = Outcome(value=probe())
        except Exception as error:  # noqa: BLE001 - file systems and hubs raise all kinds; all are told
            found[name] = Outcome(problem=str(error).strip() or type(error).__name__)

    deadline = time.monotonic() + seconds
    threads = [threading.Thread(target=ask, args=one, daemon=True) for one in probes.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    silent = Outcome(
        problem=f"no answer in {seconds:g} s; see whether what it lies on hangs there (df, mount)"
    )
    return {name: found.get(name, silent) for name in probes}


def node_facts() -> dict[str, Any]:
    """Versions, size of the shared memory (bytes; None without one), how Ray authenticates."""
    shared = Path("/dev/shm")
    return {
        "versions": {**versions(), "gve-ray": gve_ray.__version__},
        "source": source_digest(),
        "shm": shutil.disk_usage(shared).total if shared.is_dir() else None,
        "auth": os.environ.get("RAY_AUTH_MODE", ""),
    }


def source_digest() -> str:
    """8 hex digits of this package's Python files: two checkouts of one version differ in it."""
    root = Path(gve_ray.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root).as_posix()}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:8]


def listening(ports: list[int]) -> dict[int, list[str]]:
    """For each TCP port the addresses of this node at which something listens."""
    import psutil

    found = [one.laddr for one in psutil.net_connections("tcp") if one.status == psutil.CONN_LISTEN]
    return {port: sorted({one.ip for one in found if one.port == port}) for port in ports}


# ---- GPUs


def gpu_facts() -> dict[str, Any]:
    """What torch says of the GPUs here. In a process of its own: this one may use none of them, and torch is large.

    driver, built: versions of CUDA that the driver can do and that torch was built for, None without. count:
    of usable GPUs. warning: the last line of what torch complained of.
    """
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    program = (
        "import json, torch; version = getattr(torch._C, '_cuda_getDriverVersion', lambda: 0)() or None; "
        "print(json.dumps({'built': torch.version.cuda, 'count': torch.cuda.device_count() if "
        "torch.cuda.is_available() else 0, 'driver': version and f'{version // 1000}.{version % 1000 // 10}'}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False
    )
    told = done.stderr.strip().splitlines()
    if done.returncode != 0:
        raise RuntimeError(f"torch does not load: {told[-1] if told else f'exit status {done.returncode}'}")
    return {**json.loads(done.stdout), "warning": told[-1] if told else ""}


# ---- files


def sizes(uris: list[str]) -> dict[str, int]:
    """Size of each file after reading its beginning; of a folder of frames, how many it has. Raises OSError."""
    return {uri: _read(uri) for uri in uris}


def readable(uris: list[str]) -> dict[str, int]:
    """As `sizes`, of those that can be read. Raises the last error where none can."""
    found, problem = {}, None
    for uri in uris:
        try:
            found[uri] = _read(uri)
        except (OSError, ValueError, ImportError) as error:
            problem = error
    if not found and problem is not None:
        raise problem
    return found


def _read(uri: str) -> int:
    if is_folder(uri):
        return sum(1 for _ in folder_blobs(uri))
    size, _ = file_facts(uri)
    path = local_path(uri)
    with path.open("rb") if path is not None else open_remote(uri) as file:
        file.read(1)
    return size


@dataclass(frozen=True, kw_only=True)
class Mark:
    """Files of random names in a folder that is to be written, one for each who can write there.

    up: steps from `uri` to the nearest local folder that exists: none is made. It is found anew on each node, so
    a relative path is that node's own. An object store may keep an empty marker of the folder.
    """

    uri: str
    up: int
    token: str

    @classmethod
    def at(cls, uri: str, token: str) -> "Mark":
        """Where the driver finds the folder."""
        files, path = filesystem(uri)
        up = 0
        if isinstance(files, fs.LocalFileSystem):
            while files.get_file_info(path or "/").type != fs.FileType.Directory:
                path, up = path.rpartition("/")[0], up + 1
        return cls(uri=uri, up=up, token=token)

    def write(self, who: str) -> None:
        """Leave one's own file. Raises OSError."""
        files, path = self._file(who)
        try:
            with files.open_output_stream(path) as stream:
                stream.write(self._content(who))
        except OSError as error:
            raise OSError(f"cannot be written: {error}") from error

    def sees(self, who: str) -> bool:
        """Whether the file of `who` is there, and is the one."""
        files, path = self._file(who)
        try:
            with files.open_input_stream(path) as stream:
                return bool(stream.read() == self._content(who))
        except FileNotFoundError:
            return False

    def remove(self, who: str) -> None:
        """Delete a file, if it is there."""
        files, path = self._file(who)
        with suppress(OSError):  # object stores do not say that it was not there in one way
            files.delete_file(path)

    def answer(self, who: str) -> bool:
        """On a node: whether the driver's file is there; if it is, leave one's own beside it. Raises OSError.

        Nothing is written where the driver's file is not: it would be another disk, where nobody cleans up.
        """
        if not self.sees(DRIVER):
            return False
        self.write(who)
        return True

    def _file(self, who: str) -> tuple[fs.FileSystem, str]:
        files, path = filesystem(self.uri)
        for _ in range(self.up):
            path = path.rpartition("/")[0]
        return files, f"{path}/.gve-doctor-{self.token}-{who}"

    def _content(self, who: str) -> bytes:
        return f"{self.token} {who}\n".encode()


# ---- models


def model_identity(option: str, name: str, revision: str | None, file: str) -> str:
    """What tells a model from another one of its name. Raises PreflightError where it is not to be had.

    Of a hub's the commit. Of a folder 8 hex digits of its files' names, sizes, beginnings and ends: it may be too
    large to be read whole. Of one behind a URI those of names, sizes and times.
    """
    check_model(option, name, revision, file)
    if is_uri(name):
        return hashlib.sha256(json.dumps(folder_listing(name)).encode()).hexdigest()[:8]
    folder = Path(resolve_model(name)).expanduser()
    if not folder.is_dir():
        from huggingface_hub import hf_hub_download

        return Path(hf_hub_download(name, file, revision=revision)).parent.name[:8]
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        inner = path.relative_to(folder)
        if path.is_file() and not any(part.startswith(".") for part in inner.parts):
            size = path.stat().st_size
            digest.update(f"{inner.as_posix()}\0{size}\0".encode())
            with path.open("rb") as content:
                digest.update(content.read(_EDGE))
                content.seek(max(0, size - _EDGE))
                digest.update(content.read(_EDGE))
    return digest.hexdigest()[:8]
