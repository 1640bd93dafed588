"""Checks of captions and composed queries, on hand-written texts with known problems."""

import json

import pytest

from gve_ray.synthesis.prompts import FRAME_STYLES, VIDEO_STYLES
from gve_ray.synthesis.validate import (
    AnswerError,
    check_clip_query,
    check_frame_captions,
    check_image_query,
    check_video_captions,
    parse_answer,
    words,
)

SHORT = "A woman in a green coat walks her two small dogs along the beach at sunset."  # 16 words
RICH = (
    "A woman in a long green coat walks along a wide sandy beach while two small brown dogs run ahead of "
    "her on red leads. The sun is low on the left and paints the wet sand orange. First the dogs stop to "
    "sniff a piece of driftwood near the water, then the smaller one jumps over it and the woman laughs "
    "and pulls them on. A gull crosses the sky from right to left above the calm sea. The camera follows "
    "from behind at the height of the dogs, keeps the three in the middle of the picture and slowly rises "
    "until the whole bay with its white houses can be seen behind them."
)  # 110 words
ABSTRACT = (
    "A quiet evening ritual between a person and her animals. The walk has no goal, and the easy rhythm "
    "of steps, small pauses and play gives the scene its calm and a mild sense of freedom."
)
KEYWORDS = "woman, green coat, two small dogs, beach, sunset, walking, driftwood, gull, calm sea"
PARTIAL = "The smaller of the two dogs sniffs a piece of driftwood and then jumps over it."
GOOD = {"1": SHORT, "2": RICH, "3": ABSTRACT, "4": KEYWORDS, "5": PARTIAL}
CAPTIONS = list(GOOD.values())


def codes(problems):
    return [problem.code for problem in problems]


class TestWords:
    def test_counts_words_as_people_do(self):
        assert words("A dog's well-known trick, 3 times - twice!") == [
            "a", "dog's", "well-known", "trick", "3", "times", "twice",
        ]  # fmt: skip


class TestParseAnswer:
    def test_strips_values(self):
        assert parse_answer('{"query": " the same dog "}', ["query"]) == {"query": "the same dog"}

    @pytest.mark.parametrize(
        ("text", "code"),
        [
            ('{"query": "the same d', "invalid_json"),
            ('{"query": "two\nlines"}', "invalid_json"),
            ('["query"]', "wrong_keys"),
            ("{}", "wrong_keys"),
            ('{"query": "a", "note": "b"}', "wrong_keys"),
            ('{"query": 3}', "not_text"),
        ],
    )
    def test_names_what_is_wrong(self, text, code):
        with pytest.raises(AnswerError) as caught:
            parse_answer(text, ["query"])
        assert caught.value.problem.code == code


class TestVideoCaptions:
    def test_good_captions_have_no_problem(self):
        assert check_video_captions(GOOD, VIDEO_STYLES) == []

    @pytest.mark.parametrize(
        ("key", "text", "expected"),
        [
            ("1", "A woman walks two dogs.", ["too_short"]),  # 5 words, at least 10
            ("1", SHORT + " " + PARTIAL, ["too_long"]),  # 16 + 15 words, at most 25
            ("3", "A quiet evening.", ["too_short"]),
            ("4", "woman with a coat and dogs on a beach", ["not_keywords"]),
            ("5", "the dog and the dog and the dog and the dog and the dog", ["repetitive"]),
            ("5", ABSTRACT, ["same_captions"]),
        ],
    )
    def test_one_fault_is_found_and_nothing_else(self, key, text, expected):
        assert codes(check_video_captions({**GOOD, key: text}, VIDEO_STYLES)) == expected

    def test_word_ranges_include_both_ends(self):
        captions = {**GOOD, "1": " ".join(f"w{i}" for i in range(10))}
        assert check_video_captions(captions, VIDEO_STYLES) == []
        captions["1"] = " ".join(f"w{i}" for i in range(25))
        assert codes(check_video_captions(captions, VIDEO_STYLES)) == []
        captions["1"] = " ".join(f"w{i}" for i in range(26))
        assert codes(check_video_captions(captions, VIDEO_STYLES)) == ["too_long"]

    def test_one_caption_must_be_long_and_one_short(self):
        rich = " ".join(RICH.split()[:95])  # within its own range of 80 to 200
        assert codes(check_video_captions({**GOOD, "2": rich}, VIDEO_STYLES)) == ["no_long_caption"]
        twenty = [" ".join(f"{key}{i}" for i in range(22)) for key in "abc"]
        captions = {"1": twenty[0], "2": RICH, "3": ABSTRACT, "4": twenty[1] + ", b, c", "5": twenty[2]}
        assert codes(check_video_captions(captions, VIDEO_STYLES)) == ["no_short_caption"]


FRAME = {
    **GOOD,
    "2": RICH[: RICH.index(" First")]
    + " The sea behind them is calm, flat and grey-blue, and far away on the right a row of white houses "
    "stands along the bay under a pale orange sky.",
    "5": "The smaller of the two dogs stands beside a piece of driftwood.",
}


class TestFrameCaptions:
    def test_a_still_needs_no_caption_above_100_words(self):
        assert check_frame_captions(FRAME, FRAME_STYLES) == []

    def test_a_still_has_no_sequence(self):
        captions = {**FRAME, "5": PARTIAL}  # "and then jumps over it"
        assert [str(problem) for problem in check_frame_captions(captions, FRAME_STYLES)] == [
            "sequence_claim: partial: then"
        ]


class TestImageQuery:
    @pytest.mark.parametrize(
        "query",
        [
            "The same small brown dog as in this image, running along the water.",
            "Find the clip where the woman shown here in the green coat sits down and laughs.",
            "This dog digging a hole in the snow.",
            "The brown dog from the reference photo chases a ball into the sea.",
        ],
    )
    def test_good_queries(self, query):
        assert check_image_query(query, "action change", CAPTIONS) == []

    @pytest.mark.parametrize(
        ("query", "expected"),
        [
            ("A small brown dog runs along the beach.", ["no_binding"]),
            ("The same thing as in this image, but it moves.", ["no_attribute"]),
            ("The same brown dog as in this image.", ["no_dynamics"]),
            ("This brown dog runs " + "and runs again " * 20, ["too_long"]),
            (PARTIAL, ["no_binding", "copies_caption"]),
        ],
    )
    def test_faults(self, query, expected):
        assert codes(check_image_query(query, "action change", CAPTIONS)) == expected

    def test_a_negative_constraint_says_no(self):
        query = "The same brown dog as in this image, running {} barking."
        assert check_image_query(query.format("without"), "negative constraint", CAPTIONS) == []
        problems = check_image_query(query.format("and"), "negative constraint", CAPTIONS)
        assert codes(problems) == ["no_negation"]


class TestClipQuery:
    @pytest.mark.parametrize(
        "query",
        [
            "What the brown dog in this clip does afterwards.",
            "The same beach seen from above the white houses.",
            "A longer recording of the woman shown in this clip.",
            "The same brown dog, but it jumps higher this time.",
            "The woman from the clip who kneads bread in a kitchen.",  # a verb in no list, by its place
        ],
    )
    def test_good_queries(self, query):
        assert check_clip_query(query, CAPTIONS) == []

    @pytest.mark.parametrize(
        ("query", "expected"),
        [
            ("This brown dog runs.", ["too_short"]),
            ("A brown dog runs along the beach after sunset.", ["no_binding"]),
            ("A clearer and longer version of this clip.", ["no_attribute"]),
            ("The brown dog on the sand in this clip.", ["no_relation"]),
            ("The same brown dog as in this clip runs on along the beach and then back again.", ["too_long"]),
        ],
    )
    def test_faults(self, query, expected):
        assert codes(check_clip_query(query, CAPTIONS)) == expected


def test_the_truth_of_the_miniature_world_passes():
    """What the shipped captioner is taught to write must be what the checks let through."""
    from gve_ray.demo.language import Writer
    from gve_ray.demo.scenes import draw_scene
    from gve_ray.synthesis.prompts import RELATIONS, STRATEGIES

    for seed in range(60):
        scene, writer = draw_scene(seed, "corpus", long=seed % 4 == 0), Writer()
        captions = writer.captions(scene)
        texts = list(captions.values())
        assert check_video_captions(json.loads(json.dumps(captions)), VIDEO_STYLES) == []
        assert check_frame_captions(writer.frame_captions(scene, 0.4), FRAME_STYLES) == []
        strategy, relation = STRATEGIES[seed % 4], RELATIONS[seed % 4]
        assert check_image_query(writer.image_query(scene, 0.4, strategy), strategy, texts) == []
        assert check_clip_query(writer.clip_query(scene, 0.4, relation), texts) == []
