"""Which captions are asked for, of what, and what their answers become."""

from collections import Counter

from gve_ray.schema import TEXT_TYPE
from gve_ray.synthesis.captioner import Asker
from gve_ray.synthesis.config import CaptionerConfig, EnrichConfig
from gve_ray.synthesis.enrich import caption_question, caption_texts, frame_questions
from tests.synthesis.scripted import Scripted, asset_row


def answer(question):
    asker = Asker(generator=Scripted(), config=CaptionerConfig(model="x"), seed=1)
    return asker.ask(question).result(timeout=5)


def test_captions_carry_style_profile_and_reference():
    question = caption_question(asset_row("a b"), 1)
    texts = caption_texts(answer(question))
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
