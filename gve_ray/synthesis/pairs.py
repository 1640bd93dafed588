"""Make the candidate pairs that annotated videos offer, for all seven tasks (arXiv:2510.27571, Table 7).

    pairs = candidates(videos, seed, config)[Task.T2V]
    ids = pair_ids(Task.T2V, pairs)

Videos and pairs are Arrow columns: with a dict for each row it takes four times as long, and one process
makes the pairs of a whole run.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from json.encoder import encode_basestring as _quoted

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gve_ray.schema import ITEM_TYPE, PAIR_SCHEMA, AssetRef, Task
from gve_ray.synthesis.config import AssembleConfig
from gve_ray.synthesis.prompts import rng_for

INSTRUCTIONS: Mapping[Task, str] = {
    Task.T2T: "Find a text that says the same.",
    Task.T2I: "Find the picture that the text describes.",
    Task.T2V: "Find the video that the text describes.",
    Task.TI2V: "Find the video that the text and the picture describe together.",
    Task.TV2V: "Find the video that the text and the clip describe together.",
    Task.I2V: "Find the video that the picture belongs to.",
    Task.V2V: "Find the whole video that the clip belongs to.",
}
COLUMNS = [
    "video_id", "duration", "reference_timestamps", "clip_spans",
    "captions", "frame_captions", "composed_image", "composed_clip",
]  # fmt: skip
_PROFILE_DOMAINS: Mapping[str | None, str] = {"spatial": "FG-S", "temporal": "FG-T"}


def candidates(videos: pa.RecordBatch, seed: int, config: AssembleConfig) -> dict[Task, pa.RecordBatch]:
    """Return all pairs that rows of annotations.lance offer, by task, in the order of the rows.

    videos: the columns of `COLUMNS`. The pairs have the columns of `PAIR_SCHEMA` but the first, `pair_id`.
    `captions_per_video` captions, drawn by the seed, are queries of T2V; two of the other captions are T2T.
    Each captioned frame is a T2I with one of its captions.
    """
    drawn = _draw(videos, seed, config.captions_per_video)
    captions, frame_captions = _texts(videos["captions"]), _texts(videos["frame_captions"])
    t2v, t2t, t2t_target = (captions.take(rows) for rows in (drawn.t2v, drawn.t2t, drawn.t2t_target))
    t2i = frame_captions.take(drawn.t2i)
    ti2v, tv2v = _texts(videos["composed_image"]), _texts(videos["composed_clip"])
    is_long = pc.greater_equal(videos["duration"], config.long_seconds)
    video, frame, clip = drawn.video, drawn.frame, drawn.clip

    def text(texts: pa.RecordBatch) -> dict[str, pa.Array]:
        return {"text": texts["text"]}

    def whole(texts: pa.RecordBatch) -> dict[str, pa.Array]:
        return {"video": video.take(texts["row"])}

    columns = (
        (Task.T2T, text(t2t), text(t2t_target), _domains(t2t, is_long), t2t["style"]),
        (Task.T2I, text(t2i), {"image": t2i["ref"]}, _domains(t2i), t2i["style"]),
        (Task.T2V, text(t2v), whole(t2v), _domains(t2v, is_long), t2v["style"]),
        (Task.TI2V, text(ti2v) | {"image": ti2v["ref"]}, whole(ti2v), "CMP", ti2v["style"]),
        (Task.TV2V, text(tv2v) | {"video": tv2v["ref"]}, whole(tv2v), "CMP", tv2v["style"]),
        (Task.I2V, {"image": frame.drop_null()}, {"video": video.filter(frame.is_valid())}, "VIS", "frame"),
        (Task.V2V, {"video": clip.drop_null()}, {"video": video.filter(clip.is_valid())}, "VIS", "clip"),
    )
    return {task: _pairs(task, *rest) for task, *rest in columns}


@dataclass(frozen=True)
class _Drawn:
    """What the seed draws for a batch of videos.

    t2v, t2t, t2t_target: rows of `_texts` of the captions; t2i: of the frame captions. video, frame, clip:
    references of each video, and of one of its frames and clips; null where there is none.
    """

    t2v: pa.Array
    t2t: pa.Array
    t2t_target: pa.Array
    t2i: pa.Array
    video: pa.Array
    frame: pa.Array
    clip: pa.Array


def _draw(videos: pa.RecordBatch, seed: int, captions_per_video: int) -> _Drawn:
    captions, frame_captions, frames, clips = (
        _bounds(videos[name]) for name in ("captions", "frame_captions", "reference_timestamps", "clip_spans")
    )
    captioned = _listed(videos["frame_captions"].flatten().field("ref"))
    t2v, t2t, t2i = list[int](), list[int](), list[int]()
    refs, frame_refs, clip_refs = list[str](), list[str | None](), list[str | None]()
    for i, video_id in enumerate(_listed(videos["video_id"])):
        rng = rng_for(seed, video_id, "pairs")
        rows = range(captions[i], captions[i + 1])
        shuffled = rng.sample(rows, len(rows))
        t2v += shuffled[:captions_per_video]
        if len(rows) >= captions_per_video + 2:
            t2t += shuffled[captions_per_video : captions_per_video + 2]
        by_frame: dict[str, list[int]] = {}
        for row in range(frame_captions[i], frame_captions[i + 1]):
            by_frame.setdefault(captioned[row], []).append(row)
        t2i += [rng.choice(by_frame[frame]) for frame in sorted(by_frame)]
        refs.append(str(AssetRef(video_id)))
        n_frames, n_clips = frames[i + 1] - frames[i], clips[i + 1] - clips[i]
        frame_refs.append(str(AssetRef(video_id, "frame", rng.randrange(n_frames))) if n_frames else None)
        clip_refs.append(str(AssetRef(video_id, "clip", rng.randrange(n_clips))) if n_clips else None)
    return _Drawn(
        *(pa.array(rows, pa.int64()) for rows in (t2v, t2t[::2], t2t[1::2], t2i)),
        *(pa.array(some, pa.string()) for some in (refs, frame_refs, clip_refs)),
    )


def _bounds(lists: pa.ListArray) -> list[int]:
    """Return where each list begins among the values of all, and where the last one ends."""
    lengths = pc.fill_null(pc.list_value_length(lists), 0)
    return [0, *np.cumsum(lengths).tolist()]


def _texts(texts: pa.ListArray) -> pa.RecordBatch:
    """Return the texts of all rows: the fields of `TEXT_TYPE`, and the number of their row."""
    values = texts.flatten()
    fields = {field.name: values.field(field.name) for field in values.type}
    return pa.record_batch({**fields, "row": pc.list_parent_indices(texts)})


def _domains(texts: pa.RecordBatch, is_long: pa.Array | None = None) -> list[str]:
    long = [False] * texts.num_rows if is_long is None else is_long.take(texts["row"]).to_pylist()
    parts = zip(_listed(texts["style"]), _listed(texts["profile"]), long, strict=True)
    return [caption_domain(style, profile, long=long) for style, profile, long in parts]


def caption_domain(style: str, profile: str | None, *, long: bool) -> str:
    """Return the UVRB ability that a caption trains as a query, from its style and profile.

    Partial captions are PR; rich ones LC for a long video, else FG-S or FG-T by their information profile;
    all others, and rich ones of no profile, CG.
    """
    if style == "partial":
        return "PR"
    if style == "rich":
        return "LC" if long else _PROFILE_DOMAINS.get(profile, "CG")
    return "CG"


def _pairs(
    task: Task,
    query: Mapping[str, pa.Array],
    target: Mapping[str, pa.Array],
    domain: str | Sequence[str],
    style: str | pa.Array,
) -> pa.RecordBatch:
    n = len(next(iter(query.values())))
    columns = [
        pa.DictionaryArray.from_arrays(pa.repeat(pa.scalar(0, pa.int32()), n), [task.value]),
        *(_items(item, n) for item in (query, target)),
        pa.ListArray.from_arrays(
            pa.repeat(pa.scalar(0, pa.int32()), n + 1), pa.array([], ITEM_TYPE)
        ),  # mined in training
        pa.repeat(INSTRUCTIONS[task], n),
        *(
            pa.repeat(value, n) if isinstance(value, str) else pa.array(value, pa.string())
            for value in (domain, style)
        ),
    ]
    return pa.record_batch(columns, schema=PAIR_SCHEMA.remove(0))


def _items(fields: Mapping[str, pa.Array], n: int) -> pa.StructArray:
    columns = [fields.get(field.name, pa.nulls(n, field.type)) for field in ITEM_TYPE]
    return pa.StructArray.from_arrays(columns, fields=list(ITEM_TYPE))


def pair_ids(task: Task, pairs: pa.RecordBatch) -> list[str]:
    """Return 32 hex digits of the hash of [task, query, target] as JSON with sorted keys, for each pair."""
    items = zip(_json(pairs["query"]), _json(pairs["target"]), strict=True)
    texts = (f'["{task.value}", {query}, {target}]' for query, target in items)
    return [hashlib.sha256(text.encode()).hexdigest()[:32] for text in texts]


def _json(items: pa.StructArray) -> Iterator[str]:
    """Yield what `json.dumps` returns for each item, which itself would take half of the assembly's time."""
    columns = (
        ["null" if value is None else _quoted(value) for value in _listed(items.field(name))]
        for name in ("image", "text", "video")
    )
    for image, text, video in zip(*columns, strict=True):
        yield f'{{"image": {image}, "text": {text}, "video": {video}}}'


def _listed(strings: pa.StringArray) -> list[str]:
    """Return the same as `to_pylist`, in a fifth of the time."""
    values: list[str] = strings.to_numpy(zero_copy_only=False).tolist()
    return values


def ranks_of(seed: int, task: Task, ids: Sequence[str]) -> np.ndarray:
    """Return the hash of (seed, task, pair id) of each pair, uint64 [n]."""
    texts = (f"{seed}:{task.value}:{pair}" for pair in ids)
    digests = b"".join(hashlib.sha256(text.encode()).digest()[:8] for text in texts)
    return np.frombuffer(digests, dtype=">u8").astype(np.uint64)
