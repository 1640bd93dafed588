"""Read videos and pictures from a file, bytes, a folder of frames or a URI as checked frames.

    info + frames   decode(source, [FrameRequest(k=8)]) -> Decoded      one strict pass that refuses damage
    frames only     read_frames(source, k=8) -> Frames                  decodes only what it needs
    in a child      DecodeProcess(limits).decode, .read_image(...)      may crash or hang

A refused file raises MediaError, whose `reason` is a `Reason`.
"""

from gve_ray.media.budget import FACTOR, MAX_PIXELS, MIN_PIXELS, fit_pixels
from gve_ray.media.decode import Decoded, Plan, decode, read_frames, read_image
from gve_ray.media.limits import Limits, MediaError, Reason
from gve_ray.media.picture.jpeg import decode_jpeg, encode_jpeg
from gve_ray.media.process import DecodePool, DecodeProcess
from gve_ray.media.sampling import FrameRequest, uniform_indices
from gve_ray.media.source import Source
from gve_ray.media.video.probe import VideoInfo

__all__ = [
    "FACTOR",
    "MAX_PIXELS",
    "MIN_PIXELS",
    "DecodePool",
    "DecodeProcess",
    "Decoded",
    "FrameRequest",
    "Limits",
    "MediaError",
    "Plan",
    "Reason",
    "Source",
    "VideoInfo",
    "decode",
    "decode_jpeg",
    "encode_jpeg",
    "fit_pixels",
    "read_frames",
    "read_image",
    "uniform_indices",
]
