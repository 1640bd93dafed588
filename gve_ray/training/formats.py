"""The formats of training data: which files a data set has, and which columns make query and target.

`format` of a data set in a training config names an entry of `FORMATS`: a form that several data sets
share, such as `mbeir`, or a data set of the paper's mixture, which is a form with the columns, tasks
and treatment of that data set. To add a data set, add an entry; records.py has the readers of the forms.
The value of a column is the name of a column or a template (templates.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from gve_ray.schema import Task

Reader = Literal["pairs", "table", "json_files", "conversations", "pool", "qrels", "class_folders"]

_QUERY = {"T": "query", "I": "query_image", "V": "query_video"}
_TARGET = {"T": "target", "I": "target_image", "V": "target_video"}
_CAPTION = {"T": "caption", "I": "image", "V": "video"}


@dataclass(frozen=True, kw_only=True)
class Format:
    """How the pairs of a data set are read.

    reader: of the files, in records.py. tasks: those that the files can make; the first is the
    default. columns: the default column of each field. query, target: the field of each modality (T,
    I, V); a task uses those of its letters. expected: columns that must have a certain value if the
    table has them; other rows make no pair. one_caption: if a row has several captions, take one at
    random instead of a pair for each.
    """

    reader: Reader
    tasks: tuple[Task, ...]
    columns: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=lambda: _QUERY)
    target: Mapping[str, str] = field(default_factory=lambda: _TARGET)
    expected: Mapping[str, str] = field(default_factory=dict)
    one_caption: bool = False

    @property
    def has_pool(self) -> bool:
        """Whether ids or class names in the files refer to a second file, the `pool`."""
        return self.reader in ("pool", "class_folders")

    @property
    def has_captions(self) -> bool:
        """Whether a pair is a medium and its caption, so that a caption may occur with several media."""
        return self.query == _CAPTION


def _captions(reader: Reader, *tasks: Task, **columns: str) -> Format:
    return Format(reader=reader, tasks=tasks, columns=columns, query=_CAPTION, target=_CAPTION)


_TABLE = Format(
    reader="table",
    tasks=tuple(Task),
    columns={name: name for name in (*_QUERY.values(), *_TARGET.values(), "negatives")},
)
_TEXT_PAIRS = replace(
    _TABLE, tasks=(Task.T2T,), columns={"query": "query", "target": "positive", "negatives": "negative"}
)
_IMAGE_CAPTIONS = _captions("table", Task.T2I, Task.I2T, caption="caption", image="image")
_VIDEO_CAPTIONS = _captions("table", Task.T2V, caption="caption", video="video")
# img2dataset names an image after its key, whose first five digits are the number of its shard.
_IMG2DATASET = replace(
    _captions("table", Task.T2I, Task.I2T, caption="caption", image="{key:.5}/{key}.jpg"),
    expected={"status": "success"},
)
_JSON_FILES = _captions(
    "json_files",
    *(Task.T2V, Task.T2I, Task.I2T),
    caption="caption",
    image="{stem}.jpg",
    video="{stem}.mp4",
)
_CONVERSATIONS = Format(
    reader="conversations",
    tasks=(Task.TI2T,),
    columns={"image": "image", "conversations": "conversations"},
    query={"T": "question", "I": "image"},
    target={"T": "answer"},
)
_CONVERSATION_CAPTIONS = replace(
    _CONVERSATIONS,
    tasks=(Task.T2I, Task.I2T),
    query={"T": "answer", "I": "image"},
    target={"T": "answer", "I": "image"},
)
_POOL_TASKS = tuple(task for task in Task if "V" not in task.value)
_MBEIR = Format(
    reader="pool",
    tasks=_POOL_TASKS,
    columns={
        "query": "query_txt",
        "query_image": "query_img_path",
        "positives": "pos_cand_list",
        "negatives": "neg_cand_list",
        "id": "did",
        "target": "txt",
        "target_image": "img_path",
    },
)
_M2KR = Format(
    reader="pool",
    tasks=(Task.TI2T, Task.T2T, Task.I2T, Task.TI2TI),
    columns={
        "query": "question",
        "query_image": "img_path",
        "positives": "pos_item_ids",
        "negatives": "neg_item_ids",
        "id": "passage_id",
        "target": "passage_content",
        "target_image": "passage_image",
    },
)
_BEIR = Format(
    reader="qrels",
    tasks=(Task.T2T,),
    columns={"query_id": "query-id", "target_id": "corpus-id", "score": "score"},
)
_CLASS_FOLDERS = Format(
    reader="class_folders", tasks=(Task.I2T,), query={"I": "image"}, target={"T": "class"}
)


def _mbeir(*tasks: Task) -> Format:
    return replace(_MBEIR, tasks=tasks)


def _columns(form: Format, **columns: str) -> Format:
    return replace(form, columns={**form.columns, **columns})


FORMATS: Mapping[str, Format] = {
    # Forms
    "pairs": Format(reader="pairs", tasks=tuple(Task)),
    "table": _TABLE,
    "text_pairs": _TEXT_PAIRS,
    "image_captions": _IMAGE_CAPTIONS,
    "video_captions": _VIDEO_CAPTIONS,
    "img2dataset": _IMG2DATASET,
    "json_files": _JSON_FILES,
    "conversations": _CONVERSATIONS,
    "conversation_captions": _CONVERSATION_CAPTIONS,
    "mbeir": _MBEIR,
    "m2kr": _M2KR,
    "beir": _BEIR,
    "class_folders": _CLASS_FOLDERS,
    # Data sets of text
    "msmarco": _columns(_TEXT_PAIRS, target="positive_passages", negatives="negative_passages"),
    "hotpotqa": _BEIR,
    # Data sets of images
    "webqa": _mbeir(Task.T2T, Task.T2TI),
    "cirr": _mbeir(Task.TI2I),
    "fashioniq": _mbeir(Task.TI2I),
    "fashion200k": _mbeir(Task.T2I, Task.I2T),
    "nights": _mbeir(Task.I2I),
    "oven": _mbeir(Task.TI2T, Task.TI2TI),
    "visualnews": _mbeir(Task.T2I, Task.I2T),
    "edis": _mbeir(Task.T2TI),
    "mscoco": _mbeir(Task.I2T, Task.T2I),
    "evqa": replace(_M2KR, tasks=(Task.TI2TI, Task.TI2T)),
    # Each question of ReMuQ lists its passages; the first one answers it.
    "remuq": replace(
        _TABLE,
        tasks=(Task.TI2T,),
        columns={"query": "question", "query_image": "{img_id}.jpg", "target": "{ctxs[0]}"},
    ),
    "llava": _CONVERSATIONS,
    "cc3m": _IMG2DATASET,
    "laion": _IMG2DATASET,
    "imagenet": _CLASS_FOLDERS,
    "vl3_syn7m": _CONVERSATION_CAPTIONS,
    "vista_image": replace(
        _TABLE,
        tasks=(Task.TI2I,),
        columns={
            "query": "{query[1]}",
            "query_image": "{query[0]}",
            "target_image": "positive",
            "negatives": "hard_negative",
        },
    ),
    "vista_text_image": replace(
        _TABLE,
        tasks=(Task.T2TI,),
        columns={
            "query": "query",
            "target": "{positive[1]}",
            "target_image": "{positive[0]}",
            "negatives": "hard_negative",
        },
    ),
    # Data sets of videos
    "vast": replace(_columns(_VIDEO_CAPTIONS, caption="vision_cap", video="{clip_id}.mp4"), one_caption=True),
    "internvid_flt": _columns(
        _VIDEO_CAPTIONS, caption="Caption", video="{YoutubeID}_{Start_timestamp}_{End_timestamp}.mp4"
    ),
    "pe_video": _captions("json_files", Task.T2V, caption="human_caption", video="{stem}.mp4"),
    "webvid": _columns(_VIDEO_CAPTIONS, caption="name", video="{page_dir}/{videoid}.mp4"),
}
