"""A lease on a folder in an object store, which prevents two drivers from using the folder.

    lease = Lease("s3://bucket/run-1")
    lease.take()       # raises LeaseError if another process holds it
    lease.check()      # raises LeaseError if another process has taken it since
    lease.release()

The lease is a small object in the folder. Its holder writes it again every few seconds. Another process
that wants the folder waits until the object changes, which shows that its holder lives, or until it has
not changed for `dead_after` seconds; then the holder was killed, and the lease may be taken. Every write
has a condition, that the object does not exist or is still the one that was read, so of two processes that
take a lease at the same time only one succeeds. Except for very old leases, no clocks are compared.
"""

import json
import logging
import os
import platform
import secrets
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

log = logging.getLogger(__name__)

LEASE_FILE = ".lease"
LEASE_SCHEMES = ("s3", "gs", "gcs", "abfs", "abfss")
_BEAT_SECONDS = 5.0
_DEAD_AFTER_SECONDS = 30.0
# The clocks of two machines differ by less, so a lease that is older belongs to nobody.
_CERTAINLY_DEAD_SECONDS = 600.0


class LeaseError(RuntimeError):
    """Another process holds the lease."""


class Lease:
    """A lease on the folder `uri`, of one of `LEASE_SCHEMES`. The credentials come from the environment.

    beat_seconds: how often the holder writes the lease. dead_after: seconds without a change after which
    a holder counts as killed; several times `beat_seconds`.
    """

    def __init__(
        self, uri: str, *, beat_seconds: float = _BEAT_SECONDS, dead_after: float = _DEAD_AFTER_SECONDS
    ) -> None:
        self._uri = uri
        self._beat_seconds, self._dead_after = beat_seconds, dead_after
        self._token = secrets.token_hex(8)
        self._beats = 0
        self._version: dict[str, str] = {}  # of the object that this process has written last
        self._taken_by = ""
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def take(self) -> None:
        """Take the lease; if it exists, wait until it is clear whether its holder lives.

        Raises LeaseError if another process holds it; an error of obstore if the store cannot be reached.
        """
        seen: _Written | None = None
        deadline = 0.0
        while True:
            found = self._read()
            if found is None:
                taken = self._write("create")
            elif found.token == self._token:  # the request was repeated after its answer had been lost
                self._version, taken = found.version, True
            elif seen is None:
                seen, deadline, taken = found, time.monotonic() + self._patience(found), False
            elif found.version != seen.version:
                raise LeaseError(found.holder)
            else:
                taken = time.monotonic() >= deadline and self._write(found.version)
            if taken:
                break
            if seen is not None and time.monotonic() < deadline:
                self._stop.wait(min(1.0, self._beat_seconds))
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise LeaseError if another process has taken the lease, because this one has not written it in time."""
        if self._taken_by:
            raise LeaseError(self._taken_by)

    def release(self) -> None:
        """Stop writing the lease, and delete it if this process still holds it."""
        import obstore

        self._stop.set()
        if self._thread is None:
            return
        self._thread.join()
        self._thread = None
        try:
            found = self._read()
            if found is not None and found.token == self._token:
                obstore.delete(self._store(), LEASE_FILE)
        except Exception as error:  # noqa: BLE001 - the work is done; the lease expires by itself
            log.warning("%s: its lease cannot be deleted (%s)", self._uri, error)

    def _patience(self, found: "_Written") -> float:
        """Return how many seconds a lease may stay the same until it may be taken."""
        age = (datetime.now(UTC) - found.written).total_seconds()
        if age > _CERTAINLY_DEAD_SECONDS:
            return 0.0
        log.info(
            "%s: has a lease of process %s; waiting up to %.0f s to see if it is alive",
            self._uri,
            found.holder,
            self._dead_after,
        )
        return self._dead_after

    def _beat(self) -> None:
        while not self._stop.wait(self._beat_seconds):
            try:
                if self._write(self._version):
                    continue
                found = self._read()
            except Exception as error:  # noqa: BLE001 - the store may be reachable again at the next attempt
                log.warning("%s: its lease cannot be written (%s)", self._uri, error)
                continue
            if found is not None and found.token == self._token:
                self._version = found.version
                continue
            self._taken_by = found.holder if found else "that has deleted its lease"
            log.error("%s: its lease was taken by process %s", self._uri, self._taken_by)
            return

    def _write(self, condition: Any) -> bool:
        """Write the lease if its object has this version, or for "create" does not exist; return whether it did."""
        import obstore
        from obstore.exceptions import AlreadyExistsError, NotFoundError, PreconditionError

        self._beats += 1
        holder = f"{os.getpid()} on {platform.node()}"
        data = json.dumps({"token": self._token, "holder": holder, "beats": self._beats}).encode()
        try:
            result = obstore.put(self._store(), LEASE_FILE, data, mode=condition)
        except (AlreadyExistsError, NotFoundError, PreconditionError, FileNotFoundError):
            return False
        self._version = _version_of(result)
        return True

    def _read(self) -> "_Written | None":
        import obstore

        try:
            result = obstore.get(self._store(), LEASE_FILE)
            data, meta = bytes(result.bytes()), result.meta
        except FileNotFoundError:
            return None
        try:
            content = json.loads(data)
            token, holder = str(content["token"]), str(content["holder"])
        except (ValueError, KeyError, TypeError):
            token, holder = "", f"unknown, whose {LEASE_FILE} cannot be read"
        return _Written(token=token, holder=holder, version=_version_of(meta), written=meta["last_modified"])

    def _store(self) -> Any:
        from obstore.store import from_url

        scheme, _, rest = self._uri.partition("://")
        patience = timedelta(seconds=self._dead_after)
        options: Any = {"timeout": patience}
        if os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://"):
            options["allow_http"] = True
        url = f"{'gs' if scheme == 'gcs' else scheme}://{rest}"
        return from_url(url, client_options=options, retry_config={"retry_timeout": patience})


@dataclass(frozen=True, kw_only=True)
class _Written:
    """A lease as it was read. written: by the clock of the store."""

    token: str
    holder: str
    version: dict[str, str]
    written: datetime


def _version_of(meta: Any) -> dict[str, str]:
    """Return what identifies the content of an object, as obstore's conditional writes take it."""
    return {name: meta[name] for name in ("e_tag", "version") if meta.get(name)}
