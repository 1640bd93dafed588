"""Recognize errors that come from storage and not from the work: a full disk, an object store that fails.

Libraries report them in several ways: as an OSError with or without its number, in the text of another exception, or,
like torch, only by the fact that nothing can be written any more. Clients of object stores have already tried again
for some seconds when they raise an error.
"""

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EDQUOT, ENOSPC

_FULL = (
    os.strerror(ENOSPC),
    os.strerror(EDQUOT),
    "local disk's utilization is over capacity",  # of Ray, whose objects are written to the disk when memory is full
)
_FULL_BELOW_BYTES = 2**20
# Of pyarrow, and of object_store, which Lance and obstore use.
_STORE = re.compile(r"AWS Error|Generic (S3|GCS|MicrosoftAzure) error|lacked the necessary privileges")
_MISSING = re.compile(r"\b404\b|NO_SUCH_KEY|NoSuchKey")
_REFUSED = re.compile(r"\b40[13]\b|ACCESS_DENIED|EXPIRED|Expired|privileges|INVALID_ACCESS_KEY|SIGNATURE")
_SHOWN = 300  # characters of an error


class StorageError(RuntimeError):
    """A run has failed because of its storage; what it had committed is kept."""


def is_storage_fault(error: BaseException | None) -> bool:
    """Return whether an error, or one of its causes, says that a disk is full or that an object store fails."""
    return any(_is_full(link) or _store_fails(link) for link in _chain(error))


def is_refused(error: BaseException | None) -> bool:
    """Return whether an error, or one of its causes, says that an object store refuses access."""
    return any(_store_fails(link) and _REFUSED.search(str(link)) is not None for link in _chain(error))


def is_lasting(error: BaseException | None) -> bool:
    """Return whether an error comes from storage and does not pass by itself: a full disk, refused access."""
    return is_refused(error) or any(map(_is_full, _chain(error)))


def storage_fault(error: BaseException | None, folder: str | None = None) -> str | None:
    """Return what to tell the user about an error that comes from storage; None if it does not.

    folder: path or URI that was being written to, if it is known. If a disk is full, the sentence names the folder
    with the least free space: this one, one for temporary files, or the cache of models.
    """
    if not isinstance(error, Exception):  # an interrupt
        return None
    if (failed := next(filter(_store_fails, _chain(error)), None)) is not None:
        text = " ".join(str(failed).split())[:_SHOWN]
        name = "" if folder is None else f"{folder}: "
        if _REFUSED.search(text):
            return f"{name}an object store refuses access ({text}); renew the credentials"
        return f"{name}an object store does not answer as it should ({text}); try again later"
    written = [] if folder is None else [folder]
    free = {
        place: shutil.disk_usage(place).free for place in (*written, *_other_places()) if os.path.isdir(place)
    }
    is_space_left = all(free.get(place, _FULL_BELOW_BYTES) >= _FULL_BELOW_BYTES for place in written)
    if is_space_left and not any(map(_is_full, _chain(error))):
        return None
    place = min(free, key=free.__getitem__)
    return f"{place}: its disk is full ({free.get(place, 0) / 1e6:,.1f} MB are free); free space there"


@contextmanager
def storage_faults_of(folder: str) -> Iterator[None]:
    """Raise StorageError for an error of storage in the block. folder: as of `storage_fault`."""
    try:
        yield
    except Exception as error:
        if (fault := storage_fault(error, folder)) is not None:
            raise StorageError(fault) from error
        raise


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _is_full(error: BaseException) -> bool:
    return getattr(error, "errno", None) in (ENOSPC, EDQUOT) or any(text in str(error) for text in _FULL)


def _store_fails(error: BaseException) -> bool:
    return bool(_STORE.search(str(error))) and not _MISSING.search(str(error))


def _other_places() -> Iterator[str]:
    from huggingface_hub.constants import HF_HOME

    yield tempfile.gettempdir()
    yield os.environ.get("RAY_TMPDIR", tempfile.gettempdir())
    yield HF_HOME
