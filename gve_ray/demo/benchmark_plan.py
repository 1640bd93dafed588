"""What the miniature benchmark holds, decided in advance: the scenes, queries and positives of 16 data sets.

    for one in plan_benchmark(seed=42): ...

Pure: the same arguments give the same plan, which `benchmark.py` renders. Positives are never assumed: a text
has those videos of its corpus of which everything it claims is true (`claims.py`).
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

FORMAT = 2  # raise it when the same arguments make other files
_JPEG_QUALITY = 92
_CLIP = (0.15, 0.85)  # of a chapter: what a clip of a long video shows
_IMAGE_MOMENTS = (0.15, 0.85)


@dataclass(frozen=True, kw_only=True)
class Video:
    """An mp4 file: what of `scene` lies between two moments in [0, 1]."""

    name: str
    scene: Scene
    span: tuple[float, float] = (0.0, 1.0)

    @property
    def file(self) -> str:
        return f"{self.name}.mp4"

    @property
    def shown(self) -> Scene:
        """The scene cut down to the chapters of the span."""
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
    """A jpg file: a scene at one moment in [0, 1]."""

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
    """Parts that are not asked with are None. positives, candidates: names of videos of the corpus."""

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
        """Every file it needs, in order, none twice."""
        asked = (part for q in self.queries for part in (q.image, q.video) if part)
        return list({one.file: one for one in (*self.corpus, *asked)}.values())


def plan_benchmark(*, seed: int, scale: float = 1.0) -> list[DataSet]:
    """All 16 data sets in the order of the paper's table, without their files: the same for the same arguments.

    scale: of the number of videos, and so of queries; every data set keeps at least one family of scenes.
    Raises ValueError if it is not in (0, 1.5].
    """
    if not 0 < scale <= 1.5:
        raise ValueError(
            f"scale={scale}: use more than 0 and at most 1.5 (there are only so many camera moves)"
        )

    def rng(family: str) -> random.Random:
        return random.Random(f"gve_ray benchmark {FORMAT}/{seed}/{family}")

    def count(whole: int, least: int = 1) -> int:
        return max(least, round(whole * scale))

    sets = [
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
    return sorted(sets, key=lambda one: order.index(one.name))


def _ask(name: str, corpus: Sequence[Video], texts: Iterable[Text]) -> DataSet:
    """A data set of text queries, none twice; the positives of each are all videos that it is true of."""
    known = [(video.name, truths(video.shown)) for video in corpus]
    distinct = {text.words: text for text in texts}.values()
    queries = (
        Query(text=text.words, positives=tuple(v for v, true in known if text.claims <= true))
        for text in distinct
    )
    return DataSet(name=name, corpus=tuple(corpus), queries=tuple(queries))


def _families(
    rng: random.Random,
    n: int,
    draw: Callable[[random.Random], list[Scene]],
    ask: Callable[[Scene], list[Text]],
) -> list[list[Scene]]:
    """n families in which every text that `ask` writes about a scene is true of that scene alone."""
    chosen: list[list[Scene]] = []
    asked: list[Claims] = []
    known: list[Claims] = []
    while len(chosen) < n:
        family = draw(rng)
        true = [truths(scene) for scene in family]
        # Of all looks, size is the hardest to see: no text is to hang on it alone.
        new = [
            frozenset(claim for claim in text.claims if claim[0] != "size")
            for scene in family
            for text in ask(scene)
        ]
        found = (sum(text <= one for one in (*known, *true)) for text in new)
        if all(times == 1 for times in found) and not any(text <= one for text in asked for one in true):
            chosen.append(family)
            asked, known = asked + new, known + true
    return chosen


def _videos(prefix: str, scenes: Iterable[Scene]) -> list[Video]:
    return [Video(name=f"{prefix}{i:03d}", scene=scene) for i, scene in enumerate(scenes)]


def _flat(families: Iterable[Iterable[Scene]]) -> list[Scene]:
    return [scene for family in families for scene in family]


def _general(rng: random.Random, pairs: int) -> list[DataSet]:
    """MSRVTT and MSRVTT-I2V: every background is shown with two casts, so it alone does not tell."""
    families = _families(rng, pairs, contrasts.same_background, lambda scene: [claims.short(scene)])
    corpus = _videos("msrvtt", _flat(families))
    stills = [Still(name=v.name, scene=v.scene, moment=rng.uniform(*_IMAGE_MOMENTS)) for v in corpus]
    by_image = [Query(image=still, positives=(still.name,)) for still in stills]
    return [
        _ask("MSRVTT", corpus, (claims.short(video.scene) for video in corpus)),
        DataSet(name="MSRVTT-I2V", corpus=tuple(corpus), queries=tuple(by_image)),
    ]


def _events_in_a_row(rng: random.Random, n: int) -> DataSet:
    families = _families(rng, n, contrasts.two_events, lambda scene: [claims.paragraph(scene)])
    corpus = _videos("didemo", _flat(families))
    return _ask("DiDeMo", corpus, (claims.paragraph(video.scene) for video in corpus))


def _groups(rng: random.Random, n: int, draw: Callable[[random.Random], list[Scene]]) -> list[list[Scene]]:
    """n groups of scenes of one cast each. No object is cast twice in a group, and no two groups share two."""
    chosen: list[list[Scene]] = []
    casts: list[set[tuple[str, str]]] = []
    while len(chosen) < n:
        group = draw(rng)
        cast = [(thing.colour, thing.shape) for chapter in group[0].chapters for thing in chapter.things]
        if len(set(cast)) == len(cast) and all(len(one & set(cast)) < 2 for one in casts):
            chosen.append(group)
            casts.append(set(cast))
    return chosen


def _place_and_time(rng: random.Random, n: int) -> list[DataSet]:
    """CRB: a spatial text fits one place of its group at all four times, a temporal one the other way round."""
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
    return [_ask("CRB-G", corpus, general), _ask("CRB-S", corpus, spatial), _ask("CRB-T", corpus, temporal)]


def _long_and_detailed(rng: random.Random, n: int) -> list[DataSet]:
    """VDC: groups of four that differ in the places of two objects."""
    corpus = _videos("vdc", _flat(_groups(rng, n, contrasts.long_places)))
    return [
        _ask("VDC-O", corpus, (claims.spatial_parts(video.scene) for video in corpus)),
        _ask("VDC-D", corpus, (claims.detailed(video.scene) for video in corpus)),
    ]


def _camera(rng: random.Random, n: int) -> DataSet:
    corpus = _videos("cmrb", contrasts.camera_scenes(rng, n))
    return _ask("CMRB", corpus, (claims.camera_steps(video.scene) for video in corpus))


def _single_events(rng: random.Random, pairs: int) -> DataSet:
    def events(scene: Scene) -> list[Text]:
        return [claims.event(thing, thing.motions[0]) for thing in scene.chapters[0].things]

    corpus = _videos("dream", _flat(_families(rng, pairs, contrasts.swapped_events, events)))
    return _ask("DREAM-E", corpus, (text for video in corpus for text in events(video.scene)))


def _keywords(rng: random.Random, pairs: int) -> DataSet:
    """PEV-K: keywords about the first of several objects; one video in ten is asked for by none."""

    def words(scene: Scene) -> Text:
        return claims.keywords(scene.chapters[0], scene.chapters[0].things[0])

    families = _families(rng, pairs, contrasts.other_action, lambda scene: [words(scene)])
    corpus = _videos("pev", _flat(families))
    return _ask("PEV-K", corpus, (words(v.scene) for i, v in enumerate(corpus) if i % 10 != 9))


def _long(rng: random.Random, pairs: int) -> list[DataSet]:
    """LoVR: pairs of long videos that share two chapters, and a clip of each of their four chapters."""
    long: list[Video] = []
    clips: list[Video] = []
    for p in range(pairs):
        scenes, changed = contrasts.other_chapter(rng)
        pair = [Video(name=f"lovr{2 * p + i:03d}", scene=scene) for i, scene in enumerate(scenes)]
        long += pair
        for video, i in [*((pair[0], i) for i in range(3)), (pair[1], changed)]:
            start, end = ((i + share) / 3 for share in _CLIP)
            clips.append(Video(name=f"{video.name}-clip{i}", scene=video.scene, span=(start, end)))
    within = [
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
        _ask("LoVR-TH", clips, (claims.theme(clip.shown) for clip in clips)),
        _ask("LoVR-V", long, (claims.detailed(video.scene) for video in long)),
        DataSet(name="LoVR-C2V", corpus=tuple(long), queries=tuple(within)),
    ]


def _composed(rng: random.Random, groups: int) -> list[DataSet]:
    """MS: of ten candidates seven do what the text says and four are the object shown; one is both."""
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
                found = {*names[i], *(other[j] for other in names)}
                candidates = tuple(rng.sample(sorted(found), len(found)))
                asked: dict[str, Any] = {"positives": (names[i][j],), "candidates": candidates}
                motions = scene.chapters[0].things[0].motions
                # Half of the grid each, like the squares of a chessboard: every row and column has both.
                if (i + j) % 2:
                    by_image.append(Query(text=claims.change(motions, "image").words, image=still, **asked))
                else:
                    by_clip.append(Query(text=claims.change(motions, "clip").words, video=clip, **asked))
    return [
        DataSet(name=name, corpus=tuple(corpus), queries=tuple(queries))
        for name, queries in (("MS-TI", by_image), ("MS-TV", by_clip))
    ]
