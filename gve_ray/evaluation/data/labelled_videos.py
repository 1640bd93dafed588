"""Zero-shot classification as retrieval: videos are the queries, the texts of the labels are the corpus.

    load_classes("hmdb51", name="HMDB51", template="a video of someone who does this: {label}")
    load_classes("k700/val.csv", name="K700")

A folder holds one folder a class, and in it videos (files, or folders of frames); a table has the columns video
and label, paths from its own folder or absolute. Each video has one right label, so accuracy@k is hit@k.
"""

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from gve_ray.evaluation.data.data_errors import Faults, shown
from gve_ray.evaluation.data.dataset_folder import Place, is_file, place_of
from gve_ray.evaluation.data.jsonl_items import id_of, is_unicode, table_rows, where
from gve_ray.evaluation.data.retrieval_set import RetrievalSet
from gve_ray.evaluation.scores import metrics
from gve_ray.evaluation.scores.statistics import bootstrap_mean
from gve_ray.media.source import VIDEO_SUFFIXES
from gve_ray.schema import Item

PLACES = (1, 5)
_WORD_START = re.compile(r"(?<=[a-z])(?=[A-Z])")


def load_classes(place: str | Path, *, name: str, template: str = "{label}") -> RetrievalSet:
    """A folder of classes or a table as a retrieval set; query ids are the videos' paths as they stand there.

    template: the text of a label, with `{label}` in it. A class folder's name is read as words: `brush_hair` and
    `BrushHair` are brush hair and Brush Hair; labels of a table are taken as they are. What is wrong is left out
    and told in `skipped`; does not raise on bad data.
    """
    faults = Faults(name)
    folder, _, file = str(place).rpartition("/")
    is_table = is_file(str(place))
    root = place_of((folder or ".") if is_table else place)
    rows = _of_table(root, file, faults) if is_table else _of_folder(root, faults)
    labels: dict[str, str] = {}  # text by label
    videos: dict[str, tuple[str, str]] = {}  # path and label by id
    for here, video, path, label in rows:
        if video in videos:
            faults.add(
                here,
                f"video {shown(video)}: there twice; {shown(videos[video][1])}, its first label, counts",
            )
        elif not (root.is_file(path) or root.has_pictures(path)):
            faults.add(here, f"video {shown(video)}: no such file or folder of frames")
        else:
            videos[video] = root.media(path), label
            labels[label] = label if is_table else words(label)
    if not videos:
        faults.add(str(place), "no videos; give a folder of <class>/<video>, or a table with video and label")
    return RetrievalSet(
        name=name,
        query_ids=list(videos),
        queries=[Item(video=path) for path, _ in videos.values()],
        corpus_ids=sorted(labels),
        corpus=[Item(text=template.replace("{label}", labels[one])) for one in sorted(labels)],
        positives={video: frozenset({label}) for video, (_, label) in videos.items()},
        candidates=None,
        skipped=faults.all(),
    )


def words(name: str) -> str:
    """A class folder's name as words."""
    return " ".join(_WORD_START.sub(" ", name).replace("_", " ").split())


def classification(
    rankings: metrics.Rankings, positives: metrics.Positives, *, n_labels: int, resamples: int, seed: int
) -> dict[str, Any]:
    """What results.json says of a classification: accuracy@k with its interval over videos, and confusion.

    rankings: labels by video, best first; positives: the one right label of each. confusion: by right label,
    how often which label came first.
    """
    found: dict[str, Any] = {"n_labels": n_labels, "chance": 1 / n_labels}
    for k in PLACES:
        values = metrics.per_query(f"hit@{k}", rankings, positives)
        interval = bootstrap_mean(values, resamples=resamples, seed=seed)
        found[f"accuracy@{k}"] = {"score": float(np.mean(values)), "interval": [interval.low, interval.high]}
    confusion: dict[str, Counter[str]] = {}
    for video, right in positives.items():
        (label,) = right
        confusion.setdefault(label, Counter())[rankings[video][0]] += 1
    found["confusion"] = {label: dict(confusion[label].most_common()) for label in sorted(confusion)}
    return found


def told(facts: Mapping[str, Any]) -> str:
    """`classification` in a line."""
    parts = []
    for k in PLACES:
        one = facts[f"accuracy@{k}"]
        parts.append(f"accuracy@{k} {one['score']:.3f} [{one['interval'][0]:.3f}, {one['interval'][1]:.3f}]")
    return f"{', '.join(parts)} of {facts['n_labels']} labels"


_Row = tuple[
    str, str, str, str
]  # where it stands, the video as it is named there and in the place, its label


def _of_folder(root: Place, faults: Faults) -> Iterator[_Row]:
    for folder in root.names():
        if not root.is_folder(folder):
            continue
        others = 0
        for one in root.names(folder):
            inner = f"{folder}/{one}"
            if not is_unicode(inner):
                faults.add(folder, f"{inner!r}: the name is not UTF-8; rename it")
            elif root.is_folder(inner) or PurePosixPath(one).suffix.lower() in VIDEO_SUFFIXES:
                yield folder, inner, inner, folder
            else:
                others += 1
        if others:
            faults.add(folder, f"{others} files are no videos ({' '.join(sorted(VIDEO_SUFFIXES))})")


def _of_table(root: Place, file: str, faults: Faults) -> Iterator[_Row]:
    for row in table_rows(root, file, faults, columns=("video", "label")):
        here, cells = where(file, row), {column: row.cells.get(column) for column in ("video", "label")}
        video, label = id_of(cells["video"]), id_of(cells["label"])
        if video is None:
            faults.add(
                here, "empty video" if cells["video"] is None else f"video={shown(cells['video'])}: no path"
            )
        elif label is None:
            what = "empty label" if cells["label"] is None else f"label={shown(cells['label'])}: no label"
            faults.add(here, f"video {shown(video)}: {what}")
        else:
            yield here, video, os.path.normpath(video), label
