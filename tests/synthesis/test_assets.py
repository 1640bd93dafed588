"""Stage 1 as a whole over real files: the funnel, the stores, a second run. Slow tests use Ray's actors."""

import json
import math
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image, ImageDraw, ImageFont

from gve_ray.config import ModelResources, StageResources
from gve_ray.demo.render import encode_mp4
from gve_ray.stage import StageCounts
from gve_ray.store import AssetReader, Store, StoreError
from gve_ray.synthesis import quality
from gve_ray.synthesis.config import (
    CaptionerConfig,
    ConsistencyConfig,
    ContentConfig,
    ContentFilterConfig,
    CustomStageConfig,
    MediaConfig,
    QualityConfig,
    SynthesisConfig,
    SynthesisResources,
)
from gve_ray.synthesis.ingest import ingest_fingerprint
from gve_ray.synthesis.pipeline import stages_of
from gve_ray.synthesis.stages import SynthesisRun
from tests.endpoint import embeddings_endpoint
from tests.local_actors import local_actors

MEDIA = MediaConfig(max_pixels=56 * 56, min_pixels=4 * 28 * 28, clips=1, reference_frames=1)
RESOURCES = SynthesisResources(
    media=StageResources(actors=1, num_cpus=0.5, batch_size=4),
    content=StageResources(actors=1, num_cpus=0.5, batch_size=2),
    consistency=ModelResources(actors=1, num_cpus=0.5, num_gpus=0),
)


# Ray starts processes by the dozen, which takes long where other work has the cores.
pytestmark = pytest.mark.timeout(600)


def write(path: Path, *, turn: float, size: int = 64, moving: bool = True, crf: int = 18) -> None:
    """4 s of a bright disc on a dark ground that runs in a direction, or stays."""
    y, x = np.mgrid[0:64, 0:64].astype(float)
    pictures = []
    for i in range(24):
        run = 22 * (i / 23 - 0.5) * moving
        away = np.hypot(x - 32 - run * math.cos(turn), y - 32 - run * math.sin(turn))
        grey = 40 + 190 * np.clip(9 - away, 0, 1)
        picture = grey[..., None].repeat(3, axis=2).astype(np.uint8)
        pictures.append(picture.repeat(size // 64, axis=0).repeat(size // 64, axis=1))
    encode_mp4(path, pictures, fps=6, width=size, height=size, crf=crf)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    folder = tmp_path_factory.mktemp("raw")
    write(folder / "a.mp4", turn=0.0)
    write(folder / "b.mp4", turn=1.6)
    write(folder / "c.mp4", turn=0.0, size=128, crf=26)  # a, larger
    shutil.copy(folder / "b.mp4", folder / "d.mp4")
    write(folder / "e.mp4", turn=0.0, moving=False)
    (folder / "f.mp4").write_bytes(b"")
    captions = {
        "a": "a disc goes right",
        "b": "<b>a disc goes down</b>",
        "c": "IMG_0001.MOV",
        "d": None,
        "e": "a disc stays",
        "f": "a lost video",
    }
    return pa.table(
        {
            "video_id": list(captions),
            "uri": [str(folder / f"{name}.mp4") for name in captions],
            "caption": pa.array(list(captions.values()), pa.string()),
        }
    )


def run_of(
    output: Path,
    manifest: pa.Table,
    *,
    work: Path | None = None,
    media: MediaConfig = MEDIA,
    stages: Sequence[CustomStageConfig] = (),
    **quality: Any,
) -> SynthesisRun:
    config = SynthesisConfig(
        input="the manifest below",
        output=str(output),
        captioner=CaptionerConfig(model="none"),
        work=str(work) if work else None,
        seed=7,
        media=media,
        quality=QualityConfig(**quality),
        stages=list(stages),
        resources=RESOURCES,
        commit_seconds=1.0,
    )
    return SynthesisRun(config=config, manifest=manifest)


def build(output: Path, manifest: pa.Table, **changes: Any) -> list[StageCounts]:
    """Run the stages up to assets.lance; return their counts."""
    run, every_count = run_of(output, manifest, **changes), []
    for stage in stages_of(run.config):
        counts = stage.run(run, stage)
        run.shared.close(stage)
        if counts is None:
            return every_count
        every_count.append(counts)
    raise AssertionError("no stage writes assets.lance")


def stores(output: Path) -> tuple[Store, Store]:
    run = run_of(output, pa.table({}))
    return run.assets, run.rejects


def ingest_version(work: Path) -> int:
    return lance.dataset(str(work / f"ingest-{ingest_fingerprint(MEDIA, 7)[:16]}.lance")).version


@pytest.fixture
def here(cluster: str) -> Iterator[None]:
    with local_actors():
        yield


def test_from_a_manifest_to_assets_and_rejects_and_again(
    here: None, tmp_path: Path, manifest: pa.Table
) -> None:
    counts = build(tmp_path / "one", manifest)
    assert [(c.name, c.n_in, c.n_out, c.n_rejected) for c in counts] == [
        ("rectify", 5, 4, 1),
        ("integrity", 6, 5, 1),
        ("duplicates", 5, 3, 2),
        ("dynamics", 3, 2, 1),
        ("consistency", 2, 2, 0),
    ]
    assets, rejects = stores(tmp_path / "one")
    rows = {row["video_id"]: row for row in assets.table().to_pylist()}
    assert {video_id: row["caption"] for video_id, row in rows.items()} == {
        "b": "a disc goes down",
        "c": None,
    }
    assert rows["c"]["width"] == 128
    assert rows["b"]["consistency"] is None
    assert {(row["video_id"], row["stage"], row["reason"]) for row in rejects.table().to_pylist()} == {
        ("c", "rectify", "file_name"),
        ("f", "integrity", "empty"),
        ("a", "duplicates", "near_duplicate"),
        ("d", "duplicates", "exact_duplicate"),
        ("e", "dynamics", "static"),
    }
    reader = AssetReader(assets.uri)
    parts = [f"asset://b/{part}" for part in ("video", "frame/0", "clip/0")]
    assert [len(frames.pixels) for frames in reader.frames_many(parts)] == [8, 1, 8]

    # A second run does no work and returns the same counts.
    versions = [lance.dataset(store.uri).version for store in (assets, rejects)]
    again = build(tmp_path / "one", manifest)
    assert [(c.n_in, c.n_out) for c in again] == [(c.n_in, c.n_out) for c in counts]
    assert [lance.dataset(store.uri).version for store in (assets, rejects)] == versions

    # Another threshold in another folder, on the same work folder: no file is opened.
    work = tmp_path / "one" / "work"
    before = ingest_version(work)
    other = build(tmp_path / "two", manifest, work=work, motion_threshold=0.0, near_duplicate_threshold=0.0)
    assert ingest_version(work) == before
    assert [c.n_rejected for c in other] == [1, 1, 1, 0, 0]
    assert stores(tmp_path / "two")[0].keys() == {"a", "b", "c", "e"}

    # Verdicts on videos that are no longer in the manifest would be left behind: refused.
    with pytest.raises(
        StoreError, match=r"1 videos \(first 'c'\) are rejected by rectify .*new output folder"
    ):
        build(
            tmp_path / "two",
            manifest.slice(0, 1),
            work=work,
            motion_threshold=0.0,
            near_duplicate_threshold=0.0,
        )
    moved = manifest.set_column(1, "uri", pa.array([f"/elsewhere/{i}.mp4" for i in range(6)]))
    with pytest.raises(StoreError, match="the manifest now says /elsewhere/"):
        build(tmp_path / "three", moved, work=work)


@pytest.mark.slow
def test_many_captions_are_judged_by_the_cluster_in_their_order(
    cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [
        "a dog runs on a beach",
        None,
        "IMG_2034.MOV",
        "two cats sleep",
        "http://x.com/a",
        "rain falls on a road",
    ]
    table = pa.table({"video_id": list("abcdef"), "caption": texts})
    monkeypatch.setattr(quality, "_PART", 1)
    captions, rejects = quality.rectify_captions(table)
    assert list(captions.items()) == [("a", texts[0]), ("d", texts[3]), ("f", texts[5])]
    assert {video_id: reject.reason for video_id, reject in rejects.items()} == {"c": "file_name", "e": "url"}


def direction(text: str, pictures: list[np.ndarray]) -> tuple[float, float]:
    """An embedder: a text ends with a direction in degrees, the disc of a video runs in one."""
    if pictures:
        (x, y), (later_x, later_y) = (centre(picture) for picture in (pictures[0], pictures[-1]))
        angle = math.atan2(later_y - y, later_x - x)
    else:
        angle = math.radians(float(text.split()[-1]))
    return math.cos(angle), math.sin(angle)


def centre(picture: np.ndarray) -> tuple[float, float]:
    y, x = np.nonzero(picture.mean(axis=2) > 120)
    return float(x.mean()), float(y.mean())


@pytest.mark.slow
def test_an_embedder_behind_an_endpoint_filters_and_is_judged(
    cluster: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    texts: list[str] = []

    def embed(text: str, pictures: list[np.ndarray]) -> tuple[float, float]:
        texts.append(text)
        return direction(text, pictures)

    turns = {"right": 0, "down": 90, "left": 180}
    for name, degrees in turns.items():
        write(tmp_path / f"{name}.mp4", turn=math.radians(degrees), size=128)
    captions = {name: f"runs at {degrees}" for name, degrees in turns.items()}

    def scored(captions: dict[str, str], output: str, url: str) -> SynthesisRun:
        manifest = pa.table(
            {
                "video_id": list(captions),
                "uri": [str(tmp_path / f"{name}.mp4") for name in captions],
                "caption": list(captions.values()),
            }
        )
        embedder = ConsistencyConfig(
            model="directions", engine="openai", url=url, video_as="images", threshold=0.5
        )
        run = run_of(tmp_path / output, manifest, consistency=embedder, near_duplicate_threshold=0.0)
        for stage in stages_of(run.config):
            stage.run(run, stage)
            run.shared.close(stage)
            if stage.name == "consistency":
                return run
        raise AssertionError("no stage scores captions")

    # With the captions of other videos, the same model tells nothing apart.
    others = dict(zip(turns, [captions["left"], captions["right"], captions["down"]], strict=True))
    with embeddings_endpoint(embed) as url:
        run = scored(captions, "true", url)
        embedded = [text for text in texts if text]
        shuffled = scored(others, "shuffled", url)
    assert run.videos["video_id"].to_pylist() == ["down", "left", "right"]
    assert run.consistency == pytest.approx(dict.fromkeys(turns, 1.0), abs=0.05)
    separation = run.shared.separation()
    assert separation is not None
    assert (separation.videos, separation.auc) == (3, 1.0)
    assert (separation.rejected, separation.mismatched_rejected) == (0.0, 1.0)
    assert sorted(embedded) == sorted(captions.values())  # each once, though each is another's mismatch
    assert shuffled.videos.num_rows == 0
    separation = shuffled.shared.separation()
    assert separation is not None
    assert separation.auc < 0.5
    assert "rejects at random" not in caplog.text  # three videos are too few to say so


def write_with_text(path: Path, *, text: str) -> None:
    """4 s of a bright disc that crosses a dark picture of 224 x 224 pixels, with a line of text burnt in."""
    font = ImageFont.load_default(size=18)
    pictures = []
    for i in range(24):
        picture = Image.new("RGB", (224, 224), (40, 40, 40))
        draw = ImageDraw.Draw(picture)
        draw.ellipse((20 + 6 * i, 60, 60 + 6 * i, 100), fill=(230, 230, 230))
        draw.text((8, 190), text, fill=(255, 255, 255), font=font)
        pictures.append(np.asarray(picture))
    encode_mp4(path, pictures, fps=6, width=224, height=224, crf=18)


@pytest.mark.slow
def test_a_filter_of_the_user_s_own_rejects_videos_with_text_burnt_in(cluster: str, tmp_path: Path) -> None:
    texts = {"plain": "", "subtitled": "Subscribe to my channel now", "credits": "filmed by Willi Milli"}
    for name, text in texts.items():
        write_with_text(tmp_path / f"{name}.mp4", text=text)
    manifest = pa.table(
        {
            "video_id": list(texts),
            "uri": [str(tmp_path / f"{name}.mp4") for name in texts],
            "caption": pa.array([None] * len(texts), pa.string()),
        }
    )
    text_overlay = CustomStageConfig(
        name="text_overlay",
        after="dynamics",
        worker="examples.add_a_stage:TextOverlayFilter",
        options={"max_share": 0.12},
        resources=RESOURCES.media,
    )
    options: dict[str, Any] = {
        "work": tmp_path / "work",
        "media": MediaConfig(max_pixels=224 * 224, clips=0, reference_frames=0),
        "stages": [text_overlay],
        "near_duplicate_threshold": 0.0,
    }
    counts = build(tmp_path / "one", manifest, **options)
    assert [(c.name, c.n_in, c.n_out, c.n_rejected) for c in counts] == [
        ("rectify", 0, 0, 0),
        ("integrity", 3, 3, 0),
        ("duplicates", 3, 3, 0),
        ("dynamics", 3, 3, 0),
        ("text_overlay", 3, 1, 2),
        ("consistency", 1, 1, 0),
    ]
    assets, rejects = stores(tmp_path / "one")
    assert assets.keys() == {"plain"}
    rows = rejects.table().to_pylist()
    assert {(row["video_id"], row["stage"], row["unit"], row["reason"]) for row in rows} == {
        ("subtitled", "text_overlay", "video", "text_overlay"),
        ("credits", "text_overlay", "video", "text_overlay"),
    }
    assert all(json.loads(row["scores"])["text_share"] > 0.12 for row in rows)
    # Started again, it decides nothing twice.
    (passed,) = (tmp_path / "work").glob("text_overlay-*[0-9a-f].lance")
    version = lance.dataset(str(passed)).version
    assert [(c.n_in, c.n_out) for c in build(tmp_path / "one", manifest, **options)] == [
        (c.n_in, c.n_out) for c in counts
    ]
    assert lance.dataset(str(passed)).version == version


@pytest.mark.slow  # Starts five pools of actors.
def test_content_filters_and_semantic_duplicates(cluster: str, tmp_path: Path) -> None:
    texts = {"again": ".", "plain": "", "subtitled": "Subscribe to my channel now"}
    for name, text in texts.items():
        write_with_text(tmp_path / f"{name}.mp4", text=text)
    manifest = pa.table(
        {
            "video_id": list(texts),
            "uri": [str(tmp_path / f"{name}.mp4") for name in texts],
            "caption": pa.array(["runs at 0", None, None], pa.string()),
        }
    )

    def run(output: str, url: str, threshold: float) -> list[tuple[str, int, int]]:
        embedder = ConsistencyConfig(
            model="directions", engine="openai", url=url, video_as="images", threshold=-1.0
        )
        counts = build(
            tmp_path / output,
            manifest,
            work=tmp_path / "work",
            media=MediaConfig(max_pixels=224 * 224, clips=1, reference_frames=0),
            near_duplicate_threshold=0.0,
            content=ContentConfig(text_overlay=ContentFilterConfig(threshold=threshold)),
            consistency=embedder,
            semantic_duplicate_threshold=0.99,
        )
        return [(c.name, c.n_in, c.n_rejected) for c in counts[4:]]

    with embeddings_endpoint(direction) as url:
        strict = run("strict", url, 0.01)
        (scores,) = (tmp_path / "work").glob("content-*[0-9a-f].lance")
        version = lance.dataset(str(scores)).version
        lenient = run("lenient", url, 0.5)
    assert strict == [
        ("content", 3, 0),
        ("text_overlay", 3, 1),
        ("consistency", 2, 0),
        ("semantic_duplicates", 2, 1),  # the disc runs the same way in all of them
    ]
    assets, rejects = stores(tmp_path / "strict")
    assert {row["video_id"]: row["consistency"] for row in assets.table().to_pylist()} == {
        "again": pytest.approx(1.0, abs=0.05)
    }
    assert {row["video_id"]: row["reason"] for row in rejects.table().to_pylist()} == {
        "plain": "semantic_duplicate",
        "subtitled": "text_overlay",
    }
    # Another threshold computes no scores.
    assert lenient == [
        ("content", 3, 0),
        ("text_overlay", 3, 0),
        ("consistency", 3, 0),
        ("semantic_duplicates", 3, 2),
    ]
    assert lance.dataset(str(scores)).version == version
