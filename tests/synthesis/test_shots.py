"""Films of rendered scenes are split at their cuts, and each shot is read as a video of its own."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from gve_ray.demo.scenes import draw_scene
from gve_ray.job import PreflightError
from gve_ray.media import FrameRequest, MediaError, Reason, decode, decode_jpeg
from gve_ray.schema import AssetRef
from gve_ray.stage import Reject
from gve_ray.store import Store, StoreError
from gve_ray.synthesis import ingest
from gve_ray.synthesis.assets import decoded_videos
from gve_ray.synthesis.captioner import Media
from gve_ray.synthesis.config import CaptionerConfig, MediaConfig, ShotsConfig, SynthesisConfig
from gve_ray.synthesis.dedup import find_duplicates
from gve_ray.synthesis.ingest import INGEST_SCHEMA, IngestWorker, clip_spans, ingest_fingerprint
from gve_ray.synthesis.pipeline import stages_of
from gve_ray.synthesis.shots import PARENT_SCHEMA, ShotsWorker, check_ids, parents_of, shot_id, with_shots
from gve_ray.synthesis.stages import SynthesisRun
from tests.synthesis.films import encode_again, write_film

MEDIA = MediaConfig(max_pixels=56 * 56, min_pixels=28 * 28, clip_seconds=(1.0, 2.0))
SHOTS = ShotsConfig(longer_than=10.0, shortest=1.0, longest=30.0)
SEEDS = range(200, 208)
Row = dict[str, Any]


@pytest.fixture(scope="module")
def cuts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[float]]:
    """A folder with a film of eight scenes, its bytes again, a larger encoding of it, a short video and a
    broken one; and the times of the cuts of the film.
    """
    folder = tmp_path_factory.mktemp("films")
    times = write_film(folder / "film.mp4", SEEDS)
    shutil.copy(folder / "film.mp4", folder / "same.mp4")
    encode_again(folder / "film.mp4", folder / "larger.mp4", width=168, height=126, crf=28)
    write_film(folder / "short.mp4", [77])
    (folder / "broken.mp4").write_bytes((folder / "film.mp4").read_bytes()[:20_000])
    return folder, times


@pytest.fixture(scope="module")
def parents(cuts: tuple[Path, list[float]]) -> Store:
    """The store of the stage "shots"."""
    folder, _ = cuts
    rows = [
        {"video_id": name, "uri": str(folder / f"{name}.mp4")}
        for name in ("film", "larger", "same", "short", "broken")
    ]
    *results, broken = ShotsWorker(SHOTS, MEDIA)(rows)
    assert isinstance(broken, Reject)
    assert broken.reason in ("truncated", "corrupt")
    store = Store(str(folder / "parents.lance"), PARENT_SCHEMA).create()
    store.append(pa.Table.from_pylist(results, schema=PARENT_SCHEMA))
    return store


def listed(parents: Store) -> pa.Table:
    rows = parents.table(["video_id", "uri"])
    return with_shots(rows.append_column("caption", pa.nulls(len(rows), pa.string())), parents)


def shots_of(parents: Store, film: str = "film") -> list[Row]:
    return [row for row in listed(parents).to_pylist() if row["parent_id"] == film]


def test_a_film_is_split_where_its_scenes_change(cuts: tuple[Path, list[float]], parents: Store) -> None:
    """Two scenes before the same background have no cut between them for FFmpeg's filter."""
    _, times = cuts
    backgrounds = [draw_scene(seed, "corpus", long=False).chapters[0].background for seed in SEEDS]
    (row,) = parents.take(["film"]).to_pylist()
    expected = [cut for i, cut in enumerate(times) if backgrounds[i] != backgrounds[i + 1]]
    assert len(expected) >= 5
    assert row["starts"] == pytest.approx([0.0, *expected])
    assert row["ends"] == pytest.approx([*expected, row["duration"]])


def test_the_shots_take_the_place_of_a_film_and_a_short_video_stays(parents: Store) -> None:
    (film,) = parents.take(["film"]).to_pylist()
    shots = shots_of(parents)
    assert [row["video_id"] for row in shots] == [f"film#{i:04d}" for i in range(len(film["starts"]))]
    assert [(row["start"], row["end"]) for row in shots] == [*zip(film["starts"], film["ends"], strict=True)]
    (short,) = [row for row in listed(parents).to_pylist() if not row["parent_id"]]
    assert (short["video_id"], short["parent_id"], short["start"]) == ("short", None, None)
    moved = parents.table(["video_id"]).append_column("uri", pa.array(["/elsewhere.mp4"] * 4))
    with pytest.raises(StoreError, match=r"the manifest now says /elsewhere.mp4"):
        with_shots(moved, parents)


@pytest.fixture(scope="module")
def worker(parents: Store) -> IngestWorker:
    return IngestWorker(MEDIA, seed=1, parents=parents)


@pytest.fixture(scope="module")
def shots(parents: Store, worker: IngestWorker) -> dict[str, Row]:
    """Rows of the stage "integrity", by id."""
    rows = worker(listed(parents).to_pylist())
    assert all(isinstance(row, dict) and set(row) == set(INGEST_SCHEMA.names) for row in rows)
    return {row["video_id"]: row for row in rows}  # type: ignore[index,misc]


def test_the_frames_of_a_shot_are_those_of_the_file_within_its_span(
    cuts: tuple[Path, list[float]], shots: dict[str, Row]
) -> None:
    """10 frames a second: frame i of the film is shown at i / 10 s."""
    folder, _ = cuts
    every = decode(
        str(folder / "film.mp4"),
        [FrameRequest(k=None, at=tuple(np.arange(0, 40, 0.1) + 0.05))],
        max_pixels=3136,
    )
    pixels = every.samples[0].pixels
    own = [row for row in shots.values() if row["shot"] and row["shot"]["parent_id"] == "film"]
    assert len(own) >= 6
    for row in own:
        first, stop = round(row["shot"]["start"] * 10), round(row["shot"]["end"] * 10)
        assert (row["indices"][0], row["indices"][-1]) == (first, stop - 1)
        assert row["total_frames"] == stop - first
        assert row["duration"] == pytest.approx((stop - first) / 10)
        assert row["timestamps"] == pytest.approx([i / 10 for i in row["indices"]])
        clips = [i for clip in row["clips"] for i in clip["indices"]]
        references = [round(second * 10) for second in row["reference_timestamps"]]
        assert all(first <= i < stop for i in (*clips, *references))
        assert len(row["reference_frames"]) == 2
        stored = zip(row["indices"], row["frames"], strict=True)
        assert all(np.abs(decode_jpeg(jpeg).astype(int) - pixels[i]).mean() < 4 for i, jpeg in stored)
    whole = shots["short"]
    assert (whole["shot"], whole["parent"]) == (None, None)


def test_shots_are_the_same_however_they_are_batched(
    parents: Store, worker: IngestWorker, shots: dict[str, Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "_shots_at_once", 1)
    rows = shots_of(parents)
    assert worker(rows) == [shots[row["video_id"]] for row in rows]


def test_a_file_that_was_rewritten_is_refused(parents: Store, worker: IngestWorker, tmp_path: Path) -> None:
    """The new file is as long as the first two shots, so one request is within it and one is not."""
    rows = shots_of(parents)
    write_film(tmp_path / "film.mp4", [300], seconds=(rows[1]["end"], rows[1]["end"]))
    results = worker([{**rows[i], "uri": str(tmp_path / "film.mp4")} for i in (1, -1)])
    results += worker([{**rows[1], "uri": str(tmp_path / "film.mp4")}])
    assert [getattr(result, "reason", None) for result in results] == ["changed"] * 3


def test_if_shots_cannot_be_read_together_each_is_read_by_itself(
    parents: Store, worker: IngestWorker, shots: dict[str, Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    process = worker._process

    class Crashing:
        """Dies whenever it is asked for the second shot."""

        def decode(self, uri: str, plan: Any, **settings: Any) -> Any:
            if "film#0001" in dict(plan.keywords["shots"]):
                raise MediaError(Reason.CRASHED, "SIGSEGV")
            return process.decode(uri, plan, **settings)

    monkeypatch.setattr(worker, "_process", Crashing())
    rows = shots_of(parents)
    first, second, *others = worker(rows)
    assert isinstance(second, Reject)
    assert second.reason == "crashed"
    assert [first, *others] == [shots[row["video_id"]] for row in rows if row["video_id"] != "film#0001"]


def test_the_captioner_never_mistakes_one_shot_for_another(parents: Store, shots: dict[str, Row]) -> None:
    """An engine reuses what it has computed for a picture of the same name; a film has one content hash."""
    names = set()
    for shot in shots_of(parents):
        for ref in (AssetRef(shot["video_id"]), AssetRef(shot["video_id"], "frame")):
            media = Media(ref=ref, row=shots[shot["video_id"]])
            names.add(media.fingerprint(media.frames()))
    assert len(names) == 2 * len(shots_of(parents))


def test_ids_of_the_manifest_must_not_be_those_of_shots() -> None:
    check_ids(pa.chunked_array([["film", "film#7", "other#0001", "a#b"]]))
    with pytest.raises(
        PreflightError, match=r"'film#0001' could be that of a shot of 'film'; give it another"
    ):
        check_ids(pa.chunked_array([["film", "film#0001"]]))
    assert shot_id("film", 12345) == "film#12345"


def test_the_parent_of_an_id_is_known_from_the_manifest() -> None:
    manifest = pa.array(["film", "other#0001"])
    keys = ["film", "film#0000", "film#12345", "other#0001", "other#0001#0002", "stranger#0001"]
    assert parents_of(pa.array(keys), manifest).to_pylist() == [
        "film", "film", "film", "other#0001", "other#0001", "stranger#0001",
    ]  # fmt: skip


def copies(shots: dict[str, Row], folder: Path, *films: str) -> dict[str, str]:
    """Find the duplicates among the shots of films; return the shot that is kept in place of each."""
    rows = [row for row in shots.values() if row["shot"] and row["shot"]["parent_id"] in films]
    store = Store(str(folder / "decoded.lance"), INGEST_SCHEMA).create()
    store.append(pa.Table.from_pylist(rows, schema=INGEST_SCHEMA))
    videos = decoded_videos(store.table(["video_id", "uri"]), store)
    found = find_duplicates(videos, store.table(["video_id", "signature"]).to_batches())
    return {copy.video_id: copy.kept for copy in found}


def test_of_two_copies_of_a_film_one_loses_all_its_shots(
    parents: Store, shots: dict[str, Row], tmp_path: Path
) -> None:
    """Of equal files that with the larger id, of two encodings the smaller one."""
    ids = [row["video_id"] for row in shots_of(parents)]
    assert copies(shots, tmp_path / "same", "film", "same") == {
        video_id.replace("film", "same"): video_id for video_id in ids
    }
    assert copies(shots, tmp_path / "larger", "film", "larger") == {
        video_id: video_id.replace("film", "larger") for video_id in ids
    }


def config(**shots: Any) -> SynthesisConfig:
    return SynthesisConfig(
        input="videos", output="run", captioner=CaptionerConfig(model="m"), shots=ShotsConfig(**shots)
    )


def test_without_long_videos_nothing_changes() -> None:
    off, on = config(), config(longer_than=60)
    assert "shots" not in off.identity()
    assert on.identity() != config(longer_than=60, shortest=4.0).identity()
    assert [stage.name for stage in stages_of(off)][:2] == ["rectify", "integrity"]
    assert [stage.name for stage in stages_of(on)][:3] == ["rectify", "shots", "integrity"]
    same = ingest_fingerprint(MEDIA, 1)
    assert ingest_fingerprint(MEDIA, 1, off.shots) == same != ingest_fingerprint(MEDIA, 1, on.shots)
    with pytest.raises(ValueError, match=r"shots.shortest=20.0, longest=30.0: use at most half"):
        config(longer_than=60, shortest=20.0, longest=30.0)
    with pytest.raises(
        ValueError, match=r"shots.wall_clock_s=9000, resources.shots.stall_seconds=7500: a film"
    ):
        config(longer_than=60, wall_clock_s=9000)


def test_the_keys_of_a_part_are_those_of_its_videos_and_their_shots() -> None:
    manifest = pa.table({"video_id": ["a", "b"], "uri": ["a", "b"], "caption": [None, None]})
    whole = SynthesisRun(config=config(longer_than=60), manifest=manifest)
    first, second = (
        SynthesisRun(config=whole.config, manifest=manifest.slice(i, 1), part=i, parts=2, shared=whole.shared)
        for i in range(2)
    )
    keys = pa.array(["a", "a#0000", "b#0000", "lost"])
    assert first.of_part(keys) == {"a", "a#0000", "lost"}
    assert second.of_part(keys) == {"b#0000"}


def test_the_clips_of_a_shot_end_with_it(shots: dict[str, Row]) -> None:
    for row in shots.values():
        if row["shot"]:
            start, end = row["shot"]["start"], row["shot"]["end"]
            rng = ingest.seeded(1, row["video_id"], "clips")
            assert [(clip["start"], clip["end"]) for clip in row["clips"]] == clip_spans(
                end - start, MEDIA, rng, start=start
            )
            assert all(start <= clip["start"] < clip["end"] <= end for clip in row["clips"])
