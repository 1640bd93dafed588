"""Stage 3 of V-SynFlow: query texts that combine with a frame or a clip to retrieve its video.

Pure functions that build the questions for a row of assets.lance and convert the answers to rows.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from gve_ray.schema import AssetRef
from gve_ray.synthesis.captioner import Answer, Media, Question
from gve_ray.synthesis.config import ExtendConfig
from gve_ray.synthesis.prompts import draw_query_slots, rng_for
from gve_ray.synthesis.validate import check_clip_query, check_image_query

Row = Mapping[str, Any]


def query_questions(row: Row, seed: int, config: ExtendConfig, captions: Sequence[str]) -> list[Question]:
    """Prompts 2 and 3, each at most once per video, on a frame and a clip drawn by the seed.

    captions: those of the video, which a query must not copy.
    """
    questions = []
    frames, clips = len(row["reference_timestamps"] or ()), len(row["clips"] or ())
    rng = rng_for(seed, row["video_id"], "composed_image")
    if rng.random() < config.image_share and frames:
        questions.append(_image_question(row, seed, rng.randrange(frames), captions))
    rng = rng_for(seed, row["video_id"], "composed_clip")
    if rng.random() < config.clip_share and clips:
        questions.append(_clip_question(row, seed, rng.randrange(clips), captions))
    return questions


def _image_question(row: Row, seed: int, index: int, captions: Sequence[str]) -> Question:
    video, ref = AssetRef(row["video_id"]), AssetRef(row["video_id"], "frame", index)
    slots = draw_query_slots(seed, row["video_id"], "composed_image")
    return Question(
        prompt_id="composed_image",
        ref=ref,
        media=(Media(ref=video, row=row), Media(ref=ref, row=row)),
        slots=slots,
        keys=("query",),
        check=lambda answer: check_image_query(answer["query"], slots["strategy"], captions),
    )


def _clip_question(row: Row, seed: int, index: int, captions: Sequence[str]) -> Question:
    video, ref = AssetRef(row["video_id"]), AssetRef(row["video_id"], "clip", index)
    return Question(
        prompt_id="composed_clip",
        ref=ref,
        media=(Media(ref=video, row=row), Media(ref=ref, row=row)),
        slots=draw_query_slots(seed, row["video_id"], "composed_clip"),
        keys=("query",),
        check=lambda answer: check_clip_query(answer["query"], captions),
    )


def query_texts(answer: Answer) -> list[dict[str, Any]]:
    """The query as in `schema.TEXT_TYPE`, its strategy or relation as style; empty if none was good."""
    if answer.texts is None:
        return []
    slots = answer.question.slots
    return [
        {
            "ref": str(answer.question.ref),
            "style": slots["strategy"] if "strategy" in slots else slots["relation"],
            "profile": None,
            "text": answer.texts["query"],
        }
    ]
