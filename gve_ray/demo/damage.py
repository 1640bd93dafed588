"""Files as the web has them: cut short, overwritten, rotated by metadata, or no video at all.

Every function leaves a file that behaves as its name says under FFmpeg; where that depends on the
content (where a cut falls, what random bytes hit), it is checked here and the damage made worse until
it holds, so that the truth of a corpus is true.
"""

import io
import random
import struct
import zipfile
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.error import FFmpegError

NOT_A_VIDEO = ("text", "html", "png", "zip")
CUT_LAYOUTS = ("moov last", "moov first")
TURNS = (90, 180, 270)
_WORSE = 0.85  # a cut that did no harm is made at this share of its place
_MATRICES = {  # 3x3 display matrices (a, b, u, c, d, v) for a clockwise turn by the player, 16.16 and 2.30
    90: (0, 1, 0, -1, 0, 0),
    180: (-1, 0, 0, 0, -1, 0),
    270: (0, -1, 0, 1, 0, 0),
}


def sound_frames(path: Path) -> int | None:
    """Number of frames of a file that decodes without complaint to the end; None if any is damaged."""
    count = 0
    try:
        with av.open(str(path)) as container:
            for frame in container.decode(video=0):
                if frame.is_corrupt:
                    return None
                count += 1
    except (FFmpegError, IndexError):  # IndexError: no video stream
        return None
    return count


def move_index_first(path: Path) -> None:
    """Rewrite an mp4 with its index (moov) before its data (mdat), as for streaming."""
    source = path.rename(path.with_suffix(".moov-last.mp4"))
    with (
        av.open(str(source)) as old,
        av.open(str(path), "w", options={"movflags": "faststart"}) as new,
    ):
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            if packet.dts is not None:  # the last packet of a demuxer is an empty flush
                packet.stream = stream
                new.mux(packet)
    source.unlink()


def cut(path: Path, share: float, *, frames: int) -> float:
    """Keep that share (0 to 1) of the file's bytes, less while all `frames` frames still decode.

    Returns the share kept.
    """
    whole = path.read_bytes()
    while True:
        path.write_bytes(whole[: int(share * len(whole))])
        left = sound_frames(path)
        if left is None or left < frames:
            return share
        share *= _WORSE


def overwrite_middle(path: Path, rng: np.random.Generator, *, frames: int) -> int:
    """Put random bytes over the middle packets of the video stream, more while `frames` frames still decode.

    Returns the number of bytes overwritten.
    """
    with av.open(str(path)) as container:
        packets = [(p.pos, p.pos + p.size) for p in container.demux(video=0) if p.size and p.pos is not None]
    whole = path.read_bytes()
    for part in (0.15, 0.25, 0.35, 0.5):
        first, last = (int(len(packets) * (0.5 + side * part)) for side in (-1, 1))
        start, end = packets[first][0], packets[min(last, len(packets) - 1)][1]
        noise = rng.integers(0, 256, end - start, dtype=np.uint8).tobytes()
        path.write_bytes(whole[:start] + noise + whole[end:])
        left = sound_frames(path)
        if left is None or left < frames:
            return end - start
    raise RuntimeError(f"{path.name}: still decodes with every packet overwritten; check the decoder")


def write_no_frames(path: Path, *, fps: float, width: int, height: int) -> None:
    """An mp4 with a video stream and no frames."""
    # A fragmented file lists its streams before any frame; a plain one drops a stream that stays empty.
    with av.open(str(path), "w", options={"movflags": "empty_moov+frag_keyframe"}) as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        container.start_encoding()


def write_sound_only(path: Path, *, seconds: float, pitch: float) -> None:
    """An mp4 with AAC sound (a tone of `pitch` Hz) and no video stream."""
    rate = 16_000
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=rate, layout="mono")
        wave = 0.3 * np.sin(2 * np.pi * pitch * np.arange(int(rate * seconds)) / rate)
        for start in range(0, len(wave), 1024):
            block = wave[None, start : start + 1024].astype(np.float32)  # [channels, samples]
            frame = av.AudioFrame.from_ndarray(block, format="fltp", layout="mono")
            frame.sample_rate, frame.pts = rate, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def write_not_a_video(path: Path, what: str, picture: np.ndarray, rng: random.Random) -> None:
    """Something else under a video's name. picture: uint8 [H, W, 3], what the image shows."""
    match what:
        case "text":
            path.write_text("".join(f"{i:04d} {rng.random():.6f}\n" for i in range(rng.randint(40, 400))))
        case "html":
            path.write_text(
                "<!DOCTYPE html>\n<html><head><title>404 Not Found</title></head>\n<body><h1>Not Found</h1>"
                f"<p>The requested video {rng.randint(1000, 99999)} was removed.</p></body></html>\n"
            )
        case "png":
            from PIL import Image

            Image.fromarray(picture).save(path, format="PNG")
        case "zip":
            data = io.BytesIO()
            with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
                info = zipfile.ZipInfo("video.mp4")  # a fixed date: the same bytes every time
                archive.writestr(info, rng.randbytes(rng.randint(2_000, 20_000)))
            path.write_bytes(data.getvalue())
        case _:
            raise ValueError(f"what={what!r}: expected one of {', '.join(NOT_A_VIDEO)}")


def turn(path: Path, degrees: int, *, stored_width: int, stored_height: int) -> None:
    """Set the display matrix of an mp4's video track: the player turns the pictures clockwise.

    degrees: 90, 180 or 270. The stored pictures stay as they are. Raises ValueError if the file has no
    track header as our encoder writes it.
    """
    data = bytearray(path.read_bytes())
    at = data.find(b"tkhd")
    if at < 0 or data[at + 4] != 0:
        raise ValueError(f"{path.name}: no version 0 track header; write it with encode_mp4")
    a, b, u, c, d, v = _MATRICES[degrees]
    # Where the turned picture's corner lands, so that it is shown from (0, 0).
    x, y = {90: (stored_height, 0), 180: (stored_width, stored_height), 270: (0, stored_width)}[degrees]
    matrix = struct.pack(">9i", a << 16, b << 16, u, c << 16, d << 16, v, x << 16, y << 16, 1 << 30)
    # Version 0: type, version and flags, five 4-byte fields of times and ids, 16 more bytes, the matrix.
    offset = at + 4 + 4 + 20 + 16
    data[offset : offset + 36] = matrix
    path.write_bytes(bytes(data))
