"""Tests mteb's tasks over videos with our encoder on Ray: scores, result files, and one embedding per item.

The types of tasks are those of MVEB; `datasets` holds their videos as bytes, as mteb's repositories do.

The tests are skipped if the extra `mteb` is not installed.
"""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gve_ray.config import ModelConfig, StageResources, resolve_model
from gve_ray.demo.render import write_mp4
from gve_ray.demo.scenes import draw_scene
from gve_ray.embedder import Embedder, EmbedderSettings
from gve_ray.job import JobError
from gve_ray.schema import Item
from gve_ray.stage.pool import ActorPool
from tests.local_actors import local_actors

SETTINGS = EmbedderSettings(frames=8, max_pixels=12544, min_pixels=3136)
MODEL, ADAPTER = "package://demo/tiny_vl/model", "package://demo/tiny_vl/adapter"
COUNT = 4
PROMPT = "Find the video."

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(find_spec("mteb") is None, reason="the extra mteb is not installed"),
]


def task(kind: str, name: str, category: str, score: str, data: Any) -> Any:
    """Return a task of one of mteb's types over data in memory."""
    from mteb import abstasks
    from mteb.abstasks.task_metadata import TaskMetadata

    bases = {
        "Any2AnyRetrieval": abstasks.AbsTaskRetrieval,
        "VideoCentricQA": abstasks.AbsTaskRetrieval,
        "VideoClassification": abstasks.AbsTaskClassification,
        "VideoClustering": abstasks.AbsTaskClustering,
        "VideoPairClassification": abstasks.AbsTaskPairClassification,
        "VideoZeroshotClassification": abstasks.AbsTaskZeroShotClassification,
    }

    class Local(bases[kind]):  # type: ignore[misc]
        metadata = TaskMetadata(
            name=name,
            description="rendered scenes",
            reference=None,
            dataset={"path": "local", "revision": "1"},
            type=kind,
            category=category,
            modalities=["text", "video"] if "t" in category else ["video"],
            eval_splits=["test"],
            eval_langs=["eng-Latn"],
            main_score=score,
            prompt=PROMPT,
        )
        input_column_name = "video"
        input1_column_name, input2_column_name = "video1", "video2"
        label_column_name = "label"
        max_document_to_embed, max_fraction_of_documents_to_embed = 8, None

        def load_data(self, **_: Any) -> None:
            self.dataset, self.data_loaded = data, True

        def get_candidate_labels(self) -> list[str]:
            return ["a desert", "an ocean"]

    return Local()


def column(videos: list[Path]) -> list[dict[str, Any]]:
    return [{"bytes": video.read_bytes(), "path": video.name} for video in videos]


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("videos")
    for i in range(COUNT):
        write_mp4(folder / f"{i}.mp4", draw_scene(i, "heldout", long=False))
    return [folder / f"{i}.mp4" for i in range(COUNT)]


def encoder(folder: Path) -> Any:
    from gve_ray.evaluation.mteb import RayEncoder

    return RayEncoder(
        ModelConfig(name="tiny", model=MODEL, adapter=ADAPTER),
        folder=folder,
        settings=SETTINGS,
        resources=StageResources(actors=1, num_cpus=1, batch_size=8),
    )


def retrieval(videos: list[Path]) -> tuple[Any, list[str]]:
    import datasets

    texts = [f"a scene of kind {i}" for i in range(COUNT)]
    corpus = datasets.Dataset.from_dict({"id": [f"v{i}" for i in range(COUNT)], "video": column(videos)})
    split = {
        "queries": datasets.Dataset.from_dict({"id": [f"q{i}" for i in range(COUNT)], "text": texts}),
        "corpus": corpus.cast_column("video", datasets.Video()),
        "relevant_docs": {f"q{i}": {f"v{i}": 1} for i in range(COUNT)},
        "top_ranked": None,
    }
    return task(
        "Any2AnyRetrieval", "LocalRetrieval", "t2v", "hit_rate_at_1", {"default": {"test": split}}
    ), texts


def test_retrieval_scores_of_mteb_match_our_vectors(
    cluster: str, videos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mteb

    retrieval_task, texts = retrieval(videos)
    cache = mteb.ResultCache(tmp_path / "results")
    started = []
    start = ActorPool._start
    monkeypatch.setattr(
        ActorPool, "_start", lambda pool, *arguments: (started.append(pool), start(pool, *arguments))
    )
    with local_actors(), encoder(tmp_path / "work") as opened:
        result = mteb.evaluate(opened, retrieval_task, cache=cache, co2_tracker=False)
    assert len(started) == 1  # the model is loaded once for queries and videos
    embedder = Embedder.from_pretrained(resolve_model(MODEL), resolve_model(ADAPTER))
    queries = embedder.embed([Item(text=text, instruction=PROMPT) for text in texts])
    targets = embedder.embed([Item(video=str(video)) for video in videos])
    expected = float(np.mean((queries @ targets.T).argmax(axis=1) == np.arange(COUNT)))
    (scores,) = result.task_results[0].scores["test"]
    assert scores["main_score"] == scores["hit_rate_at_1"] == pytest.approx(expected)
    (file,) = (tmp_path / "results").rglob("LocalRetrieval.json")
    saved = mteb.results.TaskResult.from_disk(file)
    assert saved.scores["test"][0]["main_score"] == pytest.approx(expected, abs=1e-5)
    assert json.loads((file.parent / "model_meta.json").read_text())["name"] == "gve_ray/tiny"
    table = cache.load_results(models=["gve_ray/tiny"]).to_dataframe()
    assert table["gve_ray/tiny"].tolist() == [pytest.approx(expected, abs=1e-5)]
    assert len(list((tmp_path / "work/media").iterdir())) == COUNT


@pytest.mark.slow
def test_a_second_zero_shot_evaluation_embeds_nothing(
    cluster: str, videos: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import datasets
    import mteb

    split = datasets.Dataset.from_dict({"video": [str(video) for video in videos], "label": [0, 1, 0, 1]})
    data = datasets.DatasetDict({"test": split.cast_column("video", datasets.Video())})
    zero_shot_task = task("VideoZeroshotClassification", "LocalZeroShot", "v2t", "accuracy", data)
    caplog.set_level("INFO")
    scores = [
        mteb.evaluate(encoder(tmp_path), zero_shot_task, cache=None, co2_tracker=False)
        .task_results[0]
        .scores["test"][0]
        for _ in range(2)
    ]
    assert scores[0]["accuracy"] == scores[1]["accuracy"]
    assert scores[0]["accuracy"] * COUNT == round(scores[0]["accuracy"] * COUNT)
    stages = [
        text for text in caplog.messages if text.startswith("embed tiny: ") and "distinct items" in text
    ]
    assert [text.partition(", ")[2].split(" ", 1)[0] for text in stages] == ["0", "0", "2", str(COUNT)]


@pytest.mark.slow
def test_an_item_that_cannot_be_embedded_is_an_error(
    cluster: str, videos: list[Path], tmp_path: Path
) -> None:
    import mteb

    videos = [*videos[:3], tmp_path / "broken.mp4"]
    videos[3].write_bytes(b"not a video")
    retrieval_task, _ = retrieval(videos)
    with pytest.raises(JobError, match=r"LocalRetrieval default/test: 1 of 4 items cannot be .* row 3"):
        mteb.evaluate(encoder(tmp_path / "work"), retrieval_task, cache=None, co2_tracker=False)


@pytest.mark.slow
def test_a_question_about_a_video_ranks_its_own_answers(
    cluster: str, videos: list[Path], tmp_path: Path
) -> None:
    import datasets
    import mteb

    questions, answers = ["what is it"] * COUNT, ["a desert", "an ocean", "a forest"]
    ids = [f"q{i}" for i in range(COUNT)]
    queries = datasets.Dataset.from_dict({"id": ids, "text": questions, "video": column(videos)})
    corpus = [{"id": f"{key}_{j}", "text": answer} for key in ids for j, answer in enumerate(answers)]
    split = {
        "queries": queries.cast_column("video", datasets.Video()),
        "corpus": datasets.Dataset.from_list(corpus),
        "relevant_docs": {key: {f"{key}_{i % 3}": 1} for i, key in enumerate(ids)},
        "top_ranked": {key: [f"{key}_{j}" for j in range(3)] for key in ids},
    }
    qa = task("VideoCentricQA", "LocalQA", "vt2t", "accuracy", {"default": {"test": split}})
    result = mteb.evaluate(encoder(tmp_path / "work"), qa, cache=None, co2_tracker=False)
    embedder = Embedder.from_pretrained(resolve_model(MODEL), resolve_model(ADAPTER))
    items = [
        Item(text=text, video=str(video), instruction=PROMPT)
        for text, video in zip(questions, videos, strict=True)
    ]
    best = (embedder.embed(items) @ embedder.embed([Item(text=text) for text in answers]).T).argmax(axis=1)
    expected = float(np.mean(best == np.arange(COUNT) % 3))
    assert result.task_results[0].get_score() == pytest.approx(expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind,category,score",
    [
        ("VideoClassification", "v2c", "accuracy"),
        ("VideoClustering", "v2c", "v_measure"),
        ("VideoPairClassification", "v2v", "max_ap"),
    ],
)
def test_tasks_without_text_tell_equal_videos_from_others(
    cluster: str, videos: list[Path], tmp_path: Path, kind: str, category: str, score: str
) -> None:
    """Each score is 1 by construction, since items of one label are one video."""
    import datasets
    import mteb

    first, second = column(videos[:2])
    if kind == "VideoPairClassification":
        names = {"video1": [first, second, first], "video2": [first, second, second], "label": [1, 1, 0]}
    else:
        names = {"video": [first, second] * 4, "label": [0, 1] * 4}
    split = datasets.Dataset.from_dict(names)
    for name in set(names) - {"label"}:
        split = split.cast_column(name, datasets.Video())
    data = datasets.DatasetDict({"train": split, "test": split})
    result = mteb.evaluate(
        encoder(tmp_path), task(kind, f"Local{kind}", category, score, data), cache=None, co2_tracker=False
    )
    assert result.task_results[0].get_score() == pytest.approx(1)


def test_mveb_without_audio_consists_of_what_the_encoder_reads(tmp_path: Path) -> None:
    import mteb

    modalities = set(encoder(tmp_path).mteb_model_meta.modalities)
    for name in ("MVEB(text, video, v1)", "MVEB(video, v1)"):
        for mveb_task in mteb.get_benchmark(name).tasks:
            assert set(mveb_task.metadata.modalities) <= modalities, mveb_task.metadata.name
