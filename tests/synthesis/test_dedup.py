"""Copies are found, lookalikes are not."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from gve_ray.media.signature import FRAME_BYTES, THRESHOLD, distance, signature
from gve_ray.synthesis import dedup
from gve_ray.synthesis.dedup import KeptVideos, find_duplicates

Y, X = np.mgrid[0:112, 0:112].astype(float)


def video(
    path: Any, *, colour: tuple[int, int, int] = (220, 40, 40), k: int = 8, base: float = 110
) -> np.ndarray:
    """k frames of a disc on one textured ground; path(t) gives its centre."""
    ground = base + 18 * (np.sin(X / 9) + np.sin(Y / 6))[..., None] * np.array([1.0, 0.9, 0.6])
    shots = []
    for i in range(k):
        cx, cy = path(i / (k - 1))
        cover = np.clip(10 - np.hypot(X - cx, Y - cy), 0, 1)[..., None]
        shots.append(ground * (1 - cover) + np.array(colour) * cover)
    return np.clip(np.stack(shots), 0, 255).astype(np.uint8)


def rightward(t: float) -> tuple[float, float]:
    return 25 + 55 * t, 40


def encoded_again(
    frames: np.ndarray, *, size: tuple[int, int], gain: float = 1.0, seed: int = 0
) -> np.ndarray:
    """What a worse copy shows: rescaled, a little brighter, with the noise of compression."""
    rng = np.random.default_rng(seed)
    copies = []
    for frame in frames:
        small = np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC)).astype(float)
        copies.append(np.clip(small * gain + rng.normal(0, 4, small.shape), 0, 255).astype(np.uint8))
    return np.stack(copies)


def table(*rows: dict[str, Any]) -> pa.Table:
    defaults = {"width": 100, "height": 100, "duration": 4.0}
    schema = pa.schema(
        [
            ("video_id", pa.string()),
            ("content_hash", pa.string()),
            ("signature", pa.binary()),
            ("width", pa.int32()),
            ("height", pa.int32()),
            ("duration", pa.float64()),
        ]
    )
    return pa.Table.from_pylist(
        [defaults | {"content_hash": row["video_id"]} | row for row in rows], schema=schema
    )


ORIGINAL = video(rightward)


def test_a_signature_has_a_fixed_size_whatever_the_picture() -> None:
    assert len(signature(ORIGINAL)) == 8 * FRAME_BYTES
    assert len(signature(np.zeros((4, 28, 200, 3), dtype=np.uint8))) == 4 * FRAME_BYTES


@pytest.mark.parametrize(
    "copy",
    [
        encoded_again(ORIGINAL, size=(112, 112)),
        encoded_again(ORIGINAL, size=(56, 56)),
        encoded_again(ORIGINAL, size=(168, 168), gain=1.08),
        encoded_again(ORIGINAL, size=(84, 84), gain=0.92),
        video(lambda t: rightward(min(1.0, t + 0.04))),  # another frame rate: the disc 2 pixels further on
    ],
)
def test_a_worse_copy_is_a_copy(copy: np.ndarray) -> None:
    assert distance(signature(ORIGINAL), signature(copy)) <= THRESHOLD


@pytest.mark.parametrize(
    "other",
    [
        video(lambda t: (80 - 55 * t, 40)),  # the same places, the other way
        video(lambda t: (25 + 55 * t, 70)),  # the same motion, elsewhere
        video(lambda t: (25 + 30 * t, 40)),  # half as far
        video(lambda t: (25 + 55 * min(1.0, 2 * t), 40)),  # sooner there
        video(rightward, colour=(40, 60, 230)),  # another colour
        video(rightward, colour=(40, 127, 40)),  # another colour of the same luma
    ],
)
def test_a_lookalike_on_the_same_ground_is_not_a_copy(other: np.ndarray) -> None:
    assert distance(signature(ORIGINAL), signature(other)) > 1.5 * THRESHOLD


def test_distance_is_symmetric_and_zero_for_the_same() -> None:
    a, b = signature(ORIGINAL), signature(video(lambda t: (30 + 20 * t, 60)))
    assert distance(a, a) == 0
    assert distance(a, b) == distance(b, a) > 0
    assert distance(a, a[: 4 * FRAME_BYTES]) == 1.0
    assert distance(b"", b"") == 1.0


def test_the_largest_copy_stays_then_the_smallest_id() -> None:
    near = signature(encoded_again(ORIGINAL, size=(56, 56)))
    far = signature(video(lambda t: (80 - 55 * t, 90)))
    rows = [
        {"video_id": "c", "signature": signature(ORIGINAL), "content_hash": "h"},
        {"video_id": "b", "signature": signature(ORIGINAL), "content_hash": "h"},
        {"video_id": "a", "signature": near, "width": 60, "height": 60},
        {"video_id": "d", "signature": near, "width": 200},
        {"video_id": "e", "signature": far},
    ]
    expected = [("a", "d", "near"), ("b", "d", "near"), ("c", "d", "near")]
    for order in (rows, rows[::-1], [*rows[2:], *rows[:2]]):
        duplicates = find_duplicates(table(*order))
        assert [(copy.video_id, copy.kept, copy.kind) for copy in duplicates] == expected
        assert all(0 <= copy.distance <= THRESHOLD for copy in duplicates)
    exact = find_duplicates(table(*rows), threshold=0)
    assert [(copy.video_id, copy.kept, copy.kind, copy.distance) for copy in exact] == [
        ("c", "b", "exact", 0.0)
    ]


def test_videos_of_other_lengths_are_not_copies() -> None:
    copy = {"video_id": "a", "signature": signature(ORIGINAL), "duration": 4.0}
    assert find_duplicates(table(copy, copy | {"video_id": "b", "duration": 5.0, "content_hash": "b"})) == []
    assert (
        len(find_duplicates(table(copy, copy | {"video_id": "b", "duration": 4.2, "content_hash": "b"}))) == 1
    )


def test_nothing_and_one_video_have_no_copies() -> None:
    assert find_duplicates(table()) == []
    assert find_duplicates(table({"video_id": "a", "signature": signature(ORIGINAL)})) == []


@pytest.mark.parametrize("exact_search", [20_000, 100])
def test_copies_are_found_among_many(monkeypatch: pytest.MonkeyPatch, exact_search: int) -> None:
    """400 different videos and 40 copies, by the exact and by the approximate index."""
    monkeypatch.setattr(dedup, "_EXACT_SEARCH", exact_search)
    monkeypatch.setattr(dedup, "_CHUNK", 64)
    rng = np.random.default_rng(5)
    cells = rng.integers(0, 256, (400, 8 * FRAME_BYTES), dtype=np.uint8)
    noisy = np.clip(cells[:40].astype(int) + rng.integers(-6, 7, (40, 8 * FRAME_BYTES)), 0, 255).astype(
        np.uint8
    )
    rows = [{"video_id": f"v{i:03d}", "signature": cells[i].tobytes()} for i in range(400)]
    rows += [{"video_id": f"w{i:03d}", "signature": noisy[i].tobytes()} for i in range(40)]
    duplicates = {(copy.video_id, copy.kept) for copy in find_duplicates(table(*rows))}
    assert duplicates == {(f"w{i:03d}", f"v{i:03d}") for i in range(40)}


def test_a_group_of_more_copies_than_neighbours_is_still_one_group() -> None:
    rng = np.random.default_rng(6)
    cells = rng.integers(20, 236, 8 * FRAME_BYTES)
    rows = [
        {
            "video_id": f"v{i:03d}",
            "signature": (cells + rng.integers(-3, 4, cells.shape)).astype(np.uint8).tobytes(),
        }
        for i in range(100)
    ]
    duplicates = find_duplicates(table(*rows))
    assert len(duplicates) == 99
    assert {copy.kept for copy in duplicates} == {"v000"}


def test_signatures_may_stream_by_in_any_order_among_others() -> None:
    rows = [
        {"video_id": "a", "signature": signature(ORIGINAL)},
        {"video_id": "b", "signature": signature(video(lambda t: (80 - 55 * t, 90)))},
        {"video_id": "c", "signature": signature(encoded_again(ORIGINAL, size=(56, 56)))},
    ]
    stranger = {"video_id": "aa", "signature": signature(ORIGINAL)}
    light = table(*rows).drop_columns(["signature"])
    stored = table(rows[2], stranger, rows[1], rows[0]).select(["video_id", "signature"])
    duplicates = find_duplicates(light, stored.to_batches(max_chunksize=2))
    assert [(copy.video_id, copy.kept, copy.kind) for copy in duplicates] == [("c", "a", "near")]
    assert duplicates == find_duplicates(table(*rows))
    assert (
        find_duplicates(light, stored.slice(0, 2).to_batches()) == []
    )  # a and b have no signature: not near


# ---- Videos that come in parts


def in_parts(*parts: pa.Table, **options: Any) -> list[list[tuple[str, str, str]]]:
    """Return (video_id, kept, kind) of the copies in each part."""
    earlier = KeptVideos()
    return [
        [(copy.video_id, copy.kept, copy.kind) for copy in find_duplicates(part, earlier=earlier, **options)]
        for part in parts
    ]


def test_the_earliest_part_wins_and_within_a_part_the_largest_picture() -> None:
    near = signature(encoded_again(ORIGINAL, size=(56, 56)))
    far = signature(video(lambda t: (80 - 55 * t, 90)))
    first = table(
        {"video_id": "m", "signature": signature(ORIGINAL), "content_hash": "h"},
        {"video_id": "n", "signature": near, "width": 60},
    )
    second = table(
        {"video_id": "a", "signature": near, "width": 500},  # a larger copy of m, later
        {"video_id": "b", "signature": signature(ORIGINAL), "content_hash": "h"},
        {"video_id": "y", "signature": far},
        {"video_id": "z", "signature": far, "width": 200},
    )
    third = table({"video_id": "c", "signature": far, "content_hash": "y"})
    assert in_parts(first, second, third) == [
        [("n", "m", "near")],
        [("a", "m", "near"), ("b", "m", "exact"), ("y", "z", "near")],
        [("c", "z", "near")],  # y was dropped, so its bytes are not known any more
    ]
    assert in_parts(first, second, threshold=0.0) == [[], [("b", "m", "exact")]]


def test_one_part_is_decided_as_without_parts() -> None:
    rows = [
        {"video_id": f"v{i}", "signature": signature(encoded_again(ORIGINAL, size=(60 + 9 * i, 80)))}
        for i in range(4)
    ]
    whole = [(copy.video_id, copy.kept, copy.kind) for copy in find_duplicates(table(*rows))]
    assert in_parts(table(*rows)) == [whole]
    assert len(whole) == 3


def test_a_group_goes_as_a_whole_if_one_of_it_is_a_copy_of_an_earlier_video() -> None:
    """b is a copy of a, by its bytes; a alone looks like the earlier video."""
    earlier = table({"video_id": "e", "signature": signature(ORIGINAL)})
    later = table(
        {"video_id": "a", "signature": signature(ORIGINAL), "content_hash": "h"},
        {"video_id": "b", "signature": b"", "content_hash": "h"},
    )
    assert in_parts(earlier, later) == [[], [("a", "e", "near"), ("b", "e", "near")]]


def test_videos_whose_digests_are_equal_by_chance_are_not_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dedup, "_digests", lambda hashes: np.zeros(len(hashes), dtype=np.uint64))
    first = table(*({"video_id": f"line\n{name}", "content_hash": name} for name in "abc"))
    second = table({"video_id": "d"}, {"video_id": "e", "content_hash": "b"})
    assert in_parts(first, second) == [[], [("e", "line\nb", "exact")]]


@pytest.mark.parametrize("exact_search", [20_000, 50])
def test_copies_of_earlier_parts_are_found_among_many(
    monkeypatch: pytest.MonkeyPatch, exact_search: int
) -> None:
    """400 different videos in four parts, then 40 near and 40 exact copies; the index is exact or approximate."""
    monkeypatch.setattr(dedup, "_EXACT_SEARCH", exact_search)
    monkeypatch.setattr(dedup, "_CHUNK", 64)
    monkeypatch.setattr(dedup, "_ADDED_AT_ONCE", 48)
    rng = np.random.default_rng(5)
    cells = rng.integers(0, 256, (400, 8 * FRAME_BYTES), dtype=np.uint8)
    copied = rng.permutation(400)[:40]
    noise = rng.integers(-6, 7, (40, 8 * FRAME_BYTES))
    noisy = np.clip(cells[copied].astype(int) + noise, 0, 255).astype(np.uint8)
    rows = [{"video_id": f"v{i:03d}", "signature": cells[i].tobytes()} for i in range(400)]
    parts = [table(*rows[start : start + 100]) for start in range(0, 400, 100)]
    parts.append(table(*({"video_id": f"a{i:03d}", "signature": noisy[i].tobytes()} for i in range(40))))
    parts.append(table(*({"video_id": f"b{i:03d}", "content_hash": f"v{copied[i]:03d}"} for i in range(40))))
    *without, near, exact = in_parts(*parts)
    assert without == [[], [], [], []]
    assert near == [(f"a{i:03d}", f"v{copied[i]:03d}", "near") for i in range(40)]
    assert exact == [(f"b{i:03d}", f"v{copied[i]:03d}", "exact") for i in range(40)]
