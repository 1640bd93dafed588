"""Write defective files like those on the web: truncated, overwritten, rotated, or no video at all.

Each file shows the defect that the function's name promises when FFmpeg decodes it. Where this
depends on the content (the position of a cut, the bytes that are overwritten), the functions decode
the file and increase the damage until the defect shows, so that the ground truth of a corpus is
correct.
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
_SHORTER = 0.85  # factor on the kept share of a file after a cut that lost no frame
_MATRICES = {  # 3x3 display matrices (a, b, u, c, d, v) for a clockwise turn by the player, 16.16 and 2.30
    90: (0, 1, 0, -1, 0, 0),
    180: (-1, 0, 0, 0, -1, 0),
    270: (0, -1, 0, 1, 0, 0),
}


def count_intact_frames(path: Path) -> int | None:
    """Return the number of frames of a file that decodes to the end without errors, or None if any
    is damaged.
    """
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
    """Rewrite an mp4 file with its index (moov) before its data (mdat), as for streaming."""
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
    """Keep the first `share` (0 to 1) of the file's bytes, or less, until fewer than `frames`
    frames decode.

    Returns the share that was kept.
    """
    whole = path.read_bytes()
    while True:
        path.write_bytes(whole[: int(share * len(whole))])
        left = count_intact_frames(path)
        if left is None or left < frames:
            return share
        share *= _SHORTER


def overwrite_middle(path: Path, rng: np.random.Generator, *, frames: int) -> int:
    """Overwrite the middle packets of the video stream with random bytes until fewer than `frames`
    frames decode.

    Returns the number of overwritten bytes.
    """
    with av.open(str(path)) as container:
        packets = [(p.pos, p.pos + p.size) for p in container.demux(video=0) if p.size and p.pos is not None]
    whole = path.read_bytes()
    for part in (0.15, 0.25, 0.35, 0.5):
        first, last = (int(len(packets) * (0.5 + side * part)) for side in (-1, 1))
        start, end = packets[first][0], packets[min(last, len(packets) - 1)][1]
        noise = rng.integers(0, 256, end - start, dtype=np.uint8).tobytes()
        path.write_bytes(whole[:start] + noise + whole[end:])
        left = count_intact_frames(path)
        if left is None or left < frames:
            return end - start
    raise RuntimeError(f"{path.name}: still decodes with half of its packets overwritten; check the decoder")


def write_no_frames(path: Path, *, fps: float, width: int, height: int) -> None:
    """Write an mp4 file with a video stream that has no frames."""
    # A fragmented file lists its streams before any frame; a plain mp4 file drops a stream that
    # stays empty.
    with av.open(str(path), "w", options={"movflags": "empty_moov+frag_keyframe"}) as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        container.start_encoding()


def write_audio_only(path: Path, *, seconds: float, pitch: float) -> None:
    """Write an mp4 file with AAC audio (a tone of `pitch` Hz) and no video stream."""
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
    """Write a file of another type (`NOT_A_VIDEO`) under the name of a video.

    picture: uint8 [H, W, 3], the content of the file if it is an image. Raises ValueError if `what`
    is unknown.
    """
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
                info = zipfile.ZipInfo("video.mp4")  # has a fixed date, so the bytes are reproducible
                archive.writestr(info, rng.randbytes(rng.randint(2_000, 20_000)))
            path.write_bytes(data.getvalue())
        case _:
            raise ValueError(f"what={what!r}: expected one of {', '.join(NOT_A_VIDEO)}")


def set_display_rotation(path: Path, degrees: int, *, stored_width: int, stored_height: int) -> None:
    """Set the display matrix of an mp4 file, so that players rotate the stored pictures clockwise.

    degrees: 90, 180 or 270. The stored pictures do not change. Raises ValueError if the file does
    not have a track header of version 0, as `encode_mp4` writes it.
    """
    data = bytearray(path.read_bytes())
    header = data.find(b"tkhd")
    if header < 0 or data[header + 4] != 0:
        raise ValueError(f"{path.name}: no version 0 track header; write the file with encode_mp4")
    a, b, u, c, d, v = _MATRICES[degrees]
    # The translation moves the corner of the rotated picture to (0, 0).
    x, y = {90: (stored_height, 0), 180: (stored_width, stored_height), 270: (0, stored_width)}[degrees]
    matrix = struct.pack(">9i", a << 16, b << 16, u, c << 16, d << 16, v, x << 16, y << 16, 1 << 30)
    # A version 0 header: type, version and flags, five 4-byte fields of times and ids, 16 more
    # bytes, the matrix.
    offset = header + 4 + 4 + 20 + 16
    data[offset : offset + 36] = matrix
    path.write_bytes(bytes(data))
