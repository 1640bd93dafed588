"""Zero-shot classification as retrieval: videos are the queries, labels' texts the corpus.

    load_classes("hmdb51", name="HMDB51", template="a video of someone who does this: {label}")
    load_classes("k700/val.csv", name="K700")

A folder contains one folder per class with its videos (files, or folders of frames). A table has
the columns video and label; paths are absolute or relative to the table. Each video has exactly one
correct label, so accuracy@k equals hit@k.
"""

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from gve_ray.errors import shown
from gve_ray.evaluation.data.data_errors import DataErrorLog
from gve_ray.evaluation.data.dataset_folder import DatasetFolder, is_file, open_folder
from gve_ray.evaluation.data.jsonl_items import id_of, is_unicode, table_rows, where
from gve_ray.evaluation.data.retrieval_set import RetrievalSet
from gve_ray.evaluation.scores import metrics
from gve_ray.media.source import VIDEO_SUFFIXES
from gve_ray.schema import Item

CUTOFFS = (1, 5)
_WORD_START = re.compile(r"(?<=[a-z])(?=[A-Z])")


def load_classes(source: str | Path, *, name: str, template: str = "{label}") -> RetrievalSet:
    """Load a folder of classes or a table as a retrieval set; query ids are the videos' paths.

    template: text of a label, with `{label}` in it. The name of a class folder is split into words
    (`brush_hair` and `BrushHair` become "brush hair" and "Brush Hair"); labels in a table are used
    unchanged. A video of a table that does not exist stays in the data set, where it counts as a miss
    (`scores.scoring`). Other invalid entries are left out and listed in `skipped`; does not raise on bad data.
    """
    errors = DataErrorLog(name)
    folder, _, file = str(source).rpartition("/")
    is_table = is_file(str(source))
    root = open_folder((folder or ".") if is_table else source)
    rows = _of_table(root, file, errors) if is_table else _of_folder(root, errors)
    labels: dict[str, str] = {}  # text by label
    videos: dict[str, tuple[str, str]] = {}  # path and label by id
    for here, video, path, label in rows:
        if video in videos:
            errors.add(
                here,
                f"video {shown(video)}: listed twice; its first label, {shown(videos[video][1])}, is used",
            )
        elif not (is_table or root.is_file(path) or root.has_pictures(path)):
            errors.add(here, f"video {shown(video)}: not found as a file or a folder of frames")
        else:
            videos[video] = root.media(path), label
            labels[label] = label if is_table else words(label)
    if not videos:
        errors.add(
            str(source), "no videos; give a folder of <class>/<video>, or a table with video and label"
        )
    return RetrievalSet(
        name=name,
        query_ids=list(videos),
        queries=[Item(video=path) for path, _ in videos.values()],
        corpus_ids=sorted(labels),
        corpus=[Item(text=template.replace("{label}", labels[label])) for label in sorted(labels)],
        positives={video: frozenset({label}) for video, (_, label) in videos.items()},
        candidates=None,
        skipped=errors.all(),
        has_labels=True,
    )


def words(name: str) -> str:
    """Split the name of a class folder into words."""
    return " ".join(_WORD_START.sub(" ", name).replace("_", " ").split())


def classification(
    rankings: metrics.Rankings, positives: metrics.Positives, *, n_labels: int
) -> dict[str, Any]:
    """The classification part of results.json: accuracy@k and confusion.

    rankings: labels by video, best first, and empty for a video that could not be read, which counts
    as a miss; positives: the one correct label of each video. confusion: for each correct label, how
    often each label was ranked first.
    """
    facts: dict[str, Any] = {"n_labels": n_labels, "chance": 1 / n_labels}
    for k in CUTOFFS:
        facts[f"accuracy@{k}"] = {"score": metrics.score(f"hit@{k}", rankings, positives)}
    confusion: dict[str, Counter[str]] = {}
    for video, right in positives.items():
        (label,) = right
        confusion.setdefault(label, Counter()).update(rankings[video][:1])
    facts["confusion"] = {label: dict(confusion[label].most_common()) for label in sorted(confusion)}
    return facts


def classification_line(facts: Mapping[str, Any]) -> str:
    """The facts of `classification` in one line."""
    parts = []
    for k in CUTOFFS:
        accuracy = facts[f"accuracy@{k}"]
        bounds = accuracy["interval"]
        parts.append(
            f"accuracy@{k} {accuracy['score']:.3f}"
            + (f" [{bounds[0]:.3f}, {bounds[1]:.3f}]" if bounds else "")
        )
    return f"{', '.join(parts)} of {facts['n_labels']} labels"


_Row = tuple[str, str, str, str]  # location, the video's name as written, its path in the folder, its label


def _of_folder(root: DatasetFolder, errors: DataErrorLog) -> Iterator[_Row]:
    for folder in root.names():
        if not root.is_folder(folder):
            continue
        others = 0
        for entry in root.names(folder):
            inner = f"{folder}/{entry}"
            if not is_unicode(inner):
                errors.add(folder, f"{inner!r}: the name is not UTF-8; rename it")
            elif root.is_folder(inner) or PurePosixPath(entry).suffix.lower() in VIDEO_SUFFIXES:
                yield folder, inner, inner, folder
            else:
                others += 1
        if others:
            errors.add(folder, f"{others} files are not videos ({' '.join(sorted(VIDEO_SUFFIXES))})")


def _of_table(root: DatasetFolder, file: str, errors: DataErrorLog) -> Iterator[_Row]:
    for row in table_rows(root, file, errors, columns=("video", "label")):
        location, cells = where(file, row), {column: row.cells.get(column) for column in ("video", "label")}
        video, label = id_of(cells["video"]), id_of(cells["label"])
        if video is None:
            errors.add(
                location,
                "empty video" if cells["video"] is None else f"video={shown(cells['video'])}: not a path",
            )
        elif label is None:
            what = "empty label" if cells["label"] is None else f"label={shown(cells['label'])}: not a label"
            errors.add(location, f"video {shown(video)}: {what}")
        else:
            yield location, video, os.path.normpath(video), label
