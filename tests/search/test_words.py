"""Tests the full-text index, and search by picture and by words together."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from gve_ray.search import (
    Background,
    By,
    Hit,
    IndexOptions,
    IndexSpec,
    Library,
    LibraryFacts,
    Ranking,
    SearchError,
    create_index,
    search_moments,
)
from gve_ray.search.index import FieldType, Source, Value
from gve_ray.search.words import WordIndex, WordRow

FIELDS: Mapping[str, FieldType] = {
    "video_id": "string", "fingerprint": "string", "segment": "int", "start": "float", "end": "float",
    "duration": "float", "year": "int",
}  # fmt: skip
VIDEOS, SEGMENTS = 4, 5


def metadata_of(video: int, segment: int | None) -> dict[str, Value]:
    """Return the metadata of a segment of 10 s, or of a whole video."""
    start = None if segment is None else 10.0 * segment
    return {
        "video_id": f"v{video}", "fingerprint": f"f{video}", "segment": segment, "start": start,
        "end": None if start is None else start + 10, "duration": 50.0,
        "year": 2020 + video,
    }  # fmt: skip


def row(video: int, segment: int | None, text: str, source: Source = "subtitles") -> WordRow:
    return WordRow(
        segment=None if segment is None else f"v{video}s{segment}",
        source=source,
        text=text,
        metadata=metadata_of(video, segment),
    )


def words_of(folder: Path | str, *rows: WordRow) -> WordIndex:
    index = WordIndex.create(str(folder), FIELDS)
    index.update([], rows)
    return index


@pytest.fixture
def library(tmp_path: Path) -> Library:
    """Return a library of 4 videos with 5 segments, and no words. The picture of a segment is axis number
    5 * video + segment.
    """
    index = create_index(
        tmp_path / "index", IndexSpec(dimension=VIDEOS * SEGMENTS, fields=FIELDS), IndexOptions()
    )
    places = [(video, segment) for video in range(VIDEOS) for segment in range(SEGMENTS)]
    index.add(
        [f"v{video}s{segment}" for video, segment in places],
        np.eye(VIDEOS * SEGMENTS, dtype=np.float32),
        [metadata_of(*place) for place in places],
    )
    facts = LibraryFacts(generation=1, index="index", model={}, settings={}, identity={}, strip_frames=1)
    return Library(tmp_path, facts, index)


def find(
    library: Library, picture: int, text: str, top_k: int = 3, by: By = "both", **more: object
) -> list[Hit]:
    """Search with the picture of an axis; the next ones match a little less."""
    vector = np.linspace(0.1, 0, VIDEOS * SEGMENTS, dtype=np.float32)[None]
    vector[0, picture] = 1
    ranking = Ranking.of(library.words, text, by)
    return [*search_moments(library.index, vector, top_k, ranking=ranking, **more)]  # type: ignore[arg-type]


def test_the_best_text_comes_first_and_says_how_much_of_the_query_it_has(tmp_path: Path) -> None:
    index = words_of(
        tmp_path / "words",
        row(0, 0, "Where is the map?"),
        row(0, 1, "The treasure maps\nare on the island"),
        row(1, 0, "nothing of the kind"),
    )
    found = index.search("the treasure map", 5)
    assert [(match.segment, match.share) for match in found] == [("v0s1", 1.0), ("v0s0", 0.5)]
    assert found[0].score > found[1].score > 0
    assert index.search("zeppelin", 5) == index.search("", 5) == index.search("?!", 5) == []


@pytest.mark.parametrize("place", ["disk", "s3"])
def test_changes_are_seen_only_in_the_new_version(
    tmp_path: Path, place: str, request: pytest.FixtureRequest
) -> None:
    uri = f"{tmp_path if place == 'disk' else request.getfixturevalue('s3')}/words"
    index = words_of(uri, row(0, 0, "an old word"), row(1, 0, "a red kite"))
    published = index.version
    before = index.digests()
    edited = row(0, 0, "a new word")
    index.update([edited.key], [edited])
    reader, current = WordIndex.open(uri, FIELDS, published), WordIndex.open(uri, FIELDS, index.version)
    assert [len(which.search("old", 5)) for which in (reader, current)] == [1, 0]
    assert [len(which.search("new", 5)) for which in (reader, current)] == [0, 1]
    changed = {key for key, digest in current.digests().items() if before[key] != digest}
    assert changed == {edited.key}
    # A run that was killed before it published its version; the next one starts at the published one.
    again = WordIndex.open(uri, FIELDS, published)
    again.update([], [row(2, 0, "third")])
    assert again.count() == 3
    assert [len(again.search(text, 5)) for text in ("old", "new", "third", "kite")] == [1, 0, 1, 1]


def test_a_filter_on_segments_leaves_texts_about_whole_videos(tmp_path: Path) -> None:
    index = words_of(
        tmp_path / "words", row(0, 0, "kite"), row(0, 3, "kite"), row(1, None, "kite", "caption")
    )

    def found(filter: Mapping[str, object]) -> set[str | None]:
        return {match.segment for match in index.search("kite", 9, filter=filter)}

    assert found({"start": {"gte": 10}}) == {"v0s3", None}
    assert found({"start": {"gte": 10}, "year": 2020}) == {"v0s3"}
    assert found({"year": 2021}) == {None}
    assert found({"year": {"gte": -(2**63)}}) == {"v0s0", "v0s3", None}
    with pytest.raises(SearchError, match="no such field"):
        found({"nothing": 1})


def test_words_and_pictures_are_found_together_and_say_why(library: Library, tmp_path: Path) -> None:
    library.words = words_of(tmp_path / "words", row(3, 2, "<b>Treasure</b> here"), row(0, 4, "a kite"))
    hits = find(library, 7, "treasure")
    assert [hit.id for hit in hits[:2]] == ["v1s2", "v3s2"]
    assert [hit.matched for hit in hits[:2]] == [("picture",), ("words",)]
    assert (hits[0].words, hits[0].score) == (None, 1.0)
    quote = hits[1].words
    assert quote is not None
    assert (quote.source, quote.text, quote.marks) == ("subtitles", "<b>Treasure</b> here", [(3, 11)])
    both = find(library, 17, "treasure", top_k=1)
    assert [(hit.id, hit.matched) for hit in both] == [("v3s2", ("picture", "words"))]
    assert [hit.id for hit in find(library, 7, "treasure", by="words")] == ["v3s2"]
    assert [hit.id for hit in find(library, 7, "treasure", by="picture")] == [
        hit.id for hit in find(library, 7, "zeppelin")
    ]


def test_a_text_about_a_whole_video_finds_its_best_moment_only(library: Library, tmp_path: Path) -> None:
    library.words = words_of(
        tmp_path / "words", row(1, None, "Holiday", "name"), row(2, None, "Holiday in Rome", "caption")
    )
    hits = find(library, 8, "holiday", top_k=9, by="words")
    assert sorted(hit.id for hit in hits) == ["v1s3", "v2s0"]
    late = find(library, 8, "holiday", by="words", filter={"start": {"gte": 35}})
    assert sorted(hit.id for hit in late) == ["v1s4", "v2s4"]


def test_a_text_with_less_than_half_of_the_words_does_not_count(library: Library, tmp_path: Path) -> None:
    library.words = words_of(tmp_path / "words", row(3, 2, "it is red"))
    assert {hit.matched for hit in find(library, 7, "a red ball rolls left", top_k=20)} == {("picture",)}


def test_words_of_segments_that_are_not_in_the_index_are_left_out(library: Library, tmp_path: Path) -> None:
    library.words = words_of(tmp_path / "words", row(9, 0, "kite"), row(3, 2, "kite"))
    assert [hit.id for hit in find(library, 7, "kite", by="words")] == ["v3s2"]


def test_windows_that_overlap_have_one_rank(tmp_path: Path) -> None:
    """Three windows of each film overlap. By picture, films 0 and 1 are the first; films 2 and 3 have the word."""
    films, windows = 6, 3
    index = create_index(tmp_path / "index", IndexSpec(dimension=films, fields=FIELDS), IndexOptions())
    segments = [(film, window) for film in range(films) for window in range(windows)]
    index.add(
        [f"v{film}s{window}" for film, window in segments],
        np.eye(films, dtype=np.float32)[[film for film, _ in segments]],
        [
            metadata_of(*segment) | {"start": 1.0 * segment[1], "end": 4.0 + segment[1]}
            for segment in segments
        ],
    )
    words = words_of(tmp_path / "words", row(2, 0, "a kite"), row(3, 0, "a kite"))
    query = np.array([[0.9, 0.8, 0.1, 0.2, 0.7, 0.6]], np.float32)
    hits = search_moments(index, query, 4, ranking=Ranking.of(words, "kite", "both"))
    # Films 0 and 2 are each the first of a ranking, films 1 and 3 the second; equal ranks are sorted by picture.
    assert [hit.metadata["video_id"] for hit in hits] == ["v0", "v2", "v1", "v3"]


def test_copies_have_one_rank(tmp_path: Path) -> None:
    """By picture, film 0 and its three copies are the first, then film 4; the last two have the word."""
    films = 9
    vectors = np.eye(films, dtype=np.float32)
    vectors[1:4] = vectors[0]
    index = create_index(tmp_path / "index", IndexSpec(dimension=films, fields=FIELDS), IndexOptions())
    index.add(
        [f"v{film}s0" for film in range(films)], vectors, [metadata_of(film, 0) for film in range(films)]
    )
    words = words_of(tmp_path / "words", row(7, 0, "a kite"), row(8, 0, "a kite"))
    query = np.array([[0.9, 0, 0, 0, 0.8, 0.7, 0.6, 0.2, 0.1]], np.float32)
    hits = search_moments(index, query, 4, ranking=Ranking.of(words, "kite", "both"))
    assert [hit.metadata["video_id"] for hit in hits] == ["v0", "v7", "v4", "v8"]


def test_a_picture_that_matches_with_confidence_precedes_words(tmp_path: Path) -> None:
    """The last three films have the word; by picture, the first three are the best."""
    films = 8
    index = create_index(tmp_path / "index", IndexSpec(dimension=films, fields=FIELDS), IndexOptions())
    index.add(
        [f"v{film}s0" for film in range(films)],
        np.eye(films, dtype=np.float32),
        [metadata_of(film, 0) for film in range(films)],
    )
    words = words_of(tmp_path / "words", *(row(film, 0, "a kite") for film in (5, 6, 7)))
    query = np.array([[0.9, 0.8, 0.7, 0.5, 0.4, 0.3, 0.2, 0.1]], np.float32)
    sample = np.eye(films, dtype=np.float32)

    def found(location: float) -> list[object]:
        background = Background(vectors=sample, location=location, scale=0.01)
        ranking = Ranking.of(words, "kite", "both")
        hits = search_moments(index, query, 4, ranking=ranking, background=background)
        return [hit.metadata["video_id"] for hit in hits]

    # The scores of the first four are 1.5, 1.2, 0.8 and 0.0 standard deviations above their mean.
    assert found(location=2) == ["v0", "v5", "v1", "v6"]
    assert found(location=0.5) == ["v0", "v1", "v2", "v5"]


def test_a_search_by_words_needs_some(library: Library) -> None:
    with pytest.raises(SearchError, match="run gve index"):
        find(library, 7, "treasure", by="words")
    with pytest.raises(SearchError, match="no text"):
        find(library, 7, "", by="words")
    assert find(library, 7, "treasure")[0].id == "v1s2"
