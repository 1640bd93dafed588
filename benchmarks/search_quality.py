"""Measure what a search returns: whether it says that nothing matches, and how many films it shows.

    python benchmarks/search_quality.py [--seed 6] [--films 200] [--windowed 60] [--copies 20] [--min_confidence 0.9]

Renders scenes of the held-out split and embeds them with the packaged tiny model. Each scene has one
query, by turns its complete description and a clip of it. For the cut-off, half of the scenes are in
the index as whole films, as in the demo's recipe, so half of the queries have no answer. For the
films, the files of the first 60 are in the index in windows of 4 s that overlap by 2 s, and 20 of them
a second time, strongly compressed. Prints one JSON object:

cutoff_precision: of the queries with a confident hit, the share with an answer in the index.
cutoff_recall: of the queries with an answer, the share with a confident hit.
false_alarms: of the queries without an answer, the share with a confident hit.
right_first: of the queries with an answer and a confident hit, the share whose best hit is the right film.
curve: the same at other levels of confidence.
films_in_top10_before, films_in_top10_after: mean number of films among the ten best hits of a query:
moments apart from each other of files with other bytes; and each film once, with copies found.
copies_in_top10_before, copies_in_top10_after: of the queries about a film that is there twice, the
share with both files among the ten best.
copy_cosine: lowest and median cosine of a window with its copy.

For words, each film of windows gets cues of 2 s, half of the films as a track and half as an .srt file next to it. A
cue is a sentence of speech or, one of four, a description of another film, so that words mislead.

words_top5, vectors_only_top5: of the queries about a sentence of speech, the share with its moment among
the five best, with words and without; chance is `chance_top5`.
words_by_words_top5: the same, when only words are searched.
pictures_top5_before, pictures_top5_after: of the queries that describe a film, the share with it among
the five best, without words and with.
pictures_first_before, pictures_first_after: the same for the first hit.
"""

import argparse
import itertools
import json
import random
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from gve_ray.config import ModelConfig
from gve_ray.demo.language import Writer
from gve_ray.demo.render import frames, write_mp4
from gve_ray.demo.retrieval import queries_of
from gve_ray.demo.scenes import Scene, draw_scene
from gve_ray.embedder import Embedder
from gve_ray.indexing.config import IndexConfig
from gve_ray.indexing.files import states_of
from gve_ray.indexing.segments import windows
from gve_ray.indexing.subtitles import SUBTITLE_SCHEMA, SubtitleWorker
from gve_ray.indexing.words import Words
from gve_ray.media import Limits, read_frames
from gve_ray.media.subtitles import Cue
from gve_ray.media.video.scenes import Span
from gve_ray.schema import Frames, Item
from gve_ray.search import (
    Background,
    By,
    IndexOptions,
    IndexSpec,
    Moment,
    Ranking,
    VectorIndex,
    create_index,
    search_moments,
)
from gve_ray.search.confidence import background_of
from gve_ray.search.index import Hit, span_of
from gve_ray.search.library import FIELDS
from gve_ray.search.moments import distinct
from gve_ray.search.words import WordIndex
from gve_ray.serving.hits import MIN_CONFIDENCE
from gve_ray.stage import REJECT_SCHEMA
from gve_ray.store import Store

FRAMES = 8
WINDOW, OVERLAP, SHORTEST = 4.0, 2.0, 1.0  # seconds
TOP, TOP_WORDS = 10, 5
KINDS = ("fine", "clip")
LEVELS = (0.5, 0.7, 0.8, 0.9, 0.95, 0.99)
AT_ONCE = 64
CUE = 2.0  # seconds
# Words of speech, and questions about it. None of them describes a rendered film.
SUBJECTS = "grandmother,captain,professor,neighbor,baker,senator,nurse,violinist,tailor,gardener".split(",")
VERBS = "borrowed,forgot,inherited,painted,repaired,sold,stole,buried,mailed,recognized".split(",")
OBJECTS = "ladder,passport,trumpet,umbrella,manuscript,teapot,compass,lantern,saddle,telescope".split(",")
PLACES = "Lisbon,harbor,attic,library,museum,monastery,cinema,vineyard,lighthouse,bakery".split(",")
QUESTIONS = (
    "the {0} who {1} the {2}",
    "where do they say that the {0} {1} a {2} near the {3}?",
    "{2} {3} {0}",
    "a {2} was {1} at the {3}",
)


class Corpus:
    """Films with the vectors and metadata of their segments."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self.ids: list[str] = []
        self.metadata: list[dict[str, Any]] = []
        self._vectors: list[np.ndarray] = []
        self._waiting: list[Item] = []

    def add(self, film: str, scene: Scene, spans: Sequence[Span], file: Path | None = None) -> None:
        """Add a film, read from its file, or rendered from its scene without one."""
        for number, (start, end) in enumerate(spans):
            if file is None:
                seen = drawn(scene, start, end)
            else:
                seen = read_frames(str(file), k=FRAMES, start=start, end=end, max_pixels=10**6, min_pixels=1)
            self.ids.append(f"{film}/{number}")
            facts = {"video_id": film, "uri": film, "segment": number, "fingerprint": film}
            self.metadata.append({**facts, "start": start, "end": end, "duration": scene.duration})
            self._waiting.append(Item(video=seen))
        if len(self._waiting) >= AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            self._vectors.append(self._embedder.embed(self._waiting))
            self._waiting = []
            print(f"{sum(map(len, self._vectors))} segments", file=sys.stderr)

    def index(self, folder: Path) -> tuple[VectorIndex, Background]:
        """Return an index of the films, and its background."""
        self._flush()
        vectors = np.concatenate(self._vectors)
        spec = IndexSpec(dimension=vectors.shape[1], fields=dict(FIELDS))
        index = create_index(folder, spec, IndexOptions())
        index.add(self.ids, vectors, self.metadata)
        background = background_of(vectors, [row["fingerprint"] for row in self.metadata])
        assert background is not None
        return index, background


@dataclass(frozen=True)
class Speech:
    """What is said in the films. cues: by film. queries: a text, and the film and the span that it is about."""

    cues: list[list[Cue]]
    queries: list[tuple[str, int, Cue]]


def speech_of(scenes: Sequence[Scene]) -> Speech:
    """Draw the cues of each film, and a query about one sentence of each."""
    rng = random.Random(f"words {scenes[0].seed}")
    sentences = rng.sample(list(itertools.product(SUBJECTS, VERBS, OBJECTS, PLACES)), 9_000)
    speech = Speech([], [])
    for film, scene in enumerate(scenes):
        cues, said = [], []
        for number in range(max(1, int(scene.duration / CUE))):
            start = CUE * number
            span = start, min(start + CUE, scene.duration)
            if number % 4 == 3:
                other = rng.choice([scenes[i] for i in range(len(scenes)) if i != film])
                cues.append(Cue(*span, Writer().captions(other)["1"]))
            else:
                words = sentences.pop()
                cues.append(Cue(*span, "My {} {} the <i>{}</i>\nin the {}.".format(*words)))
                said.append((words, cues[-1]))
        words, cue = rng.choice(said)
        speech.queries.append((rng.choice(QUESTIONS).format(*words), film, cue))
        speech.cues.append(cues)
    return speech


def words_of(folder: Path, scenes: Sequence[Scene], speech: Speech, corpus: Corpus) -> WordIndex:
    """Write the films with their subtitles, read them as the index job does, and index the words."""
    worker = SubtitleWorker(Limits())
    config = IndexConfig(input="films", output=str(folder), model=ModelConfig(name="m", model="m"))
    rejects = Store(f"{folder}/rejects.lance", REJECT_SCHEMA)
    words = Words(config, str(folder), FIELDS, rejects)
    files, rows = [], []
    for film, (scene, cues) in enumerate(zip(scenes, speech.cues, strict=True)):
        path = folder / f"film{film}.mp4"
        still = replace(scene, width=32, height=32)
        write_mp4(path, still, crf=40, subtitles=cues if film % 2 else ())
        if film % 2 == 0:
            path.with_suffix(".srt").write_text(as_srt(cues), encoding=("utf-8", "utf-16")[film // 2 % 2])
        file = {"video_id": f"film{film}", "uri": str(path), "words": f"film{film}", "caption": None}
        files.append({**file, "version": "1", "metadata": "{}"})
        found = [uri for uri, _ in states_of([str(path)])[str(path)].subtitles]
        rows.append({"words": f"film{film}", "uri": str(path), "start": 0.0, "files": found})
    store = Store(f"{folder}/subtitles.lance", SUBTITLE_SCHEMA, key="words").create()
    store.append(pa.Table.from_pylist(worker(rows), schema=SUBTITLE_SCHEMA))
    entries = {
        key: dict.fromkeys(FIELDS) | row
        for key, row in zip(corpus.ids, corpus.metadata, strict=True)
        if key.startswith("film")
    }
    facts = words.fill(files, entries, None)
    assert facts is not None
    return WordIndex.open(f"{folder}/{facts['index']}", FIELDS, facts["version"])


def as_srt(cues: Sequence[Cue]) -> str:
    def clock(seconds: float) -> str:
        whole, thousandths = divmod(round(seconds * 1000), 1000)
        return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d},{thousandths:03d}"

    return "".join(
        f"{number}\n{clock(cue.start)} --> {clock(cue.end)}\n{cue.text}\n\n"
        for number, cue in enumerate(cues, 1)
    )


def measure_words(
    folder: Path,
    index: VectorIndex,
    background: Background | None,
    corpus: Corpus,
    scenes: Sequence[Scene],
    embedder: Embedder,
) -> dict[str, Any]:
    """Return the measurements of words. index, background, corpus: of the windows of the scenes, and of copies."""
    speech = speech_of(scenes)
    words = words_of(folder, scenes, speech, corpus)

    def hits_of(texts: Sequence[str], by: By) -> list[list[Moment]]:
        vectors = embedder.embed([Item(text=text) for text in texts])
        return [
            search_moments(
                index, vector[None], TOP_WORDS, ranking=Ranking.of(words, text, by), background=background
            )
            for vector, text in zip(vectors, texts, strict=True)
        ]

    said = [text for text, _, _ in speech.queries]
    described = [Writer().captions(scene)["1"] for scene in scenes]

    def moment_found(by: By) -> float:
        return share(
            [
                any(shows(hit, film, cue) for hit in hits)
                for hits, (_, film, cue) in zip(hits_of(said, by), speech.queries, strict=True)
            ]
        )

    pictures = {by: hits_of(described, by) for by in ("picture", "both")}
    segments = [Hit(id=key, score=0.0, metadata=row) for key, row in index.metadata()]
    right = sum(shows(segment, film, cue) for _, film, cue in speech.queries for segment in segments)
    return {
        "words_top5": moment_found("both"),
        "words_by_words_top5": moment_found("words"),
        "vectors_only_top5": moment_found("picture"),
        "chance_top5": round(TOP_WORDS * right / len(segments) / len(scenes), 4),
        **{
            f"pictures_{name}_{when}": share(
                [any(number_of(hit) == film for hit in hits[:k]) for film, hits in enumerate(pictures[by])]
            )
            for name, k in (("first", 1), ("top5", TOP_WORDS))
            for when, by in (("before", "picture"), ("after", "both"))
        },
    }


def shows(hit: Hit, film: int, cue: Cue) -> bool:
    """Return whether a hit is of the film, or its copy, at the time of a cue."""
    start, end = span_of(hit)
    return number_of(hit) == film and start < cue.end and cue.start < end


def drawn(scene: Scene, start: float, end: float) -> Frames:
    """Return frames of a span of a scene, as if they had been read from its file."""
    seconds = np.linspace(start, end, FRAMES, endpoint=False)
    times = (seconds / scene.duration).tolist()
    return Frames(
        pixels=np.stack(list(frames(scene, times, scene.width, scene.height))),
        timestamps=seconds,
        indices=np.arange(FRAMES),
        fps=scene.fps,
        duration=end - start,
        total_frames=FRAMES,
    )


def measure_cutoff(
    folder: Path, scenes: Sequence[Scene], queries: np.ndarray, embedder: Embedder, least: float
) -> dict[str, Any]:
    """Measure the cut-off on whole films. queries: float32 [2 n, d]; the first n are about the scenes."""
    corpus = Corpus(embedder)
    for i, scene in enumerate(scenes):
        corpus.add(f"film{i}", scene, [(0.0, scene.duration)])
    index, background = corpus.index(folder / "whole")
    found = [search_moments(index, query[None], 1, background=background)[0] for query in queries]
    best = np.array([hit.confidence for hit in found])
    answered = len(scenes)
    kinds = np.arange(len(queries)) % len(KINDS)
    return {
        "min_confidence": least,
        **cutoff(best, answered, least),
        "right_first": share([number_of(found[i]) == i for i in range(answered) if best[i] >= least]),
        "by_kind": {
            name: {
                str(level): cutoff(best[kinds == kind], int((kinds[:answered] == kind).sum()), level)
                for level in LEVELS
            }
            for kind, name in enumerate(KINDS)
        },
        "curve": {str(level): cutoff(best, answered, level) for level in LEVELS},
    }


def measure_films(
    folder: Path, scenes: Sequence[Scene], queries: np.ndarray, embedder: Embedder, copies: int
) -> dict[str, Any]:
    """Measure which films are among the best hits, in an index of windows. queries: one for each scene."""
    corpus = Corpus(embedder)
    for i, scene in enumerate(scenes):
        spans = windows(scene.duration, WINDOW, OVERLAP, SHORTEST)
        for name, crf in (("film", 20), ("copy", 35))[: 1 + (i < copies)]:
            file = folder / f"{name}{i}.mp4"
            write_mp4(file, scene, crf=crf)
            corpus.add(f"{name}{i}", scene, spans, file)
    index, background = corpus.index(folder / "windows")
    before = [plain(index, query) for query in queries]
    after = [
        search_moments(index, query[None], TOP, by_video=True, background=background) for query in queries
    ]
    copied = [name for name in corpus.ids if name.startswith("copy")]
    originals = [name.replace("copy", "film") for name in copied]
    cosines = (index.get(copied)[0] * index.get(originals)[0]).sum(axis=1)
    return {
        "segments": index.count(),
        "films_in_top10_before": mean_films(before),
        "films_in_top10_after": mean_films(after),
        "copies_in_top10_before": share([is_twice(hits, i) for i, hits in enumerate(before[:copies])]),
        "copies_in_top10_after": share([is_twice(hits, i) for i, hits in enumerate(after[:copies])]),
        "copy_cosine": [round(float(np.quantile(cosines, q)), 4) for q in (0, 0.5)],
        **measure_words(folder, index, background, corpus, scenes, embedder),
    }


def plain(index: VectorIndex, query: np.ndarray) -> list[Moment]:
    """Return moments apart from each other, of which those of copies count as well."""
    (hits,) = index.search(query[None], index.count())
    return distinct(hits, {})[:TOP]


def cutoff(best: np.ndarray, answered: int, level: float) -> dict[str, float]:
    """Return precision and recall of the cut-off. best: confidences, first of queries with an answer."""
    right, wrong = int((best[:answered] >= level).sum()), int((best[answered:] >= level).sum())
    return {
        "cutoff_precision": round(right / max(1, right + wrong), 3),
        "cutoff_recall": round(right / answered, 3),
        "false_alarms": round(wrong / (len(best) - answered), 3),
    }


def share(values: Sequence[bool]) -> float:
    return round(float(np.mean(values)), 3) if values else 0.0


def mean_films(results: Sequence[Sequence[Moment]]) -> float:
    return round(float(np.mean([len({number_of(hit) for hit in hits}) for hits in results])), 2)


def is_twice(hits: Sequence[Moment], film: int) -> bool:
    return len({hit.metadata["fingerprint"] for hit in hits if number_of(hit) == film}) == 2


def number_of(hit: Hit) -> int:
    """Return the number of the film that a hit shows, whichever file it is in."""
    return int(str(hit.metadata["fingerprint"])[4:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=6)
    parser.add_argument("--films", type=int, default=200)
    parser.add_argument("--windowed", type=int, default=60)
    parser.add_argument("--copies", type=int, default=20)
    parser.add_argument("--min_confidence", type=float, default=MIN_CONFIDENCE)
    args = parser.parse_args()
    embedder = Embedder.from_pretrained("package://demo/tiny_vl/model", "package://demo/tiny_vl/adapter")
    scenes = [draw_scene(args.seed * 1_000_000 + i, "heldout") for i in range(2 * args.films)]
    items = [queries_of(scene, args.seed)[KINDS[i % len(KINDS)]] for i, scene in enumerate(scenes)]
    queries = embedder.embed(items)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cut = measure_cutoff(folder, scenes[: args.films], queries, embedder, args.min_confidence)
        few = slice(args.windowed)
        films = measure_films(folder, scenes[few], queries[few], embedder, args.copies)
    print(json.dumps({**vars(args), **cut, **films}, indent=1))


if __name__ == "__main__":
    main()
