"""Which captions and queries are asked for, of what, and what their answers become."""

import json
from collections import Counter

from gve_ray.schema import TEXT_TYPE
from gve_ray.synthesis.captioner import Asker, Completion
from gve_ray.synthesis.config import CaptionerConfig, EnrichConfig, ExtendConfig
from gve_ray.synthesis.prompts import RELATIONS, STRATEGIES
from gve_ray.synthesis.questions import caption_question, frame_questions, query_questions, texts_of
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
    (one,), (two,) = (texts_of(answer) for answer in answers([image, clip]))
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
    assert texts_of(answer) == []


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


def test_captions_carry_style_profile_and_reference():
    question = caption_question(asset_row("a b"), 1)
    texts = texts_of(*answers([question]))
    assert [text["style"] for text in texts] == ["short", "rich", "abstract", "keywords", "partial"]
    assert {text["ref"] for text in texts} == {"asset://a%20b/video"}
    assert {text["profile"] for text in texts} == {question.slots["profile"]}
    assert set(texts[0]) == {field.name for field in TEXT_TYPE}


def test_profiles_follow_the_papers_shares():
    counts = Counter(caption_question(asset_row(f"v{i}"), 5).slots["profile"] for i in range(1000))
    # Binomial: three standard deviations of 1000 draws are at most 46.
    assert abs(counts["temporal"] - 600) < 47
    assert abs(counts["spatial"] - 300) < 44
    assert abs(counts["other"] - 100) < 29


def test_slots_are_a_function_of_seed_and_video():
    row = asset_row("v")
    assert caption_question(row, 1).slots == caption_question(asset_row("v"), 1).slots
    others = [caption_question(asset_row(f"v{i}"), 1).slots for i in range(20)]
    assert len({tuple(sorted(slots.items())) for slots in others}) > 5


def test_a_video_without_caption_says_none():
    assert caption_question(asset_row("v", caption=None), 1).slots["caption"] == "none"


def test_frames_are_drawn_without_repetition_and_bounded_by_what_is_there():
    row = asset_row("v", frames=3)
    two = frame_questions(row, 1, EnrichConfig(frames=2))
    assert len({question.ref.index for question in two}) == 2
    assert [question.ref.index for question in frame_questions(row, 1, EnrichConfig(frames=9))] == [0, 1, 2]
    assert frame_questions(asset_row("v", frames=0), 1, EnrichConfig(frames=1)) == []
    assert two[0].media[0].frames().pixels.shape == (1, 56, 84, 3)


def test_different_videos_draw_different_frames():
    rows = [asset_row(f"v{i}", frames=4) for i in range(40)]
    drawn = {frame_questions(row, 1, EnrichConfig(frames=1))[0].ref.index for row in rows}
    assert drawn == {0, 1, 2, 3}
