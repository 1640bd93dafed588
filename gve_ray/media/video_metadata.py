"""Describe sampled frames to the video processors of Hugging Face and vLLM.

The processors derive the time encoding of a video from its frame rate and frame indices. Counting
from the first sampled frame gives a clip the same timing as a file that holds only the clip.
"""

from typing import Any

from gve_ray.schema import Frames


def video_metadata(frames: Frames) -> dict[str, Any]:
    """Return the video metadata of a processor call; frame indices start at 0.

    The frames are not sampled again: `do_sample_frames` is False.
    """
    indices = (frames.indices - frames.indices[0]).tolist()
    fps = source_fps(frames)
    return {
        "fps": fps,
        "duration": (indices[-1] + 1) / fps,
        "total_num_frames": indices[-1] + 1,
        "frames_indices": indices,
        "video_backend": "opencv",  # a name that vLLM knows; nothing is decoded again
        "do_sample_frames": False,
    }


def sampled_fps(frames: Frames) -> float:
    """Return how many frames were sampled per second of source video.

    For a whole video the Hugging Face processors compute it as frames / total_frames * fps.
    Counting the source frames from the first to the last sample gives the same number for uniform
    samples of a whole video, and for a clip the number that a file with only the clip would have.
    An unknown rate counts as 1, the sampling rate of arXiv:2510.27571.
    """
    if frames.fps <= 0:
        return 1.0
    return len(frames.indices) / _covered_frames(frames) * frames.fps


def source_fps(frames: Frames) -> float:
    """Return the frame rate of the source; if it is unknown, the rate that makes `sampled_fps` 1."""
    return float(frames.fps) if frames.fps > 0 else _covered_frames(frames) / len(frames.indices)


def _covered_frames(frames: Frames) -> int:
    """Return the number of source frames from the first sample to the last, both included."""
    return int(frames.indices[-1]) - int(frames.indices[0]) + 1
