"""Stage 1 as a whole over a handful of real files, through Ray: the funnel, the stores, a second run."""

import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pytest

from gve_ray.config import StageResources
from gve_ray.demo.render import encode_mp4
from gve_ray.stage import StageCounts
from gve_ray.store import AssetReader, StoreError
from gve_ray.synthesis import quality
from gve_ray.synthesis.assets import build_assets, open_assets
from gve_ray.synthesis.config import MediaConfig, QualityConfig, SynthesisResources
from gve_ray.synthesis.ingest import ingest_fingerprint

MEDIA = MediaConfig(max_pixels=56 * 56, min_pixels=4 * 28 * 28, clips=1, reference_frames=1)
RESOURCES = SynthesisResources(media=StageResources(actors=1, num_cpus=0.5, batch_size=4))


# Ray starts processes by the dozen, which takes long where other work has the cores.
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    import ray

    root = str(Path(__file__).resolve().parents[2])
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        logging_level="ERROR",
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": root}},
    )
    yield
    ray.shutdown()


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


def build(output: Path, manifest: pa.Table, *, work: Path | None = None, **quality: Any) -> list[StageCounts]:
    assets, rejects = open_assets(str(output))
    return build_assets(
        manifest,
        media=MEDIA,
        quality=QualityConfig(**quality),
        resources=RESOURCES,
        seed=7,
        assets=assets,
        rejects=rejects,
        work=str(work or output / "work"),
    )


def ingest_version(work: Path) -> int:
    return lance.dataset(str(work / f"ingest-{ingest_fingerprint(MEDIA, 7)[:16]}.lance")).version


def test_from_a_manifest_to_assets_and_rejects_and_again(
    cluster: None, tmp_path: Path, manifest: pa.Table
) -> None:
    counts = build(tmp_path / "one", manifest)
    assert [(c.name, c.n_in, c.n_out, c.n_rejected) for c in counts] == [
        ("rectify", 5, 4, 1),
        ("integrity", 6, 5, 1),
        ("duplicates", 5, 3, 2),
        ("dynamics", 3, 2, 1),
        ("consistency", 2, 2, 0),
    ]
    assets, rejects = open_assets(str(tmp_path / "one"))
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
    assert open_assets(str(tmp_path / "two"))[0].keys() == {"a", "b", "c", "e"}

    # Verdicts on videos that are no longer in the manifest would be left behind: refused.
    with pytest.raises(
        StoreError, match=r"1 videos \(first 'f'\) are rejected by integrity .*new output folder"
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


def test_many_captions_are_judged_by_the_cluster_in_their_order(
    cluster: None, monkeypatch: pytest.MonkeyPatch
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
    captions, verdict = quality.rectify_captions(table)
    assert list(captions.items()) == [("a", texts[0]), ("d", texts[3]), ("f", texts[5])]
    assert [(row["video_id"], row["reason"]) for row in verdict.rejects] == [("c", "file_name"), ("e", "url")]
    assert verdict.counts.n_in == 5
