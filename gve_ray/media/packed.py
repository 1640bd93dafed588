"""URIs of videos inside other files, which are read without unpacking: in tar archives and in Parquet tables.

    slice_uri("s3://bucket/00000.tar", 1536, 80_000)        # "slice://1536+80000/s3://bucket/00000.tar"
    cell_uri("/data/a.parquet", "video", 0, 3)              # "cell://video/0+3//data/a.parquet"

A slice is read by its offset, so opening costs as much as with a file of its own. A cell costs more: its whole
row group is read, and takes twice its size in memory (measured in docs/LOG.md).
"""

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO
from urllib.parse import quote, unquote

_BUFFER = 1 << 20  # bytes per read; without it the compressed row group is in memory as well
_SLICE = re.compile(r"slice://(\d+)\+(\d+)/(.+)", re.DOTALL)
_CELL = re.compile(r"cell://([^/]+)/(\d+)\+(\d+)/(.+)", re.DOTALL)


def slice_uri(source: str, offset: int, size: int) -> str:
    """Return the URI of `size` bytes from `offset` on of a file (path or URI)."""
    return f"slice://{offset}+{size}/{source}"


def cell_uri(source: str, column: str, group: int, row: int) -> str:
    """Return the URI of a cell of a Parquet file (path or URI): bytes, or a struct with bytes as `datasets` writes it.

    group, row: number of the row group, and of the row in it.
    """
    return f"cell://{quote(column, safe='')}/{group}+{row}/{source}"


@dataclass(frozen=True, kw_only=True)
class Slice:
    """Some bytes of the file `source`."""

    source: str
    offset: int
    size: int

    def open(self, open_file: Callable[[str], BinaryIO]) -> BinaryIO:
        """Open the bytes for random access. open_file: opens `source`. Raises OSError if the file is shorter."""
        file = open_file(self.source)
        end = file.seek(0, io.SEEK_END)
        if end < self.offset + self.size:
            file.close()
            raise OSError(
                f"has {end} bytes, {self.offset + self.size} are needed: it has changed since it was listed"
            )
        return io.BufferedReader(_SliceReader(file, self.offset, self.size))


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A cell of the Parquet file `source`."""

    source: str
    column: str
    group: int
    row: int

    def open(self, open_file: Callable[[str], BinaryIO]) -> BinaryIO:
        """Read the cell. open_file: opens `source`. Raises OSError if there is no such cell, or it is empty."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        with open_file(self.source) as file:
            try:
                value = self._value(pq.ParquetFile(file, buffer_size=_BUFFER))
            except (pa.ArrowException, IndexError) as error:
                raise OSError(f"not the table that was listed ({error})") from error
        if isinstance(value, dict):
            value = value.get("bytes")
        if not isinstance(value, bytes):
            raise OSError("the cell has no bytes")
        return io.BytesIO(value)

    def _value(self, table: Any) -> Any:
        left = self.row
        for batch in table.iter_batches(1, row_groups=[self.group], columns=[self.column]):
            if left < batch.num_rows:
                return batch.column(0)[left].as_py()
            left -= batch.num_rows
        raise IndexError(f"no row {self.row} in row group {self.group} of column {self.column}")


def parse_packed(uri: str) -> Slice | Cell | None:
    """Return what the URI of a video inside another file names; None for any other URI or path."""
    if found := _SLICE.fullmatch(uri):
        return Slice(source=found[3], offset=int(found[1]), size=int(found[2]))
    if found := _CELL.fullmatch(uri):
        return Cell(source=found[4], column=unquote(found[1]), group=int(found[2]), row=int(found[3]))
    return None


class _SliceReader(io.RawIOBase):
    """Bytes of an open file as a file of their own."""

    def __init__(self, file: BinaryIO, offset: int, size: int) -> None:
        self._file, self._offset, self._size, self._at = file, offset, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        count = min(len(buffer), max(0, self._size - self._at))
        self._file.seek(self._offset + self._at)
        data = self._file.read(count)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()
