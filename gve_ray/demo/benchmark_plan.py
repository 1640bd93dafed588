"""Plan the miniature benchmark: the scenes, queries and positives of its 16 data sets.

    for dataset in plan_benchmark(seed=42): ...

The plan is a pure function of its arguments; `benchmark.py` renders it. Positives are computed from
the scenes: the positives of a text are all videos of the corpus for which every claim of the text
is true (`claims.py`).
"""

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from gve_ray.demo import claims, contrasts
from gve_ray.demo.claims import Claims, Text, truths
from gve_ray.demo.render import encode_mp4, frames
from gve_ray.demo.scenes import Scene

FORMAT = 2  # increment when the same arguments produce different files
_JPEG_QUALITY = 92
_CLIP = (0.15, 0.85)  # part of a chapter that a clip of a long video shows
_IMAGE_MOMENTS = (0.15, 0.85)


@dataclass(frozen=True, kw_only=True)
class Video:
    """An mp4 file that shows `scene` between the two moments of `span`, in [0, 1]."""

    name: str
    scene: Scene
    span: tuple[float, float] = (0.0, 1.0)

    @property
    def file(self) -> str:
        return f"{self.name}.mp4"

    @property
    def shown(self) -> Scene:
        """The scene, reduced to the chapters that the span covers."""
        chapters = self.scene.chapters
        first, last = (min(len(chapters) - 1, int(time * len(chapters))) for time in self.span)
        return Scene(**{**vars(self.scene), "chapters": chapters[first : last + 1]})

    def write(self, path: Path) -> None:
        """Render to an H.264 file."""
        scene, (start, end) = self.scene, self.span
        count = max(2, round(scene.total_frames * (end - start)))
        times = (start + (end - start) * i / (count - 1) for i in range(count))
        pictures = frames(scene, times, scene.width, scene.height)
        encode_mp4(path, pictures, fps=scene.fps, width=scene.width, height=scene.height)


@dataclass(frozen=True, kw_only=True)
class Still:
    """A JPEG file that shows a scene at one moment, in [0, 1]."""

    name: str
    scene: Scene
    moment: float

    @property
    def file(self) -> str:
        return f"{self.name}.jpg"

    def write(self, path: Path) -> None:
        """Render to a JPEG file."""
        picture = next(frames(self.scene, [self.moment], self.scene.width, self.scene.height))
        Image.fromarray(picture).save(path, quality=_JPEG_QUALITY)


@dataclass(frozen=True, kw_only=True)
class Query:
    """One query. Parts that it does not have are None. positives, candidates: names of videos of
    the corpus.
    """

    positives: tuple[str, ...]
    text: str | None = None
    image: Still | None = None
    video: Video | None = None
    candidates: tuple[str, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """One data set before it is written."""

    name: str
    corpus: tuple[Video, ...]
    queries: tuple[Query, ...] = field(repr=False)

    @property
    def files(self) -> list[Video | Still]:
        """Every media file of the data set once, the corpus first and then those of the queries."""
        query_media = (part for q in self.queries for part in (q.image, q.video) if part)
        return list({media.file: media for media in (*self.corpus, *query_media)}.values())


def plan_benchmark(*, seed: int, scale: float = 1.0) -> list[DataSet]:
    """Plan all 16 data sets, in the order of the paper's table. The same arguments give the same
    plan.

    scale: number of videos, and so of queries, relative to the default; every data set keeps at
    least one family of scenes. Raises ValueError if it is not in (0, 1.5].
    """
    if not 0 < scale <= 1.5:
        raise ValueError(
            f"scale={scale}: use a value above 0 and at most 1.5 (the number of camera movements is limited)"
        )

    def rng(family: str) -> random.Random:
        return random.Random(f"gve_ray benchmark {FORMAT}/{seed}/{family}")

    def count(whole: int, least: int = 1) -> int:
        return max(least, round(whole * scale))

    datasets = [
        *_general(rng("msrvtt"), count(32, 2)),
        _events_in_a_row(rng("didemo"), count(40, 3)),
        *_place_and_time(rng("crb"), count(10)),
        *_long_and_detailed(rng("vdc"), count(10)),
        _camera(rng("cmrb"), 2 * count(24, 2)),
        _single_events(rng("dream"), count(20, 2)),
        _keywords(rng("pev"), count(24, 2)),
        *_long(rng("lovr"), count(12)),
        *_composed(rng("ms"), count(3)),
    ]
    order = ("MSRVTT DiDeMo CRB-G CRB-S VDC-O CRB-T CMRB DREAM-E LoVR-TH PEV-K LoVR-V VDC-D MS-TI MS-TV "
             "MSRVTT-I2V LoVR-C2V").split()  # fmt: skip
    return sorted(datasets, key=lambda dataset: order.index(dataset.name))


def _text_dataset(name: str, corpus: Sequence[Video], texts: Iterable[Text]) -> DataSet:
    """Return a data set of distinct text queries; the positives of a text are all videos it is true
    of.
    """
    corpus_claims = [(video.name, truths(video.shown)) for video in corpus]
    distinct = {text.words: text for text in texts}.values()
    queries = (
        Query(text=text.words, positives=tuple(v for v, true in corpus_claims if text.claims <= true))
        for text in distinct
    )
    return DataSet(name=name, corpus=tuple(corpus), queries=tuple(queries))


def _families(
    rng: random.Random,
    n: int,
    draw: Callable[[random.Random], list[Scene]],
    describe: Callable[[Scene], list[Text]],
) -> list[list[Scene]]:
    """Draw n families of scenes in which every text of `describe` is true of a single scene."""
    chosen: list[list[Scene]] = []
    chosen_claims: list[Claims] = []
    chosen_truths: list[Claims] = []
    while len(chosen) < n:
        family = draw(rng)
        family_truths = [truths(scene) for scene in family]
        # Size is the hardest attribute to see, so no text may depend on it alone.
        family_claims = [
            frozenset(claim for claim in text.claims if claim[0] != "size")
            for scene in family
            for text in describe(scene)
        ]
        matches = (
            sum(claims <= true for true in (*chosen_truths, *family_truths)) for claims in family_claims
        )
        if all(count == 1 for count in matches) and not any(
            claims <= true for claims in chosen_claims for true in family_truths
        ):
            chosen.append(family)
            chosen_claims, chosen_truths = chosen_claims + family_claims, chosen_truths + family_truths
    return chosen


def _videos(prefix: str, scenes: Iterable[Scene]) -> list[Video]:
    return [Video(name=f"{prefix}{i:03d}", scene=scene) for i, scene in enumerate(scenes)]


def _flat(families: Iterable[Iterable[Scene]]) -> list[Scene]:
    return [scene for family in families for scene in family]


def _general(rng: random.Random, pairs: int) -> list[DataSet]:
    """MSRVTT and MSRVTT-I2V: two videos with different objects share each background."""
    families = _families(rng, pairs, contrasts.same_background, lambda scene: [claims.short(scene)])
    corpus = _videos("msrvtt", _flat(families))
    stills = [Still(name=v.name, scene=v.scene, moment=rng.uniform(*_IMAGE_MOMENTS)) for v in corpus]
    by_image = [Query(image=still, positives=(still.name,)) for still in stills]
    return [
        _text_dataset("MSRVTT", corpus, (claims.short(video.scene) for video in corpus)),
        DataSet(name="MSRVTT-I2V", corpus=tuple(corpus), queries=tuple(by_image)),
    ]


def _events_in_a_row(rng: random.Random, n: int) -> DataSet:
    families = _families(rng, n, contrasts.two_events, lambda scene: [claims.paragraph(scene)])
    corpus = _videos("didemo", _flat(families))
    return _text_dataset("DiDeMo", corpus, (claims.paragraph(video.scene) for video in corpus))


def _groups(rng: random.Random, n: int, draw: Callable[[random.Random], list[Scene]]) -> list[list[Scene]]:
    """Draw n groups of scenes. No object occurs twice in a scene, and no two groups share two
    objects.
    """
    chosen: list[list[Scene]] = []
    chosen_objects: list[set[tuple[str, str]]] = []
    while len(chosen) < n:
        group = draw(rng)
        objects = [(thing.colour, thing.shape) for chapter in group[0].chapters for thing in chapter.things]
        distinct = set(objects)
        if len(distinct) == len(objects) and all(len(other & distinct) < 2 for other in chosen_objects):
            chosen.append(group)
            chosen_objects.append(distinct)
    return chosen


def _place_and_time(rng: random.Random, n: int) -> list[DataSet]:
    """CRB: groups of three places times four motions.

    A spatial text matches one place of its group, with all four motions; a temporal text matches
    one motion, at all three places.
    """
    groups = _groups(rng, n, contrasts.places_and_times)
    corpus = _videos("crb", _flat(groups))
    general = (claims.full(scene) for group in groups for scene in group[::2])
    spatial = (
        claims.spatial(scene.chapters[0], level)
        for group in groups
        for scene in group[::4]
        for level in ("standard", "easy")
    )
    temporal = (
        claims.temporal(scene.chapters[0], level)
        for group in groups
        for scene in group[:4]
        for level in ("standard", "advanced")
    )
    return [
        _text_dataset("CRB-G", corpus, general),
        _text_dataset("CRB-S", corpus, spatial),
        _text_dataset("CRB-T", corpus, temporal),
    ]


def _long_and_detailed(rng: random.Random, n: int) -> list[DataSet]:
    """VDC: groups of four scenes that differ in the places of two objects."""
    corpus = _videos("vdc", _flat(_groups(rng, n, contrasts.long_places)))
    return [
        _text_dataset("VDC-O", corpus, (claims.spatial_parts(video.scene) for video in corpus)),
        _text_dataset("VDC-D", corpus, (claims.detailed(video.scene) for video in corpus)),
    ]


def _camera(rng: random.Random, n: int) -> DataSet:
    corpus = _videos("cmrb", contrasts.camera_scenes(rng, n))
    return _text_dataset("CMRB", corpus, (claims.camera_steps(video.scene) for video in corpus))


def _single_events(rng: random.Random, pairs: int) -> DataSet:
    def events(scene: Scene) -> list[Text]:
        return [claims.event(thing, thing.motions[0]) for thing in scene.chapters[0].things]

    corpus = _videos("dream", _flat(_families(rng, pairs, contrasts.swapped_events, events)))
    return _text_dataset("DREAM-E", corpus, (text for video in corpus for text in events(video.scene)))


def _keywords(rng: random.Random, pairs: int) -> DataSet:
    """PEV-K: keywords about the first of several objects. One video in ten has no query."""

    def words(scene: Scene) -> Text:
        return claims.keywords(scene.chapters[0], scene.chapters[0].things[0])

    families = _families(rng, pairs, contrasts.other_action, lambda scene: [words(scene)])
    corpus = _videos("pev", _flat(families))
    return _text_dataset("PEV-K", corpus, (words(v.scene) for i, v in enumerate(corpus) if i % 10 != 9))


def _long(rng: random.Random, pairs: int) -> list[DataSet]:
    """LoVR: pairs of long videos that share two chapters, and a clip of each of the pair's four
    distinct chapters.
    """
    long: list[Video] = []
    clips: list[Video] = []
    for p in range(pairs):
        scenes, changed = contrasts.other_chapter(rng)
        pair = [Video(name=f"lovr{2 * p + i:03d}", scene=scene) for i, scene in enumerate(scenes)]
        long += pair
        for video, i in [*((pair[0], i) for i in range(3)), (pair[1], changed)]:
            start, end = ((i + share) / 3 for share in _CLIP)
            clips.append(Video(name=f"{video.name}-clip{i}", scene=video.scene, span=(start, end)))
    clip_queries = [
        Query(
            video=clip,
            positives=tuple(
                v.name for v in long
                if v.scene.seed == clip.scene.seed and clip.shown.chapters[0] in v.scene.chapters
            ),
        )
        for clip in clips
    ]  # fmt: skip
    return [
        _text_dataset("LoVR-TH", clips, (claims.theme(clip.shown) for clip in clips)),
        _text_dataset("LoVR-V", long, (claims.detailed(video.scene) for video in long)),
        DataSet(name="LoVR-C2V", corpus=tuple(long), queries=tuple(clip_queries)),
    ]


def _composed(rng: random.Random, groups: int) -> list[DataSet]:
    """MS: of ten candidates, seven show the motion in the text, four show the object in the image
    or clip, one both.
    """
    corpus: list[Video] = []
    by_image: list[Query] = []
    by_clip: list[Query] = []
    for g in range(groups):
        grid = contrasts.composed_grid(rng)
        names = [[f"ms{g}-{i}-{j}" for j in range(len(row))] for i, row in enumerate(grid.scenes)]
        for i, row in enumerate(grid.scenes):
            corpus += [Video(name=name, scene=scene) for name, scene in zip(names[i], row, strict=True)]
            still = Still(name=f"ms{g}-{i}", scene=grid.references[i], moment=0.0)
            clip = Video(name=f"ms{g}-{i}-shown", scene=grid.references[i])
            for j, scene in enumerate(row):
                row_and_column = {*names[i], *(other[j] for other in names)}
                candidates = tuple(rng.sample(sorted(row_and_column), len(row_and_column)))
                target: dict[str, Any] = {"positives": (names[i][j],), "candidates": candidates}
                motions = scene.chapters[0].things[0].motions
                # The two data sets alternate like the squares of a chessboard, so both use every
                # row and column.
                if (i + j) % 2:
                    by_image.append(Query(text=claims.change(motions, "image").words, image=still, **target))
                else:
                    by_clip.append(Query(text=claims.change(motions, "clip").words, video=clip, **target))
    return [
        DataSet(name=name, corpus=tuple(corpus), queries=tuple(queries))
        for name, queries in (("MS-TI", by_image), ("MS-TV", by_clip))
    ]
