"""Stage 2 of V-SynFlow: five captions per video (prompt 1) and five per reference frame (prompt 4).

Pure functions that build the questions for a row of assets.lance and convert the answers to rows.
"""

from collections.abc import Mapping
from typing import Any

from gve_ray.schema import AssetRef
from gve_ray.synthesis.captioner import Answer, Media, Question
from gve_ray.synthesis.config import EnrichConfig
from gve_ray.synthesis.prompts import FRAME_STYLES, VIDEO_STYLES, Style, draw_caption_slots, rng_for
from gve_ray.synthesis.validate import check_frame_captions, check_video_captions

Row = Mapping[str, Any]


def caption_question(row: Row, seed: int) -> Question:
    """Prompt 1 on the whole video."""
    ref = AssetRef(row["video_id"])
    return Question(
        prompt_id="video_captions",
        ref=ref,
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
    return [_frame_question(row, seed, AssetRef(row["video_id"], "frame", index)) for index in chosen]


def _frame_question(row: Row, seed: int, ref: AssetRef) -> Question:
    return Question(
        prompt_id="frame_captions",
        ref=ref,
        media=(Media(ref=ref, row=row),),
        slots=draw_caption_slots(seed, row["video_id"], f"frame_captions/{ref.index}", row["caption"]),
        keys=tuple(FRAME_STYLES),
        check=lambda captions: check_frame_captions(captions, FRAME_STYLES),
    )


def caption_texts(answer: Answer) -> list[dict[str, Any]]:
    """The five captions as in `schema.TEXT_TYPE`, in the order of the styles; empty if none was good."""
    styles: Mapping[str, Style] = VIDEO_STYLES if answer.question.ref.part == "video" else FRAME_STYLES
    if answer.texts is None:
        return []
    return [
        {
            "ref": str(answer.question.ref),
            "style": style.name,
            "profile": answer.question.slots["profile"],
            "text": answer.texts[key],
        }
        for key, style in styles.items()
    ]
