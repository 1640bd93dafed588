"""A full-text index of the words of videos: subtitles, speech, captions, file names and transcripts.

    index = WordIndex.create(uri, FIELDS)
    index.update([], [WordRow(segment="a", source="subtitles", text="the treasure map", metadata=...)])
    matches = WordIndex.open(uri, index.fields, index.version).search("treasure maps", 10)

It is a Lance data set with an inverted index, ranked by BM25 (Robertson and Zaragoza, 2009). Texts are
divided into terms by `gve_ray.search.terms`, not by Lance.

Lance commits every change as a new version, and library.json names the version that readers open. A
writer that finds later versions, left by a crash, returns to the named one. Files of an older version
stay until the first change by the next writer, so that its readers have until then to open the new one.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from gve_ray.search import filters
from gve_ray.search.index import ARROW_TYPES, FieldType, Filter, IndexFileError, IndexSpec, Source, Value
from gve_ray.search.terms import query_terms, terms_of
from gve_ray.store.runfolder import lance_options

if TYPE_CHECKING:
    import lance

SEGMENT_FIELDS = frozenset({"segment", "start", "end"})  # null in a text about a whole video
_ROWS_AT_ONCE = 4096
_KEYS_AT_ONCE = 1000  # in one SQL filter
_MAX_FRAGMENTS = 16
# Fields of users begin with a letter.
_OWN = [(name, pa.string()) for name in ("_key", "_digest", "_segment", "_source", "_text", "_terms")]


@dataclass(frozen=True, kw_only=True)
class WordRow:
    """A text, and what it is about.

    segment: id of a segment; None if the text is about the whole video. metadata: the fields of the
    segment or, of the whole video, those that all its segments share.
    """

    segment: str | None
    source: Source
    text: str
    metadata: Mapping[str, Value]

    @property
    def key(self) -> str:
        """The key of the row: there is one text of each source about a segment or a video."""
        return json.dumps([self.source, self.segment or "", self.metadata["video_id"]], ensure_ascii=False)

    @property
    def digest(self) -> str:
        """32 hex digits that change with the text or the metadata."""
        content = json.dumps([self.text, self.metadata], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:32]


@dataclass(frozen=True, kw_only=True)
class WordMatch:
    """A text in which terms of a query occur.

    segment, source, text: as in `WordRow`. score: BM25. share: of the different terms of the query, those
    that occur in the text, in (0, 1].
    """

    segment: str | None
    video_id: str
    source: Source
    text: str
    score: float
    share: float


class WordIndex:
    """One version of a full-text index. fields: names and types of the metadata.

    Only one process may change an index at a time; any number may search.
    """

    def __init__(self, dataset: "lance.LanceDataset", fields: Mapping[str, FieldType]) -> None:
        self.fields = dict(fields)
        self._dataset = dataset
        self._spec = IndexSpec(dimension=1, fields=self.fields)
        self._has_changed = False  # whether this object has made a change

    @classmethod
    def create(cls, uri: str, fields: Mapping[str, FieldType]) -> "WordIndex":
        """Create an empty index in a new folder, given by path or URI."""
        import lance

        schema = pa.schema([*_OWN, *((name, ARROW_TYPES[kind]) for name, kind in fields.items())])
        options = lance_options(uri)
        return cls(lance.write_dataset(schema.empty_table(), uri, storage_options=options), fields)

    @classmethod
    def open(cls, uri: str, fields: Mapping[str, FieldType], version: int) -> "WordIndex":
        """Open a version. Raises IndexFileError if that is not possible."""
        import lance

        try:
            dataset = lance.dataset(uri, version=version, storage_options=lance_options(uri))
        except (ValueError, OSError) as error:
            advice = f"version {version}: {error}; run gve index again"
            raise IndexFileError.of(error, uri, advice) from error
        return cls(dataset, fields)

    @property
    def version(self) -> int:
        """The version that a reader must open to see the changes made so far."""
        return int(self._dataset.version)

    def count(self) -> int:
        """Return the number of texts."""
        return int(self._dataset.count_rows())

    def digests(self) -> dict[str, str]:
        """Return the digest of each row by its key."""
        table = self._dataset.to_table(columns=["_key", "_digest"])
        return dict(zip(table["_key"].to_pylist(), table["_digest"].to_pylist(), strict=True))

    def update(self, removed: Sequence[str], added: Iterable[WordRow]) -> None:
        """Delete rows by key, and add rows. Nothing is visible to readers of another version."""
        import lance

        self._prepare_change()
        for at in range(0, len(removed), _KEYS_AT_ONCE):
            condition = filters.Condition("_key", "in", tuple(removed[at : at + _KEYS_AT_ONCE]))
            self._dataset.delete(filters.to_sql([condition]) or "false")
        uri = self._dataset.uri
        waiting = iter(added)
        while rows := list(islice(waiting, _ROWS_AT_ONCE)):
            table = pa.Table.from_pylist([_stored(row) for row in rows], schema=self._dataset.schema)
            self._dataset = lance.write_dataset(table, uri, mode="append", storage_options=lance_options(uri))
        if len(self._dataset.get_fragments()) > _MAX_FRAGMENTS:
            self._dataset.optimize.compact_files()
        if self._dataset.describe_indices():
            self._dataset.optimize.optimize_indices()
        elif self._dataset.count_rows():
            self._dataset.create_scalar_index(
                "_terms",
                "INVERTED",
                base_tokenizer="whitespace",
                max_token_length=None,
                lower_case=False,
                stem=False,
                remove_stop_words=False,
                ascii_folding=False,
            )

    def search(self, query: str, k: int, *, filter: Filter | None = None) -> list[WordMatch]:
        """Return the k texts that match a query best, best first; fewer if no more have one of its terms.

        A condition on a field of segments does not apply to texts about whole videos. Raises
        SearchError for a filter that does not match the fields.
        """
        from lance.query import MatchQuery

        terms = query_terms(query)
        conditions = filters.parse(filter, self._spec)
        if not terms:
            return []
        table = self._dataset.to_table(
            columns=["_key", "_segment", "_source", "_text", "_terms", "video_id", "_score"],
            full_text_query=MatchQuery(" ".join(terms), "_terms"),
            filter=_where(conditions),
            prefilter=True,
            limit=k,
        )
        rows = sorted(table.to_pylist(), key=lambda row: (-row["_score"], row["_key"]))
        return [
            WordMatch(
                segment=row["_segment"],
                video_id=row["video_id"],
                source=row["_source"],
                text=row["_text"],
                score=row["_score"],
                share=len(set(terms).intersection(row["_terms"].split())) / len(terms),
            )
            for row in rows
        ]

    def _prepare_change(self) -> None:
        """Discard versions that a crashed writer committed after this one.

        If there are none, deletes the versions before this one, which no reader uses any more.
        """
        if self._dataset.version < self._dataset.latest_version:
            self._dataset.restore()
        elif not self._has_changed:
            self._dataset.cleanup_old_versions(older_than=timedelta(0))
        self._has_changed = True


def _stored(row: WordRow) -> dict[str, Any]:
    return {
        **row.metadata,
        "_key": row.key,
        "_digest": row.digest,
        "_segment": row.segment,
        "_source": row.source,
        "_text": row.text,
        "_terms": " ".join(term.text for term in terms_of(row.text)),
    }


def _where(conditions: Sequence[filters.Condition]) -> str | None:
    """Return an SQL expression; conditions on a field of segments hold for texts about whole videos."""
    of_segments = filters.to_sql([part for part in conditions if part.field in SEGMENT_FIELDS])
    of_videos = filters.to_sql([part for part in conditions if part.field not in SEGMENT_FIELDS])
    parts = [of_videos, of_segments and f"`_segment` is null or ({of_segments})"]
    return " and ".join(f"({part})" for part in parts if part) or None
