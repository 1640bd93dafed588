"""The questions that a captioner is asked about a video, and the texts that their answers give.

Stage 2 of V-SynFlow asks for five captions of the video (prompt 1) and of some reference frames
(prompt 4). Stage 3 asks for query texts that, together with a frame or a clip, retrieve the video
(prompts 2 and 3). All functions are pure.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from gve_ray.schema import AssetRef
from gve_ray.synthesis.captioner import Answer, Media, Question
from gve_ray.synthesis.config import EnrichConfig, ExtendConfig
from gve_ray.synthesis.prompts import (
    FRAME_STYLES,
    VIDEO_STYLES,
    draw_caption_slots,
    draw_query_slots,
    rng_for,
)
from gve_ray.synthesis.validate import (
    check_clip_query,
    check_frame_captions,
    check_image_query,
    check_video_captions,
)

Row = Mapping[str, Any]


def caption_question(row: Row, seed: int) -> Question:
    """Prompt 1 on the whole video. row: of assets.lance."""
    return Question(
        prompt_id="video_captions",
        ref=(ref := AssetRef(row["video_id"])),
        media=(Media(ref=ref, row=row),),
        slots=draw_caption_slots(seed, row["video_id"], "video_captions", row["caption"]),
        keys=tuple(VIDEO_STYLES),
        check=lambda captions: check_video_captions(captions, VIDEO_STYLES),
    )


def frame_questions(row: Row, seed: int, config: EnrichConfig) -> list[Question]:
    """Prompt 4 on `config.frames` of the video's reference frames, drawn by the seed; all if it has fewer."""
    count = len(row["reference_timestamps"] or ())
    rng = rng_for(seed, row["video_id"], "captioned frames")
    chosen = sorted(rng.sample(range(count), min(config.frames, count)))
    return [
        Question(
            prompt_id="frame_captions",
            ref=(ref := AssetRef(row["video_id"], "frame", index)),
            media=(Media(ref=ref, row=row),),
            slots=draw_caption_slots(seed, row["video_id"], f"frame_captions/{index}", row["caption"]),
            keys=tuple(FRAME_STYLES),
            check=lambda captions: check_frame_captions(captions, FRAME_STYLES),
        )
        for index in chosen
    ]


def query_questions(row: Row, seed: int, config: ExtendConfig, captions: Sequence[str]) -> list[Question]:
    """Prompts 2 and 3, each at most once per video, on a frame and a clip drawn by the seed.

    captions: those of the video, which a query must not copy.
    """
    frames, clips = len(row["reference_timestamps"] or ()), len(row["clips"] or ())
    prompts: tuple[tuple[str, Literal["frame", "clip"], int, float], ...] = (
        ("composed_image", "frame", frames, config.image_share),
        ("composed_clip", "clip", clips, config.clip_share),
    )
    questions = []
    for prompt_id, part, count, share in prompts:
        rng = rng_for(seed, row["video_id"], prompt_id)
        if rng.random() < share and count:
            ref = AssetRef(row["video_id"], part, rng.randrange(count))
            questions.append(_query_question(row, seed, prompt_id, ref, captions))
    return questions


def _query_question(row: Row, seed: int, prompt_id: str, ref: AssetRef, captions: Sequence[str]) -> Question:
    slots = draw_query_slots(seed, row["video_id"], prompt_id)
    return Question(
        prompt_id=prompt_id,
        ref=ref,
        media=(Media(ref=AssetRef(row["video_id"]), row=row), Media(ref=ref, row=row)),
        slots=slots,
        keys=("query",),
        check=lambda answer: (
            check_image_query(answer["query"], slots["strategy"], captions)
            if ref.part == "frame"
            else check_clip_query(answer["query"], captions)
        ),
    )


def texts_of(answer: Answer) -> list[dict[str, Any]]:
    """Return an answer's texts as in `schema.TEXT_TYPE`, in the order of its keys; none if none was good.

    The style of a query is its strategy or relation.
    """
    if answer.texts is None:
        return []
    slots = answer.question.slots
    styles = {key: style.name for key, style in VIDEO_STYLES.items()}  # frame captions have the same ones
    styles["query"] = slots.get("strategy") or slots.get("relation", "")
    return [
        {
            "ref": str(answer.question.ref),
            "style": styles[key],
            "profile": slots.get("profile"),
            "text": answer.texts[key],
        }
        for key in answer.question.keys
        if key in answer.texts
    ]
