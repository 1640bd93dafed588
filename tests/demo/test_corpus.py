"""The raw corpus: every file decodes as its ground truth says, and rendering is reproducible."""

import json
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path

import av
import numpy as np
import pytest

from gve_ray.demo import corpus, damage
from gve_ray.demo.corpus import render_entry, write_corpus
from gve_ray.demo.plan import BROKEN, NOISES, CorpusShares, Entry, plan_corpus
from gve_ray.demo.render import frames

SEED = 3
FEW = CorpusShares(**{**dict.fromkeys(asdict(CorpusShares()), 0.0), "empty": 0.2, "exact_duplicate": 0.2})
FEW_SEED = 195  # the seed below 300 with the fewest pixels to render


@pytest.fixture(scope="module")
def plan() -> list[Entry]:
    return plan_corpus(320, seed=SEED)


def cost(entry: Entry) -> int:
    return entry.scene.width * entry.scene.height * entry.scene.total_frames


@pytest.fixture(scope="module")
def files(plan: list[Entry], tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Entry, Path]]:
    """The cheapest file of each kind and variant, by names like 'truncated moov first'."""
    folder = tmp_path_factory.mktemp("corpus")
    for name in ("videos", "partial"):
        (folder / name).mkdir()
    files: dict[str, tuple[Entry, Path]] = {}
    for entry in sorted(plan, key=cost):
        detail = [str(entry.variant[k]) for k in ("noise", "layout", "what", "degrees") if k in entry.variant]
        name = " ".join([entry.kind, *detail])
        if name not in files:
            render_entry(entry, folder=folder, seed=SEED)
            files[name] = (entry, folder / entry.file)
    original = next(e for e in plan if e.video_id == files["exact_duplicate"][0].duplicate_of)
    render_entry(original, folder=folder, seed=SEED)
    files["original"] = (original, folder / original.file)
    return files


def decode(path: Path) -> list[np.ndarray]:
    """Return all frames, uint8 [H, W, 3], rotated by the display matrix."""
    with av.open(str(path)) as container:
        return [
            np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)  # both counterclockwise
            for frame in container.decode(video=0)
        ]


def difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(int) - b).mean())


def shown(entry: Entry, time: float) -> np.ndarray:
    return next(frames(entry.scene, [time], entry.scene.width, entry.scene.height))


def test_broken_files_show_their_defect(files: dict[str, tuple[Entry, Path]]) -> None:
    counts = defaultdict(list)
    for name, (entry, path) in files.items():
        if entry.broken:
            counts[name.split()[0]].append((damage.count_intact_frames(path), entry.scene.total_frames))
    assert set(counts) == set(BROKEN)
    for kind in ("truncated", "corrupt"):
        assert all(intact is None or intact < total for intact, total in counts[kind]), kind
    assert [intact for intact, _ in counts["zero_frame"]] == [0]
    assert [intact for intact, _ in counts["one_frame"]] == [1]
    assert {intact for intact, _ in counts["not_a_video"]} <= {None, 1}  # a PNG decodes to one frame


def test_healthy_files_decode_to_all_frames_of_their_scene(files: dict[str, tuple[Entry, Path]]) -> None:
    for name, (entry, path) in files.items():
        if not entry.broken and entry.kind != "near_duplicate":
            assert damage.count_intact_frames(path) == entry.scene.total_frames, name


def test_files_have_the_streams_of_their_kind(files: dict[str, tuple[Entry, Path]]) -> None:
    assert files["empty"][1].stat().st_size == 0
    with av.open(str(files["zero_frame"][1])) as container:
        assert (len(container.streams.video), len(container.streams.audio)) == (1, 0)
    with av.open(str(files["audio_only"][1])) as container:
        assert (len(container.streams.video), len(container.streams.audio)) == (0, 1)
        assert container.streams.audio[0].codec_context.name == "aac"
        assert sum(f.samples for f in container.decode(audio=0)) > 0.9 * 16_000


def test_the_index_is_at_the_position_of_the_layout(files: dict[str, tuple[Entry, Path]]) -> None:
    first, last = (files[f"truncated moov {where}"][1].read_bytes() for where in ("first", "last"))
    assert b"moov" in first[:64]
    assert b"moov" not in last


def test_files_that_are_not_videos_have_their_own_content(files: dict[str, tuple[Entry, Path]]) -> None:
    signatures = {"png": b"\x89PNG", "html": b"<!DOCTYPE html>", "zip": b"PK\x03\x04", "text": b"0000 "}
    present = [what for what in signatures if f"not_a_video {what}" in files]
    assert len(present) >= 2
    for what in present:
        path = files[f"not_a_video {what}"][1]
        assert path.suffix == ".mp4"
        assert path.read_bytes().startswith(signatures[what])


def test_rotated_files_are_upright_after_the_display_rotation(files: dict[str, tuple[Entry, Path]]) -> None:
    rotated = {name: file for name, file in files.items() if name.startswith("rotated")}
    assert len(rotated) == 3
    for entry, path in rotated.values():
        with av.open(str(path)) as container:
            stored = next(container.decode(video=0))
            assert stored.rotation % 360 == -entry.variant["degrees"] % 360
        decoded = decode(path)
        assert decoded[0].shape == (entry.scene.height, entry.scene.width, 3)
        assert difference(decoded[0], shown(entry, 0.0)) < 6
        assert difference(decoded[-1], shown(entry, 1.0)) < 6


def test_odd_sizes_do_not_fit_the_patch_grid(files: dict[str, tuple[Entry, Path]]) -> None:
    entry, path = files["odd_size"]
    assert decode(path)[0].shape == (entry.scene.height, entry.scene.width, 3)
    assert entry.scene.width % 28
    assert entry.scene.height % 28


def test_static_files_show_a_single_picture_with_noise(files: dict[str, tuple[Entry, Path]]) -> None:
    static = [file for name, file in files.items() if name.startswith("static")]
    assert len(static) == len(NOISES)
    for entry, path in static:
        assert not any(chapter.dynamic for chapter in entry.scene.chapters)
        decoded = decode(path)
        assert (
            max(difference(decoded[0], frame) for frame in decoded) < 12
        )  # flicker of 2.5 % and codec noise
        assert difference(decoded[0], shown(entry, 0.0)) < 12


def test_copies_show_the_same_as_their_original(files: dict[str, tuple[Entry, Path]]) -> None:
    exact, original = files["exact_duplicate"][1], files["original"][1]
    assert exact != original
    assert exact.read_bytes() == original.read_bytes()
    entry, path = files["near_duplicate"]
    decoded = decode(path)
    width, height = (
        2 * round(s * entry.variant["scale"] / 2) for s in (entry.scene.width, entry.scene.height)
    )
    for frame, time in ((decoded[0], 0.0), (decoded[-1], 1.0)):
        assert frame.shape == (height, width, 3)
        expected = next(frames(entry.scene, [time], width, height))
        # Textures scale with the frame; a brightness change of 5 % is up to 12 grey levels.
        assert difference(frame, expected) < 25


def test_rendering_again_gives_the_same_bytes(plan: list[Entry], tmp_path: Path) -> None:
    for folder in (tmp_path / "a", tmp_path / "b"):
        for name in ("videos", "partial"):
            (folder / name).mkdir(parents=True)
        for kind in ("truncated", "corrupt", "not_a_video", "audio_only", "static"):
            render_entry(min((e for e in plan if e.kind == kind), key=cost), folder=folder, seed=SEED)
    names = sorted(p.name for p in (tmp_path / "a" / "videos").iterdir())
    assert len(names) == 10
    for name in names:
        a, b = (tmp_path / which / "videos" / name for which in "ab")
        assert a.read_bytes() == b.read_bytes(), name


def test_an_interrupted_corpus_is_completed_and_then_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def fails_once(entry: Entry, *, folder: Path, seed: int) -> None:
        if len(calls) == 2:
            calls.append("failed")
            raise RuntimeError("power cut")
        render_entry(entry, folder=folder, seed=seed)
        calls.append(entry.video_id)

    monkeypatch.setattr(corpus, "render_entry", fails_once)
    arguments = {"n": 5, "seed": FEW_SEED, "shares": FEW, "workers": 1}
    with pytest.raises(RuntimeError, match="power cut"):
        write_corpus(tmp_path, **arguments)
    assert not (tmp_path / "manifest.jsonl").exists()
    with pytest.raises(FileNotFoundError):
        corpus.read_truth(tmp_path)
    for _ in range(2):
        manifest = write_corpus(tmp_path, **arguments)
        assert calls == ["v0", "v1", "failed", "v2", "v3", "v4"]
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    assert [row["video_id"] for row in rows] == ["v0", "v1", "v2", "v3", "v4"]
    assert all((manifest.parent / row["uri"]).is_file() for row in rows)
    truth = corpus.read_truth(tmp_path)
    assert truth == plan_corpus(5, seed=FEW_SEED, shares=FEW)
    assert [row["caption"] for row in rows] == [entry.caption for entry in truth]
    written = json.loads((tmp_path / "videos" / "v0.json").read_text())
    assert Entry.from_dict({k: v for k, v in written.items() if k != "made"}) == truth[0]
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "corpus.json",
        "manifest.jsonl",
        "truth.jsonl",
        "videos",
    ]
    with pytest.raises(ValueError, match="holds a corpus made with other arguments"):
        write_corpus(tmp_path, n=5, seed=FEW_SEED + 1, shares=FEW, workers=1)


def test_the_number_of_workers_does_not_change_the_files(tmp_path: Path) -> None:
    for workers in (1, 2):
        write_corpus(tmp_path / str(workers), n=5, seed=FEW_SEED, shares=FEW, workers=workers)
    names = sorted(p.relative_to(tmp_path / "1") for p in (tmp_path / "1").rglob("*.*") if p.is_file())
    assert len(names) == 5 + 5 + 3
    for name in names:
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes(), name
