"""Rows of annotations.lance, as the captioner would write them."""

STYLES = ("short", "rich", "abstract", "keywords", "partial")


def text(ref, style, body, profile="temporal"):
    return {"ref": ref, "style": style, "profile": profile, "text": body}


def annotation(video_id, *, frames=2, clips=1, queries=True, duration=5.0):
    video, frame, clip = (
        f"asset://{video_id}/video",
        f"asset://{video_id}/frame/1",
        f"asset://{video_id}/clip/0",
    )
    return {
        "video_id": video_id,
        "duration": duration,
        "reference_timestamps": [float(i) for i in range(frames)],
        "clip_spans": [{"start": 0.0, "end": 2.0}] * clips,
        "captions": [text(video, style, f"{style} caption of {video_id}") for style in STYLES],
        "frame_captions": [text(frame, style, f"{style} frame caption of {video_id}") for style in STYLES],
        "composed_image": [text(frame, "scene change", f"the same {video_id} here", None)] if queries else [],
        "composed_clip": [text(clip, "quality variation", f"longer {video_id}", None)] if queries else [],
        "generations": [],
    }
