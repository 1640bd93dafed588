"""Record a small real run of synthesis, and replay it for any number of videos.

`record` renders a few videos and runs the whole job on them with the real decoder, embedder and
captioner. The workers have the inputs and outputs of the real ones. Each video gets the outcome (a
row or a reject) of a recorded video, chosen by a hash of its id. To make 1.55 M videos distinct,
each has a different signature, length, cosine and caption. Two in a hundred are copies of the video
before them, half of these exact copies. Frames have one pixel, because full frames would not fit on
a disk and are not what is measured.
"""

import base64
import hashlib
import io
import json
import os
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from gve_ray.config import load_config
from gve_ray.inputs.manifest import read_manifest
from gve_ray.media.signature import CHROMA, FRAME_BYTES, LUMA
from gve_ray.schema import ANNOTATION_SCHEMA, AssetRef
from gve_ray.stage import REJECT_SCHEMA, Reject
from gve_ray.store import AssetReader, Store
from gve_ray.synthesis.config import ConsistencyConfig, MediaConfig, SynthesisConfig
from gve_ray.synthesis.consistency import CONSISTENCY_SCHEMA, caption_hash
from gve_ray.synthesis.ingest import INGEST_SCHEMA, IngestWorker
from gve_ray.synthesis.prompts import VIDEO_STYLES

DECODE_SECONDS, CAPTION_SECONDS, BUSY_FOLDER = "GVE_DECODE_SECONDS", "GVE_CAPTION_SECONDS", "GVE_BUSY_FOLDER"
RECORDING = "GVE_SCALE_RECORDING"  # environment variable of Ray's workers with the path of the file
_MANIFEST_ROWS = 100_000  # rows written at a time
_ID = "@@video@@"  # placeholder for the video id in recorded texts
# The fields of a video that the real workers read.
SCORED_COLUMNS = ["video_id", "frames", "timestamps", "indices", "fps", "duration", "total_frames"]
ASKED_COLUMNS = [
    *SCORED_COLUMNS, "caption", "content_hash", "reference_frames", "reference_timestamps", "clips",
]  # fmt: skip

Row = dict[str, Any]


def record(folder: Path, *, videos: int = 60, seed: int = 7) -> Path:
    """Run the real synthesis on `videos` rendered files, unless it was done before; return the
    recording, a JSON file.

    Ray starts on this machine unless it is connected.
    """
    from gve_ray.demo.corpus import write_corpus
    from gve_ray.synthesis.job import synthesize

    path = folder / "recording.json"
    if path.exists():
        return path
    source = write_corpus(folder / "raw", n=videos, seed=seed, workers=len(os.sched_getaffinity(0)))
    config = load_config(
        SynthesisConfig,
        ["--config", "demo.yaml", "--input", str(source), "--output", str(folder / "run")],
    )
    synthesize(config)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(_recorded(Path(config.output), read_manifest(str(source)))))
    part.replace(path)
    return path


def record_few(path: Path, *, videos: int = 4, seed: int = 7) -> Path:
    """Write a recording without models, in seconds: a few rendered videos are decoded, and their answers are fixed.

    Returns the path. No video is rejected.
    """
    from gve_ray.demo.render import write_mp4
    from gve_ray.demo.scenes import draw_scene

    config = load_config(SynthesisConfig, ["--config", "demo.yaml"])
    worker = IngestWorker(config.media, seed)
    decoded = []
    with tempfile.TemporaryDirectory() as folder:
        for i in range(videos):
            video = Path(folder, f"{i}.mp4")
            write_mp4(video, draw_scene(seed + i, "corpus", long=False))
            decoded += worker([{"video_id": f"v{i}", "uri": str(video)}])
    rows = [_without_pixels(row) for row in decoded if isinstance(row, dict)]
    path.parent.mkdir(parents=True, exist_ok=True)
    captions = [f"a thing of kind {i} crosses the picture from left to right" for i in range(videos)]
    recorded = {
        "captions": captions,
        "decoded": rows,
        "scores": [0.5],
        "annotated": [json.dumps(_answers(row)) for row in rows],
    }
    path.write_text(json.dumps(recorded))
    return path


def _answers(row: Row) -> Row:
    """Return a row of `ANNOTATION_SCHEMA` with a text for every prompt, for a row of `_without_pixels`."""
    video, frame, clip = (str(AssetRef(_ID, part)) for part in ("video", "frame", "clip"))

    def texts(ref: str, styles: Iterable[str]) -> list[Row]:
        return [{"ref": ref, "style": style, "profile": "temporal", "text": "it moves"} for style in styles]

    styles = [style.name for style in VIDEO_STYLES.values()]
    return {
        "video_id": _ID,
        "duration": row["duration"],
        "reference_timestamps": row["reference_timestamps"],
        "clip_spans": [{name: span[name] for name in ("start", "end")} for span in row["clips"]],
        "captions": texts(video, styles),
        "frame_captions": texts(frame, styles) if row["reference_timestamps"] else [],
        "composed_image": texts(frame, ["action change"]) if row["reference_timestamps"] else [],
        "composed_clip": texts(clip, ["temporal continuation"]) if row["clips"] else [],
        "generations": [],
    }


def _recorded(run: Path, manifest: pa.Table) -> Row:
    """Return the output of each stage for each video; annotations are texts with `_ID` in place of
    the video id.
    """
    (ingest,) = (p for p in (run / "work").glob("ingest-*.lance") if not p.stem.endswith("-rejects"))
    (scores,) = (p for p in (run / "work").glob("consistency-*.lance") if not p.stem.endswith("-rejects"))
    broken = Store(str(ingest.with_name(f"{ingest.stem}-rejects.lance")), REJECT_SCHEMA).table().to_pylist()
    refused = Store(str(run / "rejects.lance"), REJECT_SCHEMA).table(filter="stage = 'captions'").to_pylist()
    annotated = Store(str(run / "annotations.lance"), ANNOTATION_SCHEMA).table().to_pylist()
    decoded = [_without_pixels(row) for row in Store(str(ingest), INGEST_SCHEMA).table().to_pylist()]
    return {
        "captions": manifest["caption"].drop_null().to_pylist(),
        "decoded": [*decoded, *(_as_reject(row) for row in broken)],
        "scores": Store(str(scores), CONSISTENCY_SCHEMA).table()["consistency"].to_pylist(),
        "annotated": [
            *(json.dumps(row).replace(row["video_id"], _ID) for row in annotated),
            *(json.dumps(_as_reject(row)) for row in refused),
        ],
    }


def _as_reject(row: Row) -> Row:
    return {name: row[name] for name in ("reason", "detail", "attempts")}


def _without_pixels(row: Row) -> Row:
    clips = [clip | {"frames": len(clip["frames"])} for clip in row["clips"]]
    counts = {name: len(row[name]) for name in ("frames", "reference_frames")}
    return row | counts | {"clips": clips, "signature": base64.b64encode(row["signature"]).decode()}


def video_id_at(number: int) -> str:
    """Return the id of a video in the manifest: a hash followed by its number, so that ids are not
    in order.
    """
    return hashlib.blake2b(number.to_bytes(8), digest_size=4).hexdigest() + f"{number:08x}"


def number_of(video_id: str) -> int:
    return int(video_id[8:], 16)


def write_manifest(path: Path, rows: int, recording: Path) -> None:
    """Write a manifest of `rows` videos that do not exist, with recorded captions, each with a
    distinct word.
    """
    captions = json.loads(recording.read_text())["captions"]
    schema = pa.schema([("video_id", pa.string()), ("uri", pa.string()), ("caption", pa.string())])
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, rows, _MANIFEST_ROWS):
            ids = [video_id_at(i) for i in range(start, min(start + _MANIFEST_ROWS, rows))]
            uris = [f"s3://crawl/videos/{video_id[:2]}/{video_id}.mp4" for video_id in ids]
            texts = [_caption(captions, video_id) for video_id in ids]
            writer.write_table(pa.table([ids, uris, texts], schema=schema))


def _caption(captions: Sequence[str], video_id: str) -> str | None:
    draw = _draw(video_id, "caption")
    if draw % 20 == 0:
        return None
    return f"{captions[draw % len(captions)]} {_word(draw)}"


def _word(draw: int) -> str:
    """Return one of 125,000 words of three syllables."""
    return "".join("bdfgklmnpr"[draw // 50**i % 10] + "aeiou"[draw // 50**i // 10 % 5] for i in range(3))


def _draw(video_id: str, purpose: str) -> int:
    return int.from_bytes(hashlib.blake2b(f"{purpose}/{video_id}".encode(), digest_size=8).digest())


def _recording() -> Row:
    found: Row = json.loads(Path(os.environ[RECORDING]).read_text())
    return found


def _reject(outcome: Mapping[str, Any]) -> Reject:
    return Reject(outcome["reason"], outcome["detail"], attempts=outcome["attempts"])


class ReplayedIngest:
    """Replaces `IngestWorker`: returns a recorded row with this id and a distinct signature and
    length.
    """

    def __init__(self, media: MediaConfig, seed: int) -> None:
        self._outcomes = _recording()["decoded"]
        out = io.BytesIO()
        Image.new("L", (1, 1)).save(out, "JPEG", optimize=True)
        self._jpeg = out.getvalue()

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> list[Row | Reject]:
        return [self._one(row["video_id"], row["uri"]) for row in rows]

    def _one(self, video_id: str, uri: str) -> Row | Reject:
        shown, copy = source_of(video_id)
        draw = _draw(shown, "ingest")
        outcome = self._outcomes[draw % len(self._outcomes)]
        if "reason" in outcome:
            return _reject(outcome)
        rng = np.random.default_rng(draw)
        signature = perturbed(base64.b64decode(outcome["signature"]), rng)
        content = shown
        if copy == "near":
            content = video_id
            noise = np.random.default_rng(_draw(video_id, "copy")).integers(-2, 3, len(signature))
            signature = np.clip(signature + noise, 0, 255)
        return outcome | {
            "video_id": video_id,
            "uri": uri,
            "content_hash": hashlib.sha256(content.encode()).hexdigest(),
            "duration": 3.0 * 100.0 ** rng.random(),  # 3 s to 5 minutes
            "frames": [self._jpeg] * outcome["frames"],
            "reference_frames": [self._jpeg] * outcome["reference_frames"],
            "clips": [clip | {"frames": [self._jpeg] * clip["frames"]} for clip in outcome["clips"]],
            "signature": signature.astype(np.uint8).tobytes(),
        }


def source_of(video_id: str) -> tuple[str, str | None]:
    """Return the video that this one is a copy of (itself if it is not a copy), and the kind of
    copy.
    """
    number, kind = number_of(video_id), None
    while number and (draw := _draw(video_id_at(number), "copy") % 100) < 2:
        kind = kind or ("exact", "near")[draw]
        number -= 1
    return video_id_at(number), kind


def perturbed(signature: bytes, rng: np.random.Generator) -> np.ndarray:
    """Return a changed signature, int64 [T * 384]: 4x4 luma blocks shifted by about 40 grey levels,
    colours by 15.
    """
    cells = np.frombuffer(signature, dtype=np.uint8).reshape(-1, FRAME_BYTES).astype(np.int64)
    blocks = rng.normal(0, 40, (4, 4)).repeat(LUMA // 4, axis=0).repeat(LUMA // 4, axis=1)
    colours = rng.normal(0, 15, 2).repeat(CHROMA * CHROMA)
    return np.clip(cells + np.concatenate([blocks.ravel(), colours]).astype(np.int64), 0, 255).ravel()


class ReplayedConsistency:
    """Replaces `ConsistencyWorker`: reads the frames, and returns a recorded cosine with a small
    change.
    """

    def __init__(self, config: ConsistencyConfig, ingest: Store, *, vectors: bool = False) -> None:
        assert not vectors, "the recording has no vectors"
        self._scores = _recording()["scores"]
        self._ingest = ingest

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> list[Row]:
        self._ingest.take([row["video_id"] for row in rows], SCORED_COLUMNS).to_pylist()
        return [
            {
                "video_id": row["video_id"],
                "caption_hash": caption_hash(row["caption"]),
                "consistency": self._score(row["video_id"]),
                "mismatched": None if row["other"] is None else self._score(row["video_id"]) / 2,
            }
            for row in rows
        ]

    def _score(self, video_id: str) -> float:
        draw = _draw(video_id, "consistency")
        return self._scores[draw % len(self._scores)] + 1e-3 * (draw >> 32) / 2**32


class ReplayedAnnotator:
    """Replaces `Annotator`: reads the assets, and returns a recorded row with this id."""

    def __init__(self, *, assets: AssetReader, **_: Any) -> None:
        self._assets = assets
        self._outcomes = _recording()["annotated"]

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> list[Row | Reject]:
        stored = self._assets.store.take([row["video_id"] for row in rows], ASKED_COLUMNS).to_pylist()
        return [self._one(row) for row in stored]

    def _one(self, asset: Row) -> Row | Reject:
        draw = _draw(asset["video_id"], "annotation")
        # A single replacement in the text sets the id of the row and of all its references.
        outcome = json.loads(self._outcomes[draw % len(self._outcomes)].replace(_ID, asset["video_id"]))
        if "reason" in outcome:
            return _reject(outcome)
        for column in ("captions", "frame_captions", "composed_image", "composed_clip"):
            for text in outcome[column]:
                text["text"] += f" {_word(draw)} {asset['video_id']}"
        return outcome | {"duration": asset["duration"]}


class WaitingIngest(ReplayedIngest):
    """A replay that takes as long as decoding: `DECODE_SECONDS` of this environment for each video."""

    def _one(self, video_id: str, uri: str) -> Row | Reject:
        time.sleep(float(os.environ[DECODE_SECONDS]))
        return super()._one(video_id, uri)


class WaitingAnnotator(ReplayedAnnotator):
    """A replay that takes as long as captioning: `CAPTION_SECONDS` of this environment for each video.

    Appends the beginning and end of each batch, in seconds since the epoch, to a file in the folder
    `BUSY_FOLDER`.
    """

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> list[Row | Reject]:
        begun = time.time()
        time.sleep(len(rows) * float(os.environ[CAPTION_SECONDS]))
        results = super().__call__(rows)
        with open(Path(os.environ[BUSY_FOLDER], f"{os.getpid()}.txt"), "a") as file:
            file.write(f"{begun} {time.time()}\n")
        return results


class Nothing:
    """Returns each row unchanged."""

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> list[Row]:
        return [dict(row) for row in rows]
