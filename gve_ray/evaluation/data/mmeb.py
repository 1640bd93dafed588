"""Reads the 18 video data sets of MMEB-V2 (arXiv:2507.04590) from the folder to which they were downloaded.

    load_mmeb("MMEB-V2", name="MMEB-HMDB51")        # RetrievalSet; MMEB lists the names

The frames are in one repository of the Hugging Face hub, TIGER-Lab/MMEB-V2, as archives that are
unpacked where they lie; the rows of each data set are in a separate repository, whose files belong
into a folder of that name:

    video-tasks/frames/video_cls/HMDB51/<video>/*.jpg
    video-tasks/data/HMDB51/data/test.jsonl             of VLM2Vec/HMDB51

Every data set is scored by hit@1. In classification, a video ranks all class names (or, in
SmthSmthV2, its own list of them); in question answering, a video with a question and its options
ranks the options; in retrieval, a caption ranks all videos; in moment retrieval, a text (with a video
or an image) ranks the clips that are listed for it. Only queries have an instruction, the
benchmark's; it also writes "Understand the content of the provided video." before videos that are
candidates, which this package does not, since targets have no instruction.

Sources: github.com/TIGER-AI-Lab/VLM2Vec at 6e1e1d4.

    experiments/public/data/download_data.sh   the repository of the frames, and how they are unpacked
    experiments/public/eval/video.yaml         data sets, folders of frames, global or own candidates, 1,000 rows
    src/constant/dataset_hf_path.py            repository, configuration and split of the rows
    src/data/eval_dataset/*.py                 columns, texts of queries and candidates, instructions
    src/data/eval_dataset/video_classification_utils.py     class names (mmeb_labels.csv)
    experiments/report_score_v2.py             hit@1 for video

Names of files that the pages of these repositories show: data/train.jsonl (HMDB51), data/test.jsonl
(SmthSmthV2), didemo_train.json, msvd_test.json, and Subset/test-00000-of-00001.parquet (EgoSchema). Those
of the other data sets were not seen; they are found by the names of configuration and split, as the
hub's library does. The content of the files was not seen either; the columns are those that the
benchmark's program reads.
"""

import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from gve_ray.errors import shown
from gve_ray.evaluation.data.data_errors import DataErrorLog
from gve_ray.evaluation.data.dataset_folder import DatasetFolder, is_folder, open_folder
from gve_ray.evaluation.data.jsonl_items import JsonlItems, table_rows, where
from gve_ray.evaluation.data.mmeb_rows import (
    CLIP,
    BadRowError,
    Reader,
    Row,
    activity_net_qa,
    captioned,
    classified,
    ego_schema,
    is_mv_bench,
    moment,
    moment_seeker,
    multiple_choice,
    mv_bench,
    next_qa,
    video_mme,
)
from gve_ray.evaluation.data.retrieval_set import RetrievalSet, RetrievalSetBuilder
from gve_ray.evaluation.data.uvrb import packaged_rows
from gve_ray.inputs import table
from gve_ray.schema import Item

DATA, FRAMES = "video-tasks/data", "video-tasks/frames"
_QUESTION = (
    "Given a video and a question, select the most accurate answer from the provided candidates. "
    "Return only the exact text of your chosen answer."
)


def _named(*words: str) -> Callable[[str], bool]:
    """Choose files by words in their paths, such as "MC" and "test" for MC/test-00000-of-00001.parquet."""
    return lambda file: {word.lower() for word in words} <= set(re.split(r"[/._-]", file.lower()))


_TEST = _named("test")


@dataclass(frozen=True, kw_only=True)
class MmebSet:
    """One video data set of MMEB-V2.

    read: makes a query of a row. repository: on the hub; its name without the owner is that of the
    folder with the rows. files: which files in it have the rows, by their paths. frames: below
    FRAMES. prompt: the instruction of the queries, unless their rows have one each. own_candidates:
    whether each query ranks only those of its row. has_labels: whether candidates are class names
    or answers. labels: the data set in mmeb_labels.csv whose class names are candidates, too. limit: only
    so many rows are used.
    """

    read: Reader
    repository: str
    files: Callable[[str], bool] = _TEST
    frames: str
    prompt: str | None
    own_candidates: bool = False
    has_labels: bool = False
    labels: str | None = None
    limit: int | None = None

    @property
    def folder(self) -> str:
        """The folder with the rows, inside the benchmark's folder."""
        return f"{DATA}/{self.repository.partition('/')[2]}"


def load_mmeb(folder: str | Path, *, name: str) -> RetrievalSet:
    """Load a data set from the benchmark's folder, which contains `video-tasks`; name: a key of `MMEB`.

    A video whose frames do not exist stays in the data set, where it counts as a miss
    (`scores.scoring`). Invalid rows are left out and listed in `skipped`, and so are moments whose clips
    have no folders, since their candidates are unknown. Does not raise on bad data.
    """
    spec, errors = MMEB[name], DataErrorLog(name)
    root = str(folder).rstrip("/")
    rows, frames = open_folder(f"{root}/{spec.folder}"), open_folder(f"{root}/{FRAMES}/{spec.frames}")
    queries, corpus = JsonlItems(file=spec.folder), JsonlItems(file=spec.folder)
    builder = RetrievalSetBuilder(queries, corpus, errors)
    for label in _labels(spec):
        corpus.items[label] = Item(text=label)
    for place, file, row in itertools.islice(_rows(rows, spec, errors), spec.limit):
        try:
            query = spec.read(Row(cells=row.cells, file=file, frames=frames))
        except BadRowError as fault:
            errors.add(place, str(fault))
            continue
        key = f"{file}:{row.number}"
        item = query.item if spec.prompt is None else replace(query.item, instruction=spec.prompt)
        queries.items[key] = item
        queries.lines[key] = row.number
        for candidate, target in query.candidates.items():
            corpus.items.setdefault(candidate, target)
        builder.add_positives(key, query.positives, place)
        if spec.own_candidates:
            builder.add_candidates(key, list(query.candidates), place)
    return replace(builder.build(), has_labels=spec.has_labels)


def find_mmeb(root: str) -> list[str]:
    """Return the names of MMEB-V2's video data sets below a folder or URI, in the order of `MMEB`.

    A data set of which only the rows or only the frames are there is returned as well, so that
    reading it says what it lacks.
    """
    root = root.rstrip("/")
    if not is_folder(f"{root}/video-tasks"):
        return []
    return [
        name
        for name, spec in MMEB.items()
        if is_folder(f"{root}/{spec.folder}") or is_folder(f"{root}/{FRAMES}/{spec.frames}")
    ]


def _labels(spec: MmebSet) -> list[str]:
    return [row["label"] for row in packaged_rows("mmeb_labels.csv") if row["set"] == spec.labels]


def _rows(folder: DatasetFolder, spec: MmebSet, errors: DataErrorLog) -> Iterator[tuple[str, str, table.Row]]:
    """Yield the place of each row for messages, its file, and the row."""
    tables = sorted(_tables(folder))
    files = list(filter(spec.files, tables)) or (tables if len(tables) == 1 else [])
    if not files:
        has = f"it has {', '.join(map(shown, tables[:5]))}" if tables else "it has no table"
        errors.add(
            spec.folder,
            f"no file with the rows of {errors.dataset}; {has}. Download the data set {spec.repository} of the "
            "Hugging Face hub into this folder",
        )
    for file in files:
        for row in table_rows(folder, file, errors):
            yield f"{spec.folder}/{where(file, row)}", file, row


def _tables(folder: DatasetFolder, parent: str = "") -> Iterator[str]:
    """The tables in a folder and the folders in it."""
    for entry in folder.names(parent):
        name = f"{parent}/{entry}" if parent else entry
        if folder.is_folder(name):
            yield from _tables(folder, name)
        elif table.form_of(name):
            yield name


def _class_set(name: str, prompt: str, *, frames: str | None = None) -> MmebSet:
    return MmebSet(
        read=classified,
        repository=f"VLM2Vec/{name}",
        frames=f"video_cls/{frames or name}",
        prompt=prompt,
        has_labels=True,
        labels=name,
    )


def _video_set(
    name: str,
    read: Reader,
    prompt: str,
    *,
    owner: str = "VLM2Vec",
    files: Callable[[str], bool] = _TEST,
) -> MmebSet:
    return MmebSet(
        read=read, repository=f"{owner}/{name}", files=files, frames=f"video_ret/{name}", prompt=prompt
    )


def _moment_set(name: str, read: Reader, prompt: str | None, *, frames: str | None = None) -> MmebSet:
    return MmebSet(
        read=read,
        repository=f"VLM2Vec/{name}",
        frames=f"video_mret/{frames or name}",
        prompt=prompt,
        own_candidates=True,
    )


def _question_set(name: str, read: Reader, files: Callable[[str], bool] = _TEST) -> MmebSet:
    return MmebSet(
        read=read,
        repository=f"VLM2Vec/{name}",
        files=files,
        frames=f"video_qa/{name}",
        prompt=_QUESTION,
        own_candidates=True,
        has_labels=True,
    )


# By the name of the data set in results: not the name alone, since UVRB's DiDeMo is another set.
MMEB: Mapping[str, MmebSet] = {
    "MMEB-SmthSmthV2": MmebSet(
        read=multiple_choice,
        repository="VLM2Vec/SmthSmthV2",
        frames="video_cls/SSv2",
        prompt="What actions or object interactions are being performed by the person in the video?",
        own_candidates=True,
        has_labels=True,
        limit=1000,
    ),
    "MMEB-HMDB51": _class_set(
        "HMDB51", "What actions or objects interactions are the person in the video doing?"
    ),
    "MMEB-UCF101": _class_set(
        "UCF101", "What activities or sports are being performed by the person in the video?"
    ),
    "MMEB-K700": _class_set("Kinetics-700", "Recognize the category of the video content.", frames="K700"),
    "MMEB-Breakfast": _class_set(
        "Breakfast", "Recognize the breakfast type that the person is cooking in the video."
    ),
    "MMEB-MSR-VTT": _video_set(
        "MSR-VTT",
        captioned("video_id", "caption"),
        "Find a video that contains the following visual content:",
        files=_named("test", "1k"),
    ),
    "MMEB-MSVD": _video_set(
        "MSVD",
        captioned("video_id", "caption"),
        "Find the video snippet that corresponds to the given summary:",
    ),
    "MMEB-DiDeMo": _video_set(
        "DiDeMo",
        captioned("video", "caption", is_path=True),
        "Find a video that includes the following described scenes:",
    ),
    "MMEB-YouCook2": _video_set(
        "YouCook2",
        captioned("id", "sentence"),
        "Find a video that demonstrates the following action while making a recipe:",
        owner="lmms-lab",
        files=_named("val"),
    ),
    "MMEB-VATEX": _video_set(
        "VATEX", captioned("videoID", "enCap"), "Select a video that fits the description provided:"
    ),
    "MMEB-QVHighlight": _moment_set("QVHighlight", moment, f"{CLIP}described scene in the given video:"),
    "MMEB-Charades-STA": _moment_set(
        "Charades-STA", moment, f"{CLIP}described scene in the given video:", frames="Charades_STA"
    ),
    "MMEB-MomentSeeker": _moment_set("MomentSeeker", moment_seeker, None),
    "MMEB-Video-MME": _question_set("Video-MME", video_mme),
    "MMEB-NExTQA": _question_set("NExTQA", next_qa, _named("MC", "test")),
    "MMEB-EgoSchema": _question_set("EgoSchema", ego_schema, _named("Subset", "test")),
    "MMEB-MVBench": _question_set("MVBench", mv_bench, is_mv_bench),
    "MMEB-ActivityNetQA": _question_set("ActivityNetQA", activity_net_qa),
}
