"""The miniature UVRB: what its texts say is true of their positives alone, contrasts are pure, files are there."""

import json
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from gve_ray.demo.benchmark import write_benchmark
from gve_ray.demo.benchmark_plan import DataSet, Query, Video, plan_benchmark
from gve_ray.demo.claims import timeless
from gve_ray.demo.facts import judge, stated_facts
from gve_ray.demo.language import ARTICLES, CAMERA, MOODS, VERBS
from gve_ray.demo.render import frames
from gve_ray.demo.scenes import BACKGROUNDS, COLOURS, SHAPES, SPLIT_OF, Scene, Thing

SEED, SCALE = 3, 0.02
NAMES = (
    "MSRVTT DiDeMo CRB-G CRB-S VDC-O CRB-T CMRB DREAM-E LoVR-TH PEV-K LoVR-V VDC-D MS-TI MS-TV "
    "MSRVTT-I2V LoVR-C2V"
).split()  # the first column of the paper's table, in its order
SHARED = (("MSRVTT", "MSRVTT-I2V"), ("CRB-G", "CRB-S", "CRB-T"), ("VDC-O", "VDC-D"), ("MS-TI", "MS-TV"))
WITHOUT_OBJECT = ("CMRB", "MS-TI", "MS-TV", "MSRVTT-I2V", "LoVR-C2V")  # texts, if any, name none
SAME = 1.0  # mean difference of two renderings of one picture, grey levels


@pytest.fixture(scope="module")
def sets() -> dict[str, DataSet]:
    return {one.name: one for one in plan_benchmark(seed=SEED)}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_benchmark(tmp_path_factory.mktemp("uvrb"), seed=SEED, scale=SCALE, workers=1)


def asked(one: DataSet) -> Iterator[tuple[Query, list[Scene], list[Scene]]]:
    """Each query with the scenes of its positives and those of the rest of its corpus."""
    for query in one.queries:
        ranked = query.candidates or [video.name for video in one.corpus]
        shown = {video.name: video.shown for video in one.corpus if video.name in ranked}
        assert set(query.positives) <= set(shown)
        yield (
            query,
            [shown[name] for name in query.positives],
            [scene for name, scene in shown.items() if name not in query.positives],
        )


def objects(scene: Scene) -> list[Thing]:
    return [thing for chapter in scene.chapters for thing in chapter.things]


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# The plan.


def test_all_sixteen_in_a_modest_size(sets: dict[str, DataSet]) -> None:
    assert list(sets) == NAMES
    files = {file.file: file for one in sets.values() for file in one.files}
    videos = [file for file in files.values() if isinstance(file, Video)]
    assert 450 <= len(videos) <= 600
    assert 700 <= sum(len(one.queries) for one in sets.values()) <= 900
    for one in sets.values():
        words = [query.text for query in one.queries if query.text and not query.candidates]
        assert len(words) == len(set(words)), one.name
        assert all(query.positives for query in one.queries), one.name
    seconds = {v.name: v.scene.duration * (v.span[1] - v.span[0]) for v in videos}
    long = [name for name in seconds if name.startswith(("vdc", "lovr")) and "clip" not in name]
    assert len(long) == 64
    assert all(20 <= seconds[name] <= 30 for name in long)
    assert all(2 <= seconds[name] <= 6 for name in set(seconds) - set(long))
    assert all(max(v.scene.width, v.scene.height) <= 176 for v in videos)


def test_every_object_is_heldout(sets: dict[str, DataSet]) -> None:
    files = {file.file: file for one in sets.values() for file in one.files}
    looks = {
        (t.colour, t.shape, t.size, chapter.background, t.column, t.row)
        for file in files.values()
        for chapter in file.scene.chapters
        for t in chapter.things
    }
    assert len(looks) > 200
    assert {SPLIT_OF[one] for one in looks} == {"heldout"}


def test_data_sets_share_corpora_where_uvrb_does(sets: dict[str, DataSet]) -> None:
    for names in SHARED:
        assert len({sets[name].corpus for name in names}) == 1
    assert {q.video for q in sets["LoVR-C2V"].queries} == set(sets["LoVR-TH"].corpus)
    assert sets["LoVR-C2V"].corpus == sets["LoVR-V"].corpus


def test_same_arguments_same_plan_other_seed_other_plan(sets: dict[str, DataSet]) -> None:
    assert {one.name: one for one in plan_benchmark(seed=SEED)} == sets
    other = {one.name: one for one in plan_benchmark(seed=SEED + 1)}
    assert all(other[name].corpus != one.corpus for name, one in sets.items())


@pytest.mark.parametrize("scale", [0, -1.0, 2.0])
def test_scale_has_bounds(scale: float) -> None:
    with pytest.raises(ValueError, match=f"scale={scale}"):
        plan_benchmark(seed=1, scale=scale)


# What is said is true of the positives and, as a whole, of nothing else.


@pytest.mark.parametrize("name", [n for n in NAMES if n not in WITHOUT_OBJECT])
def test_every_fact_stated_holds_of_the_positives(sets: dict[str, DataSet], name: str) -> None:
    for query, positives, _ in asked(sets[name]):
        for scene in positives:
            judged = judge(str(query.text), scene)
            assert judged.stated == judged.true > 0, query.text


@pytest.mark.parametrize("name", ["MSRVTT", "CRB-S", "VDC-O", "DREAM-E", "PEV-K"])
def test_some_fact_stated_is_false_of_every_other_video(sets: dict[str, DataSet], name: str) -> None:
    for query, _, others in asked(sets[name]):
        assert len(others) > len(query.positives)
        for scene in others:
            judged = judge(str(query.text), scene)
            assert judged.true < judged.stated, (query.text, scene)


def said_of(text: str, scene: Scene) -> bool:
    """Whether the text says in order what each object does, what the camera does and what is behind."""
    chapter = scene.chapters[0]
    acts = all(
        any(
            re.search(rf"the {t.colour} {t.shape} {' and then '.join(verbs[m] for m in t.motions)}[,.]", text)
            for verbs in VERBS.values()
        )
        for t in chapter.things
    )
    return acts and f"camera {CAMERA[chapter.camera]}." in text and ARTICLES[chapter.background] in text


def test_temporal_texts_are_told_apart_by_order_direction_or_camera(sets: dict[str, DataSet]) -> None:
    for query, positives, others in asked(sets["CRB-T"]):
        assert all(said_of(str(query.text), scene) for scene in positives)
        assert not any(said_of(str(query.text), scene) for scene in others)
        assert not [fact for fact in stated_facts(str(query.text)) if fact.kind == "place"]


def test_camera_texts_name_the_steps_of_one_video(sets: dict[str, DataSet]) -> None:
    names = {words: camera for camera, words in CAMERA.items()}
    for query, (scene,), others in asked(sets["CMRB"]):
        steps = str(query.text).removeprefix("The camera ").removesuffix(".").split(" and then ")
        cameras = [names[step] for step in steps]
        assert cameras == [chapter.camera for chapter in scene.chapters]
        assert all(cameras != [chapter.camera for chapter in other.chapters] for other in others)


def test_themes_are_told_apart_by_mood_form_or_motion(sets: dict[str, DataSet]) -> None:
    for query, positives, others in asked(sets["LoVR-TH"]):
        for scene, wanted in [*((s, True) for s in positives), *((s, False) for s in others)]:
            judged = judge(str(query.text), scene)
            mood = f" {MOODS[scene.chapters[0].background]} mood" in str(query.text)
            assert (mood and judged.true == judged.stated) == wanted


@pytest.mark.parametrize("name", ["DiDeMo", "CRB-G", "LoVR-V", "VDC-D"])
def test_captions_of_whole_videos_find_one(sets: dict[str, DataSet], name: str) -> None:
    for query, positives, others in asked(sets[name]):
        assert len(positives) == 1
        for scene in others:
            judged = judge(str(query.text), scene)
            same_facts = judged.true == judged.stated
            # What `judge` does not read: the order of motions, of chapters, and the camera.
            [mine] = positives
            order = [(t.colour, t.shape, t.motions) for t in objects(mine)]
            cameras = [chapter.camera for chapter in mine.chapters]
            assert not (
                same_facts
                and order == [(t.colour, t.shape, t.motions) for t in objects(scene)]
                and cameras == [chapter.camera for chapter in scene.chapters]
            ), query.text


def test_long_texts_are_long(sets: dict[str, DataSet]) -> None:
    for name, least in (("LoVR-V", 240), ("VDC-D", 170)):
        assert min(len(str(query.text).split()) for query in sets[name].queries) >= least
    assert max(len(str(query.text).split()) for query in sets["DREAM-E"].queries) <= 6


# Contrasts: what differs, and that nothing else does.


def test_place_contrasts_differ_in_one_resting_place(sets: dict[str, DataSet]) -> None:
    corpus = [video.scene for video in sets["CRB-S"].corpus]
    groups = [corpus[i : i + 12] for i in range(0, len(corpus), 12)]
    for group in groups:
        for time in range(4):
            column = group[time::4]  # the three places at one time
            resting = [next(t for t in objects(scene) if t.motions == ("rest",)) for scene in column]
            assert len({(t.column, t.row) for t in resting}) == 3
            erased = {
                replace(
                    scene,
                    chapters=tuple(
                        replace(
                            c,
                            things=tuple(
                                sorted(
                                    (
                                        replace(t, column=0, row=0) if t.motions == ("rest",) else t
                                        for t in c.things
                                    ),
                                    key=lambda t: t.motions,
                                )
                            ),
                        )
                        for c in scene.chapters
                    ),
                )
                for scene in column
            }
            assert len(erased) == 1


def test_camera_contrasts_show_the_same_frames_in_another_order(sets: dict[str, DataSet]) -> None:
    corpus = [video.scene for video in sets["CMRB"].corpus][:12]
    # Symmetric in time; none lies on a cut, a moment that only one of two chapters shows.
    moments = np.linspace(0.02, 0.98, 12).tolist()
    shown = [np.stack(list(frames(scene, moments, 64, 64))).astype(int) for scene in corpus]
    for i, mine in enumerate(shown):
        # Where a pixel falls between two of the texture, the way back may take the other one.
        turned_back = [float(np.abs(mine[::-1] - other).mean()) for other in shown]
        nearest, second = sorted(turned_back)[:2]
        assert nearest < SAME < second
        assert turned_back[i] > SAME


@pytest.mark.parametrize(
    "name,found,alike", [("CRB-T", 3, 12), ("CMRB", 1, 48), ("CRB-S", 4, 4), ("VDC-O", 1, 1)]
)
def test_what_is_left_to_know_without_the_order_of_frames(
    sets: dict[str, DataSet], name: str, found: int, alike: int
) -> None:
    """Of `alike` videos that show what the text says in some order, `found` are right: chance for T, all for S."""
    for _, positives, others in asked(sets[name]):
        shown = {timeless(scene) for scene in positives}
        assert len(positives) == found
        assert len(positives) + sum(timeless(scene) in shown for scene in others) == alike


def test_motions_of_a_group_show_the_same_frames(sets: dict[str, DataSet]) -> None:
    """By the pixels: wherever the object is at one time it is in all four scenes, at some other time."""
    corpus = [video.scene for video in sets["CRB-T"].corpus][:4]
    one_way = np.linspace(0.05, 0.95, 7)
    shown = []
    for scene in corpus:
        [mover] = [t for t in objects(scene) if t.motions != ("rest",)]
        moments = one_way if len(mover.motions) == 1 else np.concatenate([one_way / 2, 1 - one_way / 2])
        shown.append(np.stack(list(frames(scene, moments.tolist(), 64, 64))).astype(int))
    assert sorted(map(len, shown)) == [7, 7, 14, 14]
    for mine, other in permutations(shown, 2):
        apart = np.abs(mine[:, None] - other[None]).mean(axis=(2, 3, 4))  # [frames, frames]
        assert apart.min(axis=1).max() < SAME
        assert apart.max() > SAME
    orders = {
        (*t.motions, t.column, t.row) for scene in corpus for t in objects(scene) if t.motions != ("rest",)
    }
    assert len(orders) == 4


def test_spatial_texts_hold_at_every_moment(sets: dict[str, DataSet]) -> None:
    claim = re.compile(r"The (\w+) (\w+) is (to the left of|to the right of|above|below) the (\w+) (\w+)\.")
    said = 0
    for query, positives, _ in asked(sets["CRB-S"]):
        found = claim.findall(str(query.text))
        said += len(found)
        for colour, shape, relation, other, form in found:
            for scene in positives:
                named = {(t.colour, t.shape): t for t in objects(scene)}
                for time in np.linspace(0, 1, 9):
                    a, b = named[colour, shape].at(float(time)), named[other, form].at(float(time))
                    gap = {"to the left of": b.x - a.x, "to the right of": a.x - b.x,
                           "above": b.y - a.y, "below": a.y - b.y}[relation]  # fmt: skip
                    assert gap > 0.2
        assert not [fact for fact in stated_facts(str(query.text)) if fact.kind == "motion"]
    assert said == len(sets["CRB-S"].queries)


@pytest.mark.parametrize("name", ["MS-TI", "MS-TV"])
def test_composed_queries_need_both_parts(sets: dict[str, DataSet], name: str) -> None:
    for query, (wanted,), others in asked(sets[name]):
        reference = query.image or query.video
        assert reference is not None
        assert (query.image is None) == (name == "MS-TV")
        assert len(query.candidates or ()) == len(set(query.candidates or ())) == 10
        [seen], [mine] = objects(reference.scene), objects(wanted)
        assert (seen.colour, seen.shape, seen.size) == (mine.colour, mine.shape, mine.size)
        text = str(query.text)
        assert not any(word in text for word in (*COLOURS, *SHAPES, *BACKGROUNDS))
        doing = [one.value for one in stated_facts(text)]
        assert doing == list(mine.motions)
        objects_of = [objects(scene)[0] for scene in others]
        same_action = [t for t in objects_of if t.motions == mine.motions]
        same_object = [t for t in objects_of if (t.colour, t.shape) == (mine.colour, mine.shape)]
        assert (len(same_action), len(same_object)) == (6, 3)
        assert not any(set(doing) <= set(t.motions) for t in same_object)
        assert seen.motions not in [t.motions for t in (mine, *same_object)]
        # Start cell, background and texture do not tell either.
        assert len({(t.column, t.row) for t in (mine, seen, *objects_of)}) == 1
        assert len({(s.seed, s.chapters[0].background) for s in (wanted, reference.scene, *others)}) == 1


def test_the_answer_stands_anywhere_among_the_candidates(sets: dict[str, DataSet]) -> None:
    places = Counter(
        (query.candidates or ()).index(query.positives[0])
        for name in ("MS-TI", "MS-TV")
        for query in sets[name].queries
    )
    assert len(places) == 10
    assert max(places.values()) < 0.3 * sum(places.values())


def test_backgrounds_alone_do_not_find_images(sets: dict[str, DataSet]) -> None:
    for query, (scene,), others in asked(sets["MSRVTT-I2V"]):
        assert query.image is not None
        assert query.image.scene == scene
        looks = {(t.colour, t.shape) for t in objects(scene)}
        twins = [s for s in others if s.seed == scene.seed]
        assert [s.chapters[0].background for s in twins] == [scene.chapters[0].background]
        assert not any(looks & {(t.colour, t.shape) for t in objects(twin)} for twin in twins)


def test_clips_belong_to_the_long_videos_that_hold_their_chapter(sets: dict[str, DataSet]) -> None:
    counts: Counter[int] = Counter()
    for query, positives, others in asked(sets["LoVR-C2V"]):
        assert query.video is not None
        [chapter] = query.video.shown.chapters
        assert all(chapter in scene.chapters for scene in positives)
        twins = [scene for scene in others if scene.seed == positives[0].seed]
        assert not any(chapter in scene.chapters for scene in twins)
        assert len(positives) + len(twins) == 2
        counts[len(positives)] += 1
    assert counts[1] == counts[2] > 0  # two of a pair's four chapters are shared


# The files.


def test_published_layout(written: list[Path]) -> None:
    assert [folder.name for folder in written] == NAMES
    for folder in written:
        corpus, queries, instances = (
            lines(folder / f"jsonl/{kind}.jsonl") for kind in ("corpus", "queries", "instances")
        )
        ids = [row["id"] for row in corpus]
        assert len(ids) == len(set(ids)) >= 2
        assert [row["id"] for row in queries] == [row["qid"] for row in instances]
        for row in (*corpus, *queries):
            assert set(row) <= {"id", "text", "image", "video"}
            for kind, place in (("image", "images"), ("video", "videos")):
                if kind in row:
                    assert (folder / place / str(row[kind])).stat().st_size > 0
        for row in instances:
            assert set(row["pos"]) <= set(ids)  # type: ignore[call-overload]
            assert ("candidates" in row) == folder.name.startswith("MS-")
            if "candidates" in row:
                assert len(set(row["candidates"]) & set(ids)) == 10  # type: ignore[call-overload]
    parts = {
        "MS-TI": {"id", "text", "image"}, "MS-TV": {"id", "text", "video"},
        "MSRVTT-I2V": {"id", "image"}, "LoVR-C2V": {"id", "video"},
    }  # fmt: skip
    for folder in written:
        expected = parts.get(folder.name, {"id", "text"})
        assert all(set(row) == expected for row in lines(folder / "jsonl/queries.jsonl"))


def test_files_show_what_the_truth_says(written: list[Path]) -> None:
    root = written[0].parent
    truth = {str(row["file"]): Scene.from_dict(row["scene"]) for row in lines(root / "truth.jsonl")}  # type: ignore[arg-type]
    assert set(truth) == {path.name for path in root.glob("pool/*.mp4")}
    whole = [file for file in sorted(truth) if "clip" not in file]
    for file in whole[:: max(1, len(whole) // 12)]:
        scene = truth[file]
        with av.open(str(root / "pool" / file)) as container:
            found = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert len(found) == scene.total_frames
        for i, time in ((0, 0.0), (-1, 1.0)):
            drawn = next(frames(scene, [time], scene.width, scene.height))
            assert np.abs(found[i].astype(int) - drawn).mean() < 8


def test_images_and_clips_come_out_of_their_videos(written: list[Path]) -> None:
    plan = {one.name: one for one in plan_benchmark(seed=SEED, scale=SCALE)}
    folder = written[0].parent
    still = plan["MSRVTT-I2V"].queries[0].image
    assert still is not None
    size = still.scene.width, still.scene.height
    drawn = next(frames(still.scene, [still.moment], *size))
    with Image.open(folder / "MSRVTT-I2V/images" / still.file) as image:
        assert np.abs(np.asarray(image).astype(int) - drawn).mean() < 8
    clip = plan["LoVR-C2V"].queries[1].video
    assert clip is not None
    with av.open(str(folder / "LoVR-C2V/videos" / clip.file)) as container:
        found = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    for i, time in zip((0, -1), clip.span, strict=True):
        drawn = next(frames(clip.scene, [time], clip.scene.width, clip.scene.height))
        assert np.abs(found[i].astype(int) - drawn).mean() < 8


def test_shared_videos_are_rendered_once(written: list[Path]) -> None:
    root = written[0].parent
    for first, *others in SHARED:
        names = [row["video"] for row in lines(root / first / "jsonl/corpus.jsonl")]
        for name in names:
            data = (root / first / "videos" / str(name)).read_bytes()
            assert data == (root / "pool" / str(name)).read_bytes()
            assert all(data == (root / other / "videos" / str(name)).read_bytes() for other in others)


def test_a_killed_run_goes_on_to_the_same_bytes(written: list[Path], tmp_path: Path) -> None:
    root = written[0].parent
    folder = tmp_path / "again"
    shutil.copytree(root, folder)
    state = json.loads((folder / "benchmark.json").read_text())
    (folder / "benchmark.json").write_text(json.dumps({"arguments": state["arguments"], "complete": False}))
    # As if killed in the middle: four files missing, one half written, a data set not begun.
    missing = sorted(path.relative_to(folder) for path in folder.glob("pool/*"))[1:8:2]
    for path in missing:
        for copy in folder.glob(f"*/*/{path.name}"):
            copy.unlink()
        (folder / path).unlink()
    (folder / "partial").mkdir()
    (folder / "partial" / missing[0].name).write_bytes(b"half a fil")
    shutil.rmtree(folder / "MS-TI")
    kept = {p: p.stat().st_mtime_ns for p in folder.glob("pool/*")}
    write_benchmark(folder, seed=SEED, scale=SCALE, workers=2)
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())
    contents = [
        {p.relative_to(top): p.read_bytes() for p in sorted(top.rglob("*")) if p.is_file()}
        for top in (root, folder)
    ]
    assert contents[0] == contents[1]


def test_a_finished_folder_is_left_alone_and_other_arguments_are_refused(written: list[Path]) -> None:
    root = written[0].parent
    times = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    assert write_benchmark(root, seed=SEED, scale=SCALE, workers=1) == written
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == times
    with pytest.raises(ValueError, match="other arguments"):
        write_benchmark(root, seed=SEED + 1, scale=SCALE, workers=1)
