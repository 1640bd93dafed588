"""Which composed queries are asked for, with what media, and what their answers become."""

import json

from gve_ray.synthesis.captioner import Asker, Completion
from gve_ray.synthesis.config import CaptionerConfig, ExtendConfig
from gve_ray.synthesis.extend import query_questions, query_texts
from gve_ray.synthesis.prompts import RELATIONS, STRATEGIES
from tests.synthesis.scripted import CAPTIONS, CLIP_QUERY, IMAGE_QUERY, Scripted, asset_row

TEXTS = list(CAPTIONS.values())
EVERY = ExtendConfig(image_share=1.0, clip_share=1.0)


def answers(questions, **script):
    asker = Asker(generator=Scripted(**script), config=CaptionerConfig(model="x", max_attempts=1), seed=1)
    return [asker.ask(question).result(timeout=5) for question in questions]


def test_the_target_video_comes_first_then_the_reference():
    image, clip = query_questions(asset_row("v", frames=1), 1, EVERY, TEXTS)
    assert [str(media.ref) for media in image.media] == ["asset://v/video", "asset://v/frame/0"]
    assert [str(media.ref) for media in clip.media] == ["asset://v/video", "asset://v/clip/0"]
    assert clip.media[1].frames().indices.tolist() == [12, 15, 18, 21, 24, 27, 30, 33]
    assert image.slots["strategy"] in STRATEGIES
    assert clip.slots["relation"] in RELATIONS


def test_texts_name_the_reference_and_the_strategy():
    image, clip = query_questions(asset_row("v", frames=1), 1, EVERY, TEXTS)
    (one,), (two,) = (query_texts(answer) for answer in answers([image, clip]))
    assert one == {
        "ref": "asset://v/frame/0", "style": image.slots["strategy"], "profile": None, "text": IMAGE_QUERY,
    }  # fmt: skip
    assert two == {
        "ref": "asset://v/clip/0", "style": clip.slots["relation"], "profile": None, "text": CLIP_QUERY,
    }  # fmt: skip


def test_a_query_that_copies_a_caption_is_rejected():
    questions = query_questions(asset_row("v"), 1, EVERY, [*TEXTS, CLIP_QUERY])
    (answer,) = answers(questions[1:])
    assert answer.texts is None
    assert answer.reject().reason == "copies_caption"
    assert query_texts(answer) == []


def test_nothing_is_asked_of_a_video_without_frame_or_clip():
    assert query_questions(asset_row("v", frames=0, clips=0), 1, EVERY, TEXTS) == []


def test_shares_choose_videos_by_the_seed():
    config = ExtendConfig(image_share=0.25, clip_share=0.0)
    rows = [asset_row(f"v{i}") for i in range(40)]
    chosen = [row["video_id"] for row in rows if query_questions(row, 3, config, TEXTS)]
    assert 3 <= len(chosen) <= 18  # 10 expected, three standard deviations of 2.7
    assert chosen == [row["video_id"] for row in rows if query_questions(row, 3, config, TEXTS)]
    assert all(
        question.prompt_id == "composed_image"
        for row in rows
        for question in query_questions(row, 3, config, TEXTS)
    )


def test_a_query_without_its_key_is_rejected():
    question = query_questions(asset_row("v"), 1, EVERY, TEXTS)[0]
    (answer,) = answers([question], script=lambda q, s: Completion(json.dumps({"text": "x"}), "stop"))
    assert answer.reject().reason == "wrong_keys"
