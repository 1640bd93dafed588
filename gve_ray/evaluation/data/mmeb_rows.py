"""Makes queries and candidates of the rows of MMEB-V2's video data sets, one function for each form of rows.

`mmeb` has the data sets, and the sources of these forms.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from gve_ray.errors import shown
from gve_ray.evaluation.data.dataset_folder import DatasetFolder
from gve_ray.evaluation.data.jsonl_items import id_of, is_unicode
from gve_ray.schema import Item

CLIP = "Find the clip that corresponds to the "
_OPTION_LETTER = re.compile(r"^\(?[A-Z][.)]\s*")


class BadRowError(ValueError):
    """A row is not one of its data set; the message says why."""


class Query(NamedTuple):
    """A query with the candidates that its row names, by id, and the ids of those that are right."""

    item: Item
    candidates: Mapping[str, Item]
    positives: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row, its file in the folder of rows, and the folder of its data set's frames."""

    cells: Mapping[str, Any]
    file: str
    frames: DatasetFolder

    def text(self, column: str) -> str:
        """The text of a cell, or the first one of a list."""
        value = self.cells.get(column)
        return _text(column, value[0] if isinstance(value, list) and value else value)

    def texts(self, column: str) -> list[str]:
        """The texts of a cell that has a list."""
        value = self.cells.get(column)
        if not isinstance(value, list) or not value:
            raise BadRowError(f"{column}={shown(value)}: not a list of texts")
        return [_text(column, part) for part in value]

    def id(self, column: str) -> str:
        """An id, as text."""
        value = id_of(self.cells.get(column))
        if value is None:
            raise BadRowError(f"{column}={shown(self.cells.get(column))}: not an id")
        return value

    def media(self, *parts: str) -> str:
        """The path of an image or a folder of frames."""
        return self.frames.media(_inside(*parts))

    def clips(self, video: str) -> list[str]:
        """The names of the folders of frames in the folder of a video."""
        names = self.frames.names(_inside(video))
        return [name for name in names if self.frames.is_folder(f"{video}/{name}")]


Reader = Callable[[Row], Query]


def _text(column: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip() or not is_unicode(value):
        raise BadRowError(f"{column}={shown(value)}: not a text")
    return value.strip()


def _inside(*parts: str) -> str:
    path = PurePosixPath(*parts)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise BadRowError(f"{shown(str(path))}: not a path inside the folder of frames")
    return str(path)


def _stem(path: str) -> str:
    return PurePosixPath(path).stem


def _texts(texts: Sequence[str]) -> dict[str, Item]:
    return {text: Item(text=text) for text in texts}


def _chosen(column: str, options: Sequence[str], answer: str) -> int:
    """The position of the right option, which a row has as a number from 0."""
    if not answer.isdecimal() or int(answer) >= len(options):
        raise BadRowError(f"{column}={shown(answer)}: not the number of one of {len(options)} options")
    return int(answer)


def _lettered(options: Sequence[str]) -> list[str]:
    return [f"({chr(ord('A') + i)}) {option}" for i, option in enumerate(options)]


def _unlettered(options: Sequence[str]) -> list[str]:
    """The texts of "A. They eat." and so on, as the benchmark embeds them as candidates."""
    return [_OPTION_LETTER.sub("", option).strip(". ") or option for option in options]


def _asked(video: str, question: str, options: Sequence[str], right: int) -> Query:
    """A question about a video; the candidates are its options."""
    return Query(Item(video=video, text=f"Question: {question}"), _texts(options), [options[right]])


# ---- one function for each form of rows


def classified(row: Row) -> Query:
    """A video and its class."""
    label = row.text("pos_text")
    return Query(Item(video=row.media(row.id("video_id"))), _texts([label]), [label])


def multiple_choice(row: Row) -> Query:
    """A video, its class, and the wrong classes of its row."""
    label = row.text("pos_text")
    options = _texts([label, *row.texts("neg_text")])
    return Query(Item(video=row.media(row.id("video_id"))), options, [label])


def captioned(video: str, text: str, *, is_path: bool = False) -> Reader:
    """A caption and the video that it describes, by the names of their columns."""

    def read(row: Row) -> Query:
        name = _stem(row.id(video)) if is_path else row.id(video)
        return Query(Item(text=row.text(text)), {name: Item(video=row.media(name))}, [name])

    return read


def moment(row: Row) -> Query:
    """The folder of a video has the frames of the query's video in `query`, of clips in the other folders."""
    video = _stem(row.id("video_path"))
    clips = [name for name in row.clips(video) if name != "query"]
    right = [f"{video}/{name}" for name in clips if name.startswith("positive")]
    if not right:
        raise BadRowError(
            f"video_path={shown(row.cells['video_path'])}: no folder {video}/positive* in the folder of frames"
        )
    return Query(
        Item(video=row.media(video, "query"), text=row.text("query")),
        {f"{video}/{name}": Item(video=row.media(video, name)) for name in clips},
        right,
    )


def moment_seeker(row: Row) -> Query:
    """A text, in some rows with an image or a video, and the clips that are right and those that are wrong."""

    def folder(path: str) -> str:
        return row.media("video_frames", path.removesuffix(".mp4").replace("/", "_"))

    def clips(column: str) -> dict[str, Item]:
        value = row.cells.get(column)
        if not isinstance(value, list):
            raise BadRowError(f"{column}={shown(value)}: not a list of clips")
        paths = [entry.get("output_path") if isinstance(entry, Mapping) else None for entry in value]
        return {path: Item(video=folder(path)) for path in (_text(column, path) for path in paths)}

    text, given = row.text("query"), row.cells.get("input_frames") or ""
    if not isinstance(given, str):
        raise BadRowError(f"input_frames={shown(given)}: not a path")
    if given.endswith(".mp4"):
        prompt = f"{CLIP}given sentence and video segment:"
        item = Item(text=text, video=folder(given), instruction=prompt)
    elif given.endswith(".jpg"):
        prompt = "Select the video clip that aligns with the given text and image:"
        item = Item(text=text, image=row.media(f"query_{given}"), instruction=prompt)
    else:
        item = Item(text=text, instruction=f"{CLIP}given text:")
    right = clips("positive_frames")
    return Query(item, right | clips("negative_frames"), list(right))


def video_mme(row: Row) -> Query:
    """A question of Video-MME, whose options have letters, and whose answer is one."""
    options, letter = row.texts("options"), row.text("answer")
    right = _chosen("answer", options, str(ord(letter) - ord("A")) if len(letter) == 1 else letter)
    question = "\n".join([row.text("question"), *options])
    return _asked(row.media(row.id("videoID")), question, _unlettered(options), right)


def next_qa(row: Row) -> Query:
    """A question of NExTQA, with five options."""
    options = [row.text(f"a{i}") for i in range(5)]
    question = "\n".join([row.text("question"), "Options:", *_lettered(options)])
    right = _chosen("answer", options, row.id("answer"))
    return _asked(row.media(row.id("video")), question, options, right)


def ego_schema(row: Row) -> Query:
    """A question of EgoSchema, whose options have letters."""
    options = row.texts("option")
    # The benchmark has no space between the question and the first option.
    question = row.text("question") + " ".join(options)
    right = _chosen("answer", options, row.id("answer"))
    return _asked(row.media(row.id("video_idx")), question, _unlettered(options), right)


def mv_bench(row: Row) -> Query:
    """A question of one of the parts of MVBench."""
    options, answer = row.texts("candidates"), row.text("answer")
    if answer not in options:
        raise BadRowError(f"answer={shown(answer)}: not one of the candidates")
    lettered = _lettered(options)
    question = "\n".join([row.text("question"), "Options:", *lettered])
    subset = next(part for part in _names_in(row.file) if part in _MV_BENCH)
    return _asked(row.media(subset, row.id("video")), question, lettered, options.index(answer))


def activity_net_qa(row: Row) -> Query:
    """A question of ActivityNetQA that is answered by yes or no."""
    options, answer = ["yes", "no"], row.text("answer")
    if answer not in options:
        raise BadRowError(f"answer={shown(answer)}: neither yes nor no")
    question = f"{row.text('question')}? (A) yes; (B) no."
    return _asked(row.media(f"v_{row.id('video_name')}"), question, options, options.index(answer))


# The parts of MVBench; each is a configuration with its own file, and a folder of frames.
_MV_BENCH = frozenset(
    "action_antonym action_count action_localization action_prediction action_sequence character_order "
    "counterfactual_inference egocentric_navigation episodic_reasoning fine_grained_action "
    "fine_grained_pose moving_attribute moving_count moving_direction object_existence "
    "object_interaction object_shuffle scene_transition state_change unexpected_action".split()
)


def _names_in(file: str) -> list[str]:
    """The names of a file and of the folders that it is in, without extensions."""
    return [PurePosixPath(part).stem for part in PurePosixPath(file).parts]


def is_mv_bench(file: str) -> bool:
    """Return whether a file has rows of a part of MVBench."""
    return not _MV_BENCH.isdisjoint(_names_in(file))
