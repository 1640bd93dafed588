"""The miniature UVRB: texts are true of their positives only, contrasts differ in one respect,
files are complete.
"""

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
from gve_ray.demo.claims import order_free_content
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
WITHOUT_OBJECT = ("CMRB", "MS-TI", "MS-TV", "MSRVTT-I2V", "LoVR-C2V")  # no text names an object
SAME = 1.0  # largest mean difference between two renderings of the same picture, in grey levels


@pytest.fixture(scope="module")
def datasets() -> dict[str, DataSet]:
    return {dataset.name: dataset for dataset in plan_benchmark(seed=SEED)}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_benchmark(tmp_path_factory.mktemp("uvrb"), seed=SEED, scale=SCALE, workers=1)


def queries_of(dataset: DataSet) -> Iterator[tuple[Query, list[Scene], list[Scene]]]:
    """Yield each query with the scenes of its positives and those of the other ranked videos."""
    for query in dataset.queries:
        ranked = query.candidates or [video.name for video in dataset.corpus]
        shown = {video.name: video.shown for video in dataset.corpus if video.name in ranked}
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


def test_plan_has_sixteen_data_sets_of_limited_size(datasets: dict[str, DataSet]) -> None:
    assert list(datasets) == NAMES
    files = {file.file: file for dataset in datasets.values() for file in dataset.files}
    videos = [file for file in files.values() if isinstance(file, Video)]
    assert 450 <= len(videos) <= 600
    assert 700 <= sum(len(dataset.queries) for dataset in datasets.values()) <= 900
    for dataset in datasets.values():
        texts = [query.text for query in dataset.queries if query.text and not query.candidates]
        assert len(texts) == len(set(texts)), dataset.name
        assert all(query.positives for query in dataset.queries), dataset.name
    seconds = {v.name: v.scene.duration * (v.span[1] - v.span[0]) for v in videos}
    long = [name for name in seconds if name.startswith(("vdc", "lovr")) and "clip" not in name]
    assert len(long) == 64
    assert all(20 <= seconds[name] <= 30 for name in long)
    assert all(2 <= seconds[name] <= 6 for name in set(seconds) - set(long))
    assert all(max(v.scene.width, v.scene.height) <= 176 for v in videos)


def test_every_object_is_heldout(datasets: dict[str, DataSet]) -> None:
    files = {file.file: file for dataset in datasets.values() for file in dataset.files}
    looks = {
        (t.colour, t.shape, t.size, chapter.background, t.column, t.row)
        for file in files.values()
        for chapter in file.scene.chapters
        for t in chapter.things
    }
    assert len(looks) > 200
    assert {SPLIT_OF[look] for look in looks} == {"heldout"}


def test_data_sets_share_corpora_where_uvrb_does(datasets: dict[str, DataSet]) -> None:
    for names in SHARED:
        assert len({datasets[name].corpus for name in names}) == 1
    assert {q.video for q in datasets["LoVR-C2V"].queries} == set(datasets["LoVR-TH"].corpus)
    assert datasets["LoVR-C2V"].corpus == datasets["LoVR-V"].corpus


def test_plan_depends_on_its_arguments_only(datasets: dict[str, DataSet]) -> None:
    assert {dataset.name: dataset for dataset in plan_benchmark(seed=SEED)} == datasets
    other = {dataset.name: dataset for dataset in plan_benchmark(seed=SEED + 1)}
    assert all(other[name].corpus != dataset.corpus for name, dataset in datasets.items())


@pytest.mark.parametrize("scale", [0, -1.0, 2.0])
def test_scale_out_of_range_is_refused(scale: float) -> None:
    with pytest.raises(ValueError, match=f"scale={scale}"):
        plan_benchmark(seed=1, scale=scale)


# Texts are true of their positives and of no other video as a whole.


@pytest.mark.parametrize("name", [n for n in NAMES if n not in WITHOUT_OBJECT])
def test_every_stated_fact_is_true_of_the_positives(datasets: dict[str, DataSet], name: str) -> None:
    for query, positives, _ in queries_of(datasets[name]):
        for scene in positives:
            judged = judge(str(query.text), scene)
            assert judged.stated == judged.true > 0, query.text


@pytest.mark.parametrize("name", ["MSRVTT", "CRB-S", "VDC-O", "DREAM-E", "PEV-K"])
def test_every_text_states_a_false_fact_about_other_videos(datasets: dict[str, DataSet], name: str) -> None:
    for query, _, others in queries_of(datasets[name]):
        assert len(others) > len(query.positives)
        for scene in others:
            judged = judge(str(query.text), scene)
            assert judged.true < judged.stated, (query.text, scene)


def describes(text: str, scene: Scene) -> bool:
    """Return whether the text gives each object's motions in order, the camera movement and the
    background.
    """
    chapter = scene.chapters[0]
    acts = all(
        any(
            re.search(rf"the {t.colour} {t.shape} {' and then '.join(verbs[m] for m in t.motions)}[,.]", text)
            for verbs in VERBS.values()
        )
        for t in chapter.things
    )
    return acts and f"camera {CAMERA[chapter.camera]}." in text and ARTICLES[chapter.background] in text


def test_temporal_texts_differ_in_order_direction_or_camera(datasets: dict[str, DataSet]) -> None:
    for query, positives, others in queries_of(datasets["CRB-T"]):
        assert all(describes(str(query.text), scene) for scene in positives)
        assert not any(describes(str(query.text), scene) for scene in others)
        assert not [fact for fact in stated_facts(str(query.text)) if fact.kind == "place"]


def test_camera_texts_give_the_steps_of_a_single_video(datasets: dict[str, DataSet]) -> None:
    names = {words: camera for camera, words in CAMERA.items()}
    for query, (scene,), others in queries_of(datasets["CMRB"]):
        steps = str(query.text).removeprefix("The camera ").removesuffix(".").split(" and then ")
        cameras = [names[step] for step in steps]
        assert cameras == [chapter.camera for chapter in scene.chapters]
        assert all(cameras != [chapter.camera for chapter in other.chapters] for other in others)


def test_themes_differ_in_mood_shape_or_motion(datasets: dict[str, DataSet]) -> None:
    for query, positives, others in queries_of(datasets["LoVR-TH"]):
        for scene, expected in [*((s, True) for s in positives), *((s, False) for s in others)]:
            judged = judge(str(query.text), scene)
            mood = f" {MOODS[scene.chapters[0].background]} mood" in str(query.text)
            assert (mood and judged.true == judged.stated) == expected


@pytest.mark.parametrize("name", ["DiDeMo", "CRB-G", "LoVR-V", "VDC-D"])
def test_captions_of_whole_videos_match_a_single_video(datasets: dict[str, DataSet], name: str) -> None:
    for query, positives, others in queries_of(datasets[name]):
        assert len(positives) == 1
        for scene in others:
            judged = judge(str(query.text), scene)
            same_facts = judged.true == judged.stated
            # `judge` does not compare the order of motions and chapters, nor the camera.
            [positive] = positives
            order = [(t.colour, t.shape, t.motions) for t in objects(positive)]
            cameras = [chapter.camera for chapter in positive.chapters]
            assert not (
                same_facts
                and order == [(t.colour, t.shape, t.motions) for t in objects(scene)]
                and cameras == [chapter.camera for chapter in scene.chapters]
            ), query.text


def test_long_texts_are_long(datasets: dict[str, DataSet]) -> None:
    for name, least in (("LoVR-V", 240), ("VDC-D", 170)):
        assert min(len(str(query.text).split()) for query in datasets[name].queries) >= least
    assert max(len(str(query.text).split()) for query in datasets["DREAM-E"].queries) <= 6


# Contrasts: scenes of a group differ in one respect only.


def test_place_contrasts_differ_in_one_resting_place(datasets: dict[str, DataSet]) -> None:
    corpus = [video.scene for video in datasets["CRB-S"].corpus]
    groups = [corpus[i : i + 12] for i in range(0, len(corpus), 12)]
    for group in groups:
        for time in range(4):
            column = group[time::4]  # the three places with the same motion
            resting = [next(t for t in objects(scene) if t.motions == ("rest",)) for scene in column]
            assert len({(t.column, t.row) for t in resting}) == 3
            without_place = {
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
            assert len(without_place) == 1


def test_camera_contrasts_show_the_same_frames_in_another_order(datasets: dict[str, DataSet]) -> None:
    corpus = [video.scene for video in datasets["CMRB"].corpus][:12]
    # The moments are symmetric in time, and none falls on a cut between two chapters.
    moments = np.linspace(0.02, 0.98, 12).tolist()
    shown = [np.stack(list(frames(scene, moments, 64, 64))).astype(int) for scene in corpus]
    for i, pictures in enumerate(shown):
        # Rounding can choose another pixel of the texture in the reversed video, so a small
        # difference is allowed.
        differences = [float(np.abs(pictures[::-1] - other).mean()) for other in shown]
        nearest, second = sorted(differences)[:2]
        assert nearest < SAME < second
        assert differences[i] > SAME


@pytest.mark.parametrize(
    "name,positive_count,same_content", [("CRB-T", 3, 12), ("CMRB", 1, 48), ("CRB-S", 4, 4), ("VDC-O", 1, 1)]
)
def test_videos_with_the_same_frames_as_the_positives(
    datasets: dict[str, DataSet], name: str, positive_count: int, same_content: int
) -> None:
    """`same_content` videos show the content of a text in some order; `positive_count` of them are
    positives.

    Without the order of frames, temporal data sets can only be guessed; spatial ones do not
    need it.
    """
    for _, positives, others in queries_of(datasets[name]):
        content = {order_free_content(scene) for scene in positives}
        assert len(positives) == positive_count
        same = sum(order_free_content(scene) in content for scene in others)
        assert len(positives) + same == same_content


def test_motions_of_a_group_show_the_same_frames(datasets: dict[str, DataSet]) -> None:
    """Compare pixels: every position of the object in one scene occurs in the other three, at some
    time.
    """
    corpus = [video.scene for video in datasets["CRB-T"].corpus][:4]
    one_way = np.linspace(0.05, 0.95, 7)
    shown = []
    for scene in corpus:
        [mover] = [t for t in objects(scene) if t.motions != ("rest",)]
        moments = one_way if len(mover.motions) == 1 else np.concatenate([one_way / 2, 1 - one_way / 2])
        shown.append(np.stack(list(frames(scene, moments.tolist(), 64, 64))).astype(int))
    assert sorted(map(len, shown)) == [7, 7, 14, 14]
    for a, b in permutations(shown, 2):
        differences = np.abs(a[:, None] - b[None]).mean(axis=(2, 3, 4))  # [frames, frames]
        assert differences.min(axis=1).max() < SAME
        assert differences.max() > SAME
    orders = {
        (*t.motions, t.column, t.row) for scene in corpus for t in objects(scene) if t.motions != ("rest",)
    }
    assert len(orders) == 4


def test_spatial_relations_are_true_at_every_moment(datasets: dict[str, DataSet]) -> None:
    claim = re.compile(r"The (\w+) (\w+) is (to the left of|to the right of|above|below) the (\w+) (\w+)\.")
    count = 0
    for query, positives, _ in queries_of(datasets["CRB-S"]):
        relations = claim.findall(str(query.text))
        count += len(relations)
        for colour, shape, relation, other_colour, other_shape in relations:
            for scene in positives:
                named = {(t.colour, t.shape): t for t in objects(scene)}
                for time in np.linspace(0, 1, 9):
                    a, b = (
                        named[colour, shape].at(float(time)),
                        named[other_colour, other_shape].at(float(time)),
                    )
                    gap = {"to the left of": b.x - a.x, "to the right of": a.x - b.x,
                           "above": b.y - a.y, "below": a.y - b.y}[relation]  # fmt: skip
                    assert gap > 0.2
        assert not [fact for fact in stated_facts(str(query.text)) if fact.kind == "motion"]
    assert count == len(datasets["CRB-S"].queries)


@pytest.mark.parametrize("name", ["MS-TI", "MS-TV"])
def test_composed_queries_need_both_parts(datasets: dict[str, DataSet], name: str) -> None:
    for query, (target,), others in queries_of(datasets[name]):
        reference = query.image or query.video
        assert reference is not None
        assert (query.image is None) == (name == "MS-TV")
        assert len(query.candidates or ()) == len(set(query.candidates or ())) == 10
        [shown], [thing] = objects(reference.scene), objects(target)
        assert (shown.colour, shown.shape, shown.size) == (thing.colour, thing.shape, thing.size)
        text = str(query.text)
        assert not any(word in text for word in (*COLOURS, *SHAPES, *BACKGROUNDS))
        motions = [fact.value for fact in stated_facts(text)]
        assert motions == list(thing.motions)
        objects_of = [objects(scene)[0] for scene in others]
        same_action = [t for t in objects_of if t.motions == thing.motions]
        same_object = [t for t in objects_of if (t.colour, t.shape) == (thing.colour, thing.shape)]
        assert (len(same_action), len(same_object)) == (6, 3)
        assert not any(set(motions) <= set(t.motions) for t in same_object)
        assert shown.motions not in [t.motions for t in (thing, *same_object)]
        # Start cell, background and texture are the same for all.
        assert len({(t.column, t.row) for t in (thing, shown, *objects_of)}) == 1
        assert len({(s.seed, s.chapters[0].background) for s in (target, reference.scene, *others)}) == 1


def test_positives_are_spread_over_all_ranks_of_the_candidates(datasets: dict[str, DataSet]) -> None:
    positions = Counter(
        (query.candidates or ()).index(query.positives[0])
        for name in ("MS-TI", "MS-TV")
        for query in datasets[name].queries
    )
    assert len(positions) == 10
    assert max(positions.values()) < 0.3 * sum(positions.values())


def test_images_share_their_background_with_another_video(datasets: dict[str, DataSet]) -> None:
    for query, (scene,), others in queries_of(datasets["MSRVTT-I2V"]):
        assert query.image is not None
        assert query.image.scene == scene
        looks = {(t.colour, t.shape) for t in objects(scene)}
        twins = [s for s in others if s.seed == scene.seed]
        assert [s.chapters[0].background for s in twins] == [scene.chapters[0].background]
        assert not any(looks & {(t.colour, t.shape) for t in objects(twin)} for twin in twins)


def test_positives_of_a_clip_are_the_long_videos_with_its_chapter(datasets: dict[str, DataSet]) -> None:
    counts: Counter[int] = Counter()
    for query, positives, others in queries_of(datasets["LoVR-C2V"]):
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
            for kind, subfolder in (("image", "images"), ("video", "videos")):
                if kind in row:
                    assert (folder / subfolder / str(row[kind])).stat().st_size > 0
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


def test_videos_show_the_scenes_of_the_ground_truth(written: list[Path]) -> None:
    root = written[0].parent
    truth = {str(row["file"]): Scene.from_dict(row["scene"]) for row in lines(root / "truth.jsonl")}  # type: ignore[arg-type]
    assert set(truth) == {path.name for path in root.glob("pool/*.mp4")}
    whole = [file for file in sorted(truth) if "clip" not in file]
    for file in whole[:: max(1, len(whole) // 12)]:
        scene = truth[file]
        with av.open(str(root / "pool" / file)) as container:
            decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert len(decoded) == scene.total_frames
        for i, time in ((0, 0.0), (-1, 1.0)):
            drawn = next(frames(scene, [time], scene.width, scene.height))
            assert np.abs(decoded[i].astype(int) - drawn).mean() < 8


def test_images_and_clips_show_their_videos(written: list[Path]) -> None:
    plan = {dataset.name: dataset for dataset in plan_benchmark(seed=SEED, scale=SCALE)}
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
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    for i, time in zip((0, -1), clip.span, strict=True):
        drawn = next(frames(clip.scene, [time], clip.scene.width, clip.scene.height))
        assert np.abs(decoded[i].astype(int) - drawn).mean() < 8


def test_shared_videos_are_rendered_once(written: list[Path]) -> None:
    root = written[0].parent
    for first, *others in SHARED:
        names = [row["video"] for row in lines(root / first / "jsonl/corpus.jsonl")]
        for name in names:
            data = (root / first / "videos" / str(name)).read_bytes()
            assert data == (root / "pool" / str(name)).read_bytes()
            assert all(data == (root / other / "videos" / str(name)).read_bytes() for other in others)


def test_an_interrupted_run_resumes_with_the_same_bytes(written: list[Path], tmp_path: Path) -> None:
    root = written[0].parent
    folder = tmp_path / "again"
    shutil.copytree(root, folder)
    state = json.loads((folder / "benchmark.json").read_text())
    (folder / "benchmark.json").write_text(json.dumps({"arguments": state["arguments"], "complete": False}))
    # The state after an interruption: four files are missing, one is half written, one data set is
    # not started.
    missing = sorted(path.relative_to(folder) for path in folder.glob("pool/*"))[1:8:2]
    for path in missing:
        for copy in folder.glob(f"*/*/{path.name}"):
            copy.unlink()
        (folder / path).unlink()
    (folder / "partial").mkdir()
    (folder / "partial" / missing[0].name).write_bytes(b"half a fil")
    shutil.rmtree(folder / "MS-TI")
    existing = {p: p.stat().st_mtime_ns for p in folder.glob("pool/*")}
    write_benchmark(folder, seed=SEED, scale=SCALE, workers=2)
    assert all(path.stat().st_mtime_ns == time for path, time in existing.items())
    contents = [
        {p.relative_to(top): p.read_bytes() for p in sorted(top.rglob("*")) if p.is_file()}
        for top in (root, folder)
    ]
    assert contents[0] == contents[1]


def test_a_finished_folder_is_not_changed_and_other_arguments_are_refused(written: list[Path]) -> None:
    root = written[0].parent
    times = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    assert write_benchmark(root, seed=SEED, scale=SCALE, workers=1) == written
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == times
    with pytest.raises(ValueError, match="other arguments"):
        write_benchmark(root, seed=SEED + 1, scale=SCALE, workers=1)
