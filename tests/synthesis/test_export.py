"""Export of pairs with their frames: nothing lost, the same bytes again, and readable by others' libraries."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pyarrow import fs

from gve_ray import cli
from gve_ray.job import PreflightError
from gve_ray.schema import ASSET_SCHEMA, PAIR_SCHEMA
from gve_ray.store import RunFolderError, Store, StoreError
from gve_ray.store.runfolder import filesystem
from gve_ray.synthesis import export as module
from gve_ray.synthesis.export import Form, export

VIDEOS = ("a", "b", "c", "d", "e")
FORMS: tuple[Form, ...] = ("webdataset", "datasets")


def jpeg(grey: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.full((28, 56, 3), grey, np.uint8)).save(out, "JPEG")
    return out.getvalue()


def frame(video: str, number: int) -> bytes:
    """The picture of a frame, which is another one for each video and number."""
    return jpeg(20 * VIDEOS.index(video) + 5 * number)


def asset(video: str) -> dict[str, Any]:
    clip = {
        "start": 0.5,
        "end": 1.5,
        "frames": [frame(video, 3)],
        "timestamps": [0.5],
        "indices": [4],
    }
    return dict.fromkeys(ASSET_SCHEMA.names) | {
        "video_id": video, "uri": f"/videos/{video}.mp4", "fps": 8.0, "duration": 2.0, "total_frames": 16,
        "frames": [frame(video, 0), frame(video, 1)], "timestamps": [0.0, 1.0], "indices": [0, 8],
        "reference_frames": [frame(video, 2)], "reference_timestamps": [0.75], "clips": [clip],
    }  # fmt: skip


def pair(task: str, number: int, query: dict[str, str], target: dict[str, str]) -> dict[str, Any]:
    empty = {"text": None, "image": None, "video": None}
    return {
        "pair_id": f"{task}{number}".lower(), "task": task, "query": empty | query, "target": empty | target,
        "negatives": [], "instruction": "Find it.", "domain": "CG", "style": "short",
    }  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    assets = Store(f"{folder}/assets.lance", ASSET_SCHEMA).create()
    assets.append(pa.Table.from_pylist([asset(video) for video in VIDEOS], schema=ASSET_SCHEMA))
    pairs = {
        "T2T": [pair("T2T", 0, {"text": "ein Würfel"}, {"text": "a cube"})],
        "T2V": [
            pair("T2V", n, {"text": f"video {v}"}, {"video": f"asset://{v}/video"})
            for n, v in enumerate(VIDEOS)
        ],
        "TV2V": [
            pair("TV2V", 0, {"text": "then", "video": "asset://d/clip/0"}, {"video": "asset://d/video"}),
        ],
        "TI2V": [
            pair("TI2V", 0, {"text": "now", "image": "asset://b/frame/0"}, {"video": "asset://b/video"})
        ],
    }
    for task, rows in pairs.items():
        below = folder / "uvrd" / f"task={task}"
        below.mkdir(parents=True)
        for n, part in enumerate((rows[:3], rows[3:])):
            if part:
                pq.write_table(
                    pa.Table.from_pylist(part, schema=PAIR_SCHEMA), below / f"part-{n:05d}.parquet"
                )
        (below / ".part-00009.parquet.partial").write_bytes(b"of a run that was killed")
    return folder


def files_of(folder: Path) -> dict[str, bytes]:
    found = {
        str(path.relative_to(folder)): path
        for form in ("tar", "parquet")
        for path in folder.rglob(f"*.{form}")
    }
    return {name: path.read_bytes() for name, path in sorted(found.items())}


def members(data: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return {info.name: archive.extractfile(info).read() for info in archive}  # type: ignore[union-attr]


def test_archives_have_every_pair_with_its_texts_and_frames(run: Path, tmp_path: Path) -> None:
    result = export(str(run), str(tmp_path / "out"), form="webdataset", shard_pairs=2)
    assert result.pairs == {"T2T": 1, "T2V": 5, "TI2V": 1, "TV2V": 1}
    assert result.files == {"T2T": 1, "T2V": 3, "TI2V": 1, "TV2V": 1}
    archives = files_of(tmp_path / "out")
    assert list(archives) == [
        "T2T/00000.tar", "T2V/00000.tar", "T2V/00001.tar", "T2V/00002.tar", "TI2V/00000.tar", "TV2V/00000.tar",
    ]  # fmt: skip
    second = members(archives["T2V/00001.tar"])  # pairs of two files of the run
    assert list(second) == [
        f"t2v{n}.{name}" for n in (2, 3) for name in ("query.txt", "target.000.jpg", "target.001.jpg", "json")
    ]
    assert second["t2v3.query.txt"] == b"video d"
    assert second["t2v3.target.001.jpg"] == frame("d", 1)
    assert json.loads(second["t2v2.json"]) == {
        "pair_id": "t2v2", "task": "T2V", "instruction": "Find it.", "domain": "CG", "style": "short",
        "target": {
            "ref": "asset://c/video", "uri": "/videos/c.mp4", "timestamps": [0.0, 1.0], "fps": 8.0, "duration": 2.0,
        },
    }  # fmt: skip
    assert members(archives["T2T/00000.tar"])["t2t0.query.txt"].decode() == "ein Würfel"
    composed = members(archives["TI2V/00000.tar"])
    assert composed["ti2v0.query.jpg"] == frame("b", 2)
    assert json.loads(composed["ti2v0.json"])["query"]["timestamps"] == [0.75]
    assert members(archives["TV2V/00000.tar"])["tv2v0.query.000.jpg"] == frame("d", 3)


def test_webdataset_reads_the_archives(run: Path, tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")  # not in the lock
    export(str(run), str(tmp_path / "out"), form="webdataset", shard_pairs=2)
    archives = sorted(map(str, (tmp_path / "out").rglob("*.tar")))
    samples = list(webdataset.WebDataset(archives, shardshuffle=False).decode("pil"))
    assert len(samples) == len({sample["__key__"] for sample in samples}) == 8
    (sample,) = (sample for sample in samples if sample["__key__"] == "t2v3")
    assert (sample["query.txt"], sample["json"]["task"]) == ("video d", "T2V")
    assert [int(np.asarray(sample[f"target.00{n}.jpg"]).mean()) for n in (0, 1)] == [60, 65]


def test_parquet_has_the_features_of_datasets(run: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    export(str(run), str(tmp_path / "out"), form="datasets", shard_pairs=2)
    files = sorted(map(str, (tmp_path / "out").rglob("*.parquet")))
    loaded = datasets.load_dataset(
        "parquet", data_files=files, cache_dir=str(tmp_path / "cache"), split="train"
    )
    assert loaded.features["query_image"] == datasets.Image()
    assert loaded.features["query_video"] == datasets.Video()
    assert loaded.features["target_frames"] == datasets.Sequence(datasets.Image())
    rows = {row["pair_id"]: row for row in loaded}
    assert len(rows) == len(loaded) == 8
    shown = rows["ti2v0"]
    assert np.asarray(shown["query_image"]).shape == (28, 56, 3)
    assert [int(np.asarray(picture).mean()) for picture in shown["target_frames"]] == [20, 25]  # of video b
    assert (shown["query_text"], shown["query_ref"]) == ("now", "asset://b/frame/0")
    assert rows["t2t0"]["target_frames"] == []
    assert rows["t2t0"]["target_image"] is None
    assert rows["tv2v0"]["query_timestamps"] == [0.5]
    by_card = datasets.load_dataset(
        str(tmp_path / "out"), "T2V", cache_dir=str(tmp_path / "cache"), split="train"
    )
    assert by_card["pair_id"][:] == [f"t2v{n}" for n in range(5)]


def test_videos_may_be_their_source_files(run: Path, tmp_path: Path) -> None:
    source = tmp_path / "d.mkv"
    source.write_bytes(b"the file of d")
    store = Store(f"{run}/assets.lance", ASSET_SCHEMA).create()
    store.delete(["d"])
    shot = {"parent_id": "film", "start": 4.0, "end": 6.0}
    store.append(pa.Table.from_pylist([asset("d") | {"uri": str(source), "shot": shot}], schema=ASSET_SCHEMA))
    for form in FORMS:
        export(str(run), str(tmp_path / form), form=form, videos="files", tasks=["TV2V"])
    files = members(files_of(tmp_path / "webdataset")["TV2V/00000.tar"])
    assert list(files) == [f"tv2v0.{name}" for name in ("query.txt", "query.mkv", "target.mkv", "json")]
    assert files["tv2v0.query.mkv"] == b"the file of d"
    facts = json.loads(files["tv2v0.json"])
    assert [(facts[side]["start"], facts[side]["end"]) for side in ("query", "target")] == [
        (0.5, 1.5),
        (4.0, 6.0),
    ]
    (row,) = pq.read_table(next((tmp_path / "datasets").rglob("0*.parquet"))).to_pylist()
    assert row["target_video"] == {"bytes": b"the file of d", "path": str(source)}
    assert (row["query_start"], row["query_end"], row["query_frames"]) == (0.5, 1.5, [])
    with pytest.raises(StoreError, match=r"a: its file /videos/a.mp4 cannot be read"):
        export(str(run), str(tmp_path / "lost"), form="webdataset", videos="files", tasks=["T2V"])


@pytest.mark.parametrize("form", FORMS)
def test_an_export_that_is_killed_goes_on_to_the_same_bytes(
    run: Path, tmp_path: Path, form: Form, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    export(str(run), str(whole), form=form, shard_pairs=2)

    class Killed(BaseException):
        pass

    full_pairs, calls = module._full_pairs, []

    def killed(pairs: Any, *more: Any) -> Any:
        calls.append(form)
        if len(calls) == 4:  # in the middle of a file
            yield next(full_pairs(pairs, *more))
            raise Killed
        yield from full_pairs(pairs, *more)

    monkeypatch.setattr(module, "_full_pairs", killed)
    with pytest.raises(Killed):
        export(str(run), str(resumed), form=form, shard_pairs=2)
    before = {path: path.stat().st_mtime_ns for path in resumed.rglob("0*.*")}
    assert len(before) == 3
    monkeypatch.undo()
    export(str(run), str(resumed), form=form, shard_pairs=2)
    assert files_of(resumed) == files_of(whole)
    assert {
        path: path.stat().st_mtime_ns for path in before
    } == before  # complete files are not written again
    assert not list(resumed.rglob("*.partial"))


@pytest.mark.slow  # starts an S3 server, which takes 3 s
def test_an_export_into_a_bucket(run: Path, tmp_path: Path, s3: str) -> None:
    export(str(run), f"{s3}/out", form="webdataset", shard_pairs=2)
    export(str(run), str(tmp_path / "out"), form="webdataset", shard_pairs=2)
    files, root = filesystem(f"{s3}/out")
    listed = files.get_file_info(fs.FileSelector(root, recursive=True))
    names = {info.path.removeprefix(f"{root}/") for info in listed if info.type == fs.FileType.File}
    assert names >= set(files_of(tmp_path / "out"))
    assert not {name for name in names if name.endswith(".partial")}
    for name, data in files_of(tmp_path / "out").items():
        with files.open_input_stream(f"{root}/{name}") as stream:
            assert stream.read() == data


def test_an_output_folder_has_one_export(run: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    export(str(run), out, form="webdataset")
    export(str(run), out, form="webdataset")
    with pytest.raises(RunFolderError, match="shard_pairs"):
        export(str(run), out, form="webdataset", shard_pairs=2)
    changed = next(run.rglob("task=T2V/part-00000.parquet"))
    pq.write_table(pq.read_table(changed, partitioning=None).slice(1), changed)
    with pytest.raises(RunFolderError, match=r"pairs\.T2V"):
        export(str(run), out, form="webdataset")


def test_errors_name_what_is_wrong(run: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    with pytest.raises(PreflightError, match="has no pairs in uvrd/"):
        export(str(tmp_path), out, form="datasets")
    with pytest.raises(PreflightError, match=r"tasks=\['V2V'\]: the run has no pairs of them; use T2T, T2V"):
        export(str(run), out, form="datasets", tasks=["T2V", "V2V"])
    Store(f"{run}/assets.lance", ASSET_SCHEMA).delete(["d"])
    with pytest.raises(StoreError, match="1 keys not committed"):
        export(str(run), out, form="datasets", tasks=["T2V"])


def test_the_command(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = [str(run), "--form", "webdataset", "--output", str(tmp_path / "out"), "--tasks", "T2V, T2T"]
    assert cli.main(["export", *args]) == 0
    assert f"6 pairs in {tmp_path}/out" in capsys.readouterr().out
    assert cli.main(["export", *args, "--shard_pairs", "0"]) == 2
    assert "shard_pairs=0" in capsys.readouterr().err
