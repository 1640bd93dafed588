"""Content filters: what each score says of simple pictures, and what the stages make of the scores."""

import dataclasses
import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image, ImageDraw, ImageFont

from gve_ray.config import load_config
from gve_ray.media import decode_jpeg, encode_jpeg
from gve_ray.store import Store
from gve_ray.synthesis.config import (
    CONTENT_THRESHOLDS,
    BordersConfig,
    CaptionerConfig,
    ClassifierConfig,
    ContentConfig,
    ContentFilterConfig,
    MediaConfig,
    QualityConfig,
    SynthesisConfig,
)
from gve_ray.synthesis.content.borders import Box, border_share, content_box
from gve_ray.synthesis.content.classifiers import ClassifierWorker
from gve_ray.synthesis.content.crop import cropped
from gve_ray.synthesis.content.exposure import blur, darkness
from gve_ray.synthesis.content.score import CONTENT_SCHEMA, content_scores
from gve_ray.synthesis.content.slideshow import slideshow
from gve_ray.synthesis.content.stages import content_stages, cut_content, scores_store
from gve_ray.synthesis.content.text import text_share
from gve_ray.synthesis.ingest import INGEST_SCHEMA
from gve_ray.synthesis.needs import needs_of
from gve_ray.synthesis.pipeline import STAGES, stages_of
from gve_ray.synthesis.scores import cut_of
from gve_ray.synthesis.stages import SynthesisRun

HEIGHT, WIDTH = 240, 320


def picture(seed: int = 0, shift: int = 0) -> np.ndarray:
    """Discs of all sizes and brightnesses, uint8 [240, 320]. shift: of all of them, in pixels."""
    rng = np.random.default_rng(seed)
    image = Image.new("L", (WIDTH, HEIGHT), 120)
    draw = ImageDraw.Draw(image)
    for x, y, radius, level in zip(
        rng.integers(0, WIDTH, 30), rng.integers(0, HEIGHT, 30), rng.integers(8, 40, 30), rng.integers(30, 250, 30),
        strict=True,
    ):  # fmt: skip
        draw.circle((int(x) + shift, int(y)), int(radius), fill=int(level))
    return np.asarray(image)


def video(count: int = 8, **changes: Any) -> np.ndarray:
    """Discs that move to the right, uint8 [count, 240, 320]."""
    return np.stack([picture(shift=6 * i, **changes) for i in range(count)])


def rgb(luma: np.ndarray) -> np.ndarray:
    return np.repeat(luma[..., None], 3, axis=-1)


def with_text(luma: np.ndarray, size: int, y: int) -> tuple[np.ndarray, float]:
    """Write a line on a picture. Returns it and the share of its area that the line covers."""
    image = Image.fromarray(luma)
    draw = ImageDraw.Draw(image)
    font, text = ImageFont.load_default(size), "subtitles of a film"
    left, top, right, bottom = draw.textbbox((20, y), text, font=font, stroke_width=1)
    draw.text((20, y), text, font=font, fill=255, stroke_width=1, stroke_fill=0)
    return np.asarray(image), (right - left) * (bottom - top) / luma.size


@pytest.mark.parametrize("size", [14, 20, 30])
def test_a_line_of_text_scores_its_area(size: int) -> None:
    frames = [with_text(frame, size, 190) for frame in video()]
    share = text_share(np.stack([frame for frame, _ in frames]))
    assert 0.5 * frames[0][1] < share < 2 * frames[0][1]


def test_text_that_is_gone_in_most_frames_does_not_count() -> None:
    frames = video()
    assert text_share(frames) == 0.0
    frames[:3] = [with_text(frame, 20, 190)[0] for frame in frames[:3]]
    assert text_share(frames) == 0.0


def test_a_fence_is_no_text() -> None:
    frame = np.where(np.arange(WIDTH) % 8 < 3, 30, 220).astype(np.uint8)
    assert text_share(np.broadcast_to(frame, (8, HEIGHT, WIDTH))) == 0.0


@pytest.mark.parametrize("level", [0, 16, 128, 255])
@pytest.mark.parametrize(
    "box", [Box(30, 210, 0, 320), Box(0, 240, 40, 280), Box(20, 220, 10, 310), Box(0, 220, 0, 320)]
)
def test_bars_are_found_at_each_side(box: Box, level: int) -> None:
    frames = np.full((8, HEIGHT, WIDTH), level, np.uint8)
    frames[:, box.top : box.bottom, box.left : box.right] = box.of(video())
    assert content_box(frames) == box
    area = (box.bottom - box.top) * (box.right - box.left) / (HEIGHT * WIDTH)
    assert border_share(box, HEIGHT, WIDTH) == pytest.approx(1 - area)


def test_a_black_sky_is_no_bar() -> None:
    frames = video()
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    frames[:, y < 60 + 20 * np.sin(x / 30)] = 0
    assert content_box(frames) == Box(0, HEIGHT, 0, WIDTH)
    assert content_box(np.zeros((8, HEIGHT, WIDTH), np.uint8)) == Box(0, HEIGHT, 0, WIDTH)


@pytest.mark.parametrize("sigma", [1.5, 3.0, 5.0])
def test_blur_is_in_pixels(sigma: float) -> None:
    from PIL import ImageFilter

    frames = video()
    assert blur(frames) < 0.8
    blurred = [np.asarray(Image.fromarray(f).filter(ImageFilter.GaussianBlur(sigma))) for f in frames]
    assert blur(np.stack(blurred)) == pytest.approx(sigma, rel=0.3)
    assert blur(np.full((8, HEIGHT, WIDTH), 90, np.uint8)) == 0.0


def test_darkness_is_that_of_the_brightest_parts() -> None:
    night = (video() * 0.05).astype(np.uint8)
    assert darkness(night) == pytest.approx(1 - 0.05 * 240 / 255, abs=0.02)
    night[:, 100:140, 100:140] = 220  # a lamp
    assert darkness(night) == pytest.approx(1 - 220 / 255)


def test_stills_with_cuts_are_a_slideshow_and_slow_motion_is_not() -> None:
    slides = np.stack([rgb(picture(seed)) for seed in (1, 1, 1, 2, 2, 3, 3, 3, 4)])
    assert slideshow(slides) == pytest.approx(8 / 9)  # nothing says that the last slide is still
    slow = np.stack([rgb(picture(seed, shift)) for seed in (1, 2) for shift in range(8)])
    assert slideshow(slow) == 0.0
    assert slideshow(slides[:3]) == 0.0  # without a cut it is a static video


def row(frames: np.ndarray) -> dict[str, Any]:
    jpegs = [encode_jpeg(rgb(frame)) for frame in frames]
    return {
        "video_id": "v", "frames": jpegs, "timestamps": [float(i) for i in range(len(jpegs))],
        "reference_frames": [jpegs[0]], "reference_timestamps": [0.5],
        "clips": [{"frames": jpegs[1:3], "timestamps": [1.0, 1.5]}],
    }  # fmt: skip


def test_all_scores_come_from_the_stored_frames() -> None:
    frames = np.zeros((8, HEIGHT, WIDTH), np.uint8)
    frames[:, 40:200] = (video() * 0.1).astype(np.uint8)[:, 40:200]
    scores = content_scores(row(frames))
    assert scores["borders"] == pytest.approx(80 / 240, abs=0.01)
    assert scores["darkness"] > 0.88
    assert {scores[name] for name in ("text_overlay", "slideshow")} == {0.0}
    assert scores["box"] == (40, 200, 0, 320)


# ---- The stages


def config(**cuts: Any) -> SynthesisConfig:
    return SynthesisConfig(
        input="videos",
        output="run",
        captioner=CaptionerConfig(model="m"),
        quality=QualityConfig(content=ContentConfig(**cuts)),
    )


def test_filters_that_are_off_change_neither_stages_nor_identity() -> None:
    assert stages_of(config()) == STAGES
    assert "content" not in config().identity()["quality"]


def test_cuts_are_read_from_the_command_line() -> None:
    options = ["--input=v", "--output=o", "--captioner.model=m", "--quality.content.blur.threshold=default"]
    options += ["--quality.content.darkness.threshold=0.5", "--quality.content.borders.percentile=5"]
    cuts = load_config(SynthesisConfig, options).quality.content.cuts
    assert {name: (cut.threshold, cut.percentile) for name, cut in cuts.items()} == {
        "borders": (None, 5.0),
        "blur": (CONTENT_THRESHOLDS["blur"], None),
        "darkness": (0.5, None),
    }


def test_a_filter_in_use_adds_its_stage_after_the_scores() -> None:
    given = config(blur=ContentFilterConfig(threshold=2.0), borders=BordersConfig(percentile=5))
    names = [stage.name for stage in stages_of(given)]
    at = names.index("dynamics")
    assert names[at : at + 5] == ["dynamics", "content", "borders", "blur", "consistency"]
    assert given.identity()["quality"]["content"] == {
        "borders": {"threshold": None, "percentile": 5},
        "blur": {"threshold": 2.0, "percentile": None},
    }


@pytest.mark.parametrize(
    ("cut", "message"),
    [
        (
            {"threshold": 1.0, "percentile": 5.0},
            r"quality.content.blur.threshold=1.0, percentile=5.0: .* one",
        ),
        ({"percentile": 100.0}, r"quality.content.blur.percentile=100.0: use a number .* below 100"),
    ],
)
def test_a_filter_with_a_cut_that_makes_no_sense_is_refused(cut: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ContentConfig(blur=ContentFilterConfig(**cut))


@pytest.mark.parametrize(
    ("cut", "rejected"),
    [({"threshold": 2.0}, {"c", "d"}), ({"threshold": 3.0}, {"d"}), ({"percentile": 25.0}, {"d"})],
)
def test_videos_above_the_cut_are_rejected_with_their_score(
    cut: dict[str, float], rejected: set[str]
) -> None:
    run = SynthesisRun(
        config=config(blur=ContentFilterConfig(**cut)),
        manifest=pa.table({"video_id": pa.array([], pa.string())}),
    )
    run.videos = pa.table({"video_id": ["a", "b", "c", "d"]})
    run.content = {"blur": {"d": 4.0, "c": 3.0, "b": 2.0, "a": 1.0}}
    stage = next(stage for stage in content_stages(run.config.quality.content) if stage.name == "blur")
    counts = cut_content(run, stage)
    assert (counts.n_in, counts.n_rejected) == (4, len(rejected))
    assert set(run.videos["video_id"].to_pylist()) == {"a", "b", "c", "d"} - rejected
    assert {(item["video_id"], item["reason"]) for item in run.rejected["blur"]} == {
        (video_id, "blurred") for video_id in rejected
    }
    assert sorted(run.shared.content_scores("blur")) == [1.0, 2.0, 3.0, 4.0]


# ---- Cropping


def test_all_frames_of_a_video_are_cropped_to_its_box() -> None:
    frames = np.full((8, HEIGHT, WIDTH), 0, np.uint8)
    frames[:, 60:180] = video()[:, 60:180]
    given = row(frames)
    box = content_scores(given)["box"]
    assert box == (60, 180, 0, 320)
    media = MediaConfig(max_pixels=112 * 336, min_pixels=56 * 56)
    result = cropped(given, box, media)
    jpegs = [*result["frames"], *result["reference_frames"], *result["clips"][0]["frames"]]
    assert len(jpegs) == 8 + 1 + 2
    assert {decode_jpeg(jpeg).shape for jpeg in jpegs} == {(112, 308, 3)}  # multiples of 28 near 120 x 320
    expected = np.asarray(Image.fromarray(frames[0, 60:180]).resize((308, 112)))
    assert np.abs(decode_jpeg(jpegs[0])[..., 0].astype(int) - expected).mean() < 3
    assert {name: result[name] for name in ("video_id", "timestamps")} == {
        name: given[name] for name in ("video_id", "timestamps")
    }


def test_videos_with_borders_may_be_cropped_instead_of_rejected(tmp_path: Path) -> None:
    borders = BordersConfig(threshold="default", action="crop")
    given = dataclasses.replace(config(borders=borders), output=str(tmp_path))
    assert given.identity()["quality"]["content"]["borders"]["action"] == "crop"
    run = SynthesisRun(config=given, manifest=pa.table({"video_id": pa.array([], pa.string())}))
    run.videos = pa.table({"video_id": ["a", "b"]})
    run.content = {"borders": {"a": 0.2, "b": 0.0}}
    scoring, cutting = content_stages(given.quality.content)
    scores = [{"video_id": "a", "box": [10, 90, 0, 100]}, {"video_id": "b", "box": [0, 100, 0, 100]}]
    store = scores_store(run, scoring).create()
    store.append(pa.Table.from_pylist(scores, schema=CONTENT_SCHEMA))
    counts = cut_content(run, cutting)
    assert (counts.n_in, counts.n_rejected, run.boxes) == (2, 0, {"a": [10, 90, 0, 100]})
    assert cut_of("borders", given, [0.2, 0.0]) is None  # it rejects nothing
    with pytest.raises(ValueError, match=r"quality.content.borders.action=crop: give a threshold"):
        ContentConfig(borders=BordersConfig(action="crop"))


# ---- Filters by a model


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A classifier with random weights and the labels calm and loud, as transformers saves it."""
    import torch
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    folder = str(tmp_path_factory.mktemp("classifier"))
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    labels = {"id2label": {0: "calm", 1: "loud"}, "label2id": {"calm": 0, "loud": 1}}
    torch.manual_seed(0)
    model = ViTForImageClassification(ViTConfig(image_size=32, patch_size=8, **size, **labels))
    torch.nn.init.normal_(model.classifier.weight, std=3.0)  # so that pictures differ
    model.save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def stored(tmp_path: Path, frames: np.ndarray) -> Store:
    store = Store(str(tmp_path / "ingest.lance"), INGEST_SCHEMA).create()
    jpegs = [encode_jpeg(frame) for frame in frames]
    row = dict.fromkeys(INGEST_SCHEMA.names) | {"video_id": "v", "frames": jpegs}
    store.append(pa.Table.from_pylist([row], schema=INGEST_SCHEMA))
    return store


@pytest.mark.slow  # transformers' image models take seconds to import
def test_a_classifier_scores_the_worst_frame_and_the_mean_of_all(classifier: str, tmp_path: Path) -> None:
    from transformers import pipeline

    frames = (
        np.random.default_rng(0).integers(0, 256, (4, 1, 1, 3), dtype=np.uint8).repeat(40, 1).repeat(40, 2)
    )
    pipe = pipeline("image-classification", model=classifier, device="cpu")
    shown = [Image.open(io.BytesIO(encode_jpeg(frame))) for frame in frames]
    loud = [{answer["label"]: answer["score"] for answer in answers}["loud"] for answers in pipe(shown)]
    assert max(loud) - min(loud) > 0.01
    config = ClassifierConfig(model=classifier, label="loud", threshold=0.5)
    worker = ClassifierWorker({"nsfw": config, "aesthetic": config}, stored(tmp_path, frames))
    assert worker([{"video_id": "v"}]) == [
        {
            "video_id": "v",
            "nsfw": pytest.approx(max(loud), abs=1e-4),
            "aesthetic": pytest.approx(np.mean(loud), abs=1e-4),
        }
    ]


@pytest.mark.slow  # likewise
@pytest.mark.parametrize(
    ("label", "message"), [("rude", "='rude': .* has .*'calm', 'loud'"), (None, "name one of")]
)
def test_a_label_that_the_model_does_not_have_is_refused(
    classifier: str, label: str | None, message: str
) -> None:
    config = ClassifierConfig(model=classifier, label=label, threshold=0.5)
    with pytest.raises(ValueError, match=rf"quality.content.nsfw.label.*{message}"):
        ClassifierWorker({"nsfw": config}, None)  # type: ignore[arg-type]


def test_a_model_needs_a_cut_and_is_part_of_the_identity() -> None:
    with pytest.raises(ValueError, match=r"quality.content.aesthetic.threshold=None, .* exactly one"):
        ContentConfig(aesthetic=ClassifierConfig(model="m"))
    given = config(aesthetic=ClassifierConfig(model="m", threshold=4.5))
    names = [stage.name for stage in stages_of(given)]
    assert names[names.index("dynamics") + 1 :][:3] == ["classifiers", "aesthetic", "consistency"]
    assert given.identity()["quality"]["content"]["aesthetic"]["model"] == "m"
    (pool,) = (pool for pool in needs_of(given).workers if pool.option == "resources.classifiers")
    assert [weights.option for weights in pool.loads] == ["quality.content.aesthetic.model"]


def test_videos_below_the_aesthetic_threshold_are_rejected() -> None:
    run = SynthesisRun(
        config=config(aesthetic=ClassifierConfig(model="m", threshold=4.5)),
        manifest=pa.table({"video_id": pa.array([], pa.string())}),
    )
    run.videos = pa.table({"video_id": ["a", "b"]})
    run.content = {"aesthetic": {"a": 4.0, "b": 5.0}}
    cut_content(run, content_stages(run.config.quality.content)[-1])
    (reject,) = run.rejected["aesthetic"]
    assert (reject["video_id"], reject["reason"]) == ("a", "unaesthetic")
