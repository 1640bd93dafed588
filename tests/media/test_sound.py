"""The sound of videos is read in pieces, without loss, at the times of the file."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from gve_ray.media import DecodeProcess, Limits, MediaError
from gve_ray.media.sound import RATE, Sound, read_sound
from tests.media.tones import Spoken, hear, write_speaking

SPOKEN = [(1.0, 2.0, "treasure"), (4.5, 5.5, "island"), (8.0, 9.5, "parrot"), (14.0, 15.0, "lantern")]


def pieces_of(source: str | bytes, seconds: float) -> list[Sound]:
    with DecodeProcess() as process:
        pieces = [process.read_sound(source, seconds=seconds)]
        while pieces[-1].following is not None:
            pieces.append(process.read_sound(source, start=pieces[-1].following, seconds=seconds))
    return pieces


def heard(pieces: list[Sound]) -> list[Spoken]:
    return [
        (piece.start + start, piece.start + end, word)
        for piece in pieces
        for start, end, word in hear(piece.samples, RATE)
    ]


def close(spoken: list[Spoken], expected: list[Spoken]) -> None:
    assert [word for *_, word in spoken] == [word for *_, word in expected]
    assert np.array([span for *span, _ in spoken]) == pytest.approx(
        np.array([span for *span, _ in expected]), abs=0.11
    )


@pytest.mark.parametrize(
    "name,options",
    [
        ("a.mp4", {}),
        ("a.mkv", {"codec": "libopus", "rate": 48_000}),
        ("a.mov", {"codec": "pcm_s16le", "rate": 8_000, "layout": "mono"}),
        ("a.ts", {"codec": "mp2", "rate": 32_000}),
        ("late.mp4", {"begin": 0.7}),
        ("gap.mkv", {"silent": [(2.2, 4.3), (5.7, 7.8)]}),
    ],
)
def test_all_pieces_together_have_all_words_at_their_times(tmp_path: Path, name: str, options: dict) -> None:
    path = write_speaking(tmp_path / name, 17.0, SPOKEN, **options)
    # The clock of MPEG-TS does not begin at 0.
    whole = read_sound(path, seconds=100.0, limits=Limits())
    shift = whole.start - options.get("begin", 0.0) if name == "a.ts" else 0.0
    expected = [(start + shift, end + shift, word) for start, end, word in SPOKEN]
    assert whole.following is None
    close(heard([whole]), expected)
    pieces = pieces_of(path, 6.0)
    assert len(pieces) >= 3
    assert max(len(piece.samples) for piece in pieces) <= 6.0 * RATE
    close(heard(pieces), expected)
    for piece, after in pairwise(pieces):
        assert after.start >= piece.start + len(piece.samples) / RATE - 0.05


def test_a_piece_ends_where_it_is_quiet(tmp_path: Path) -> None:
    """The word from 4.5 to 5.5 s is not cut, although a piece of 5 s would end in it."""
    path = write_speaking(tmp_path / "a.mp4", 17.0, SPOKEN)
    first = pieces_of(path, 5.0)[0]
    assert 2.5 <= len(first.samples) / RATE <= 4.55


def test_a_long_gap_ends_a_piece(tmp_path: Path) -> None:
    path = write_speaking(
        tmp_path / "a.mkv", 42.0, [(1.0, 2.0, "treasure"), (40.0, 41.0, "island")], silent=[(3.0, 39.0)]
    )
    first, second = pieces_of(path, 100.0)
    assert len(first.samples) / RATE == pytest.approx(3.0, abs=0.1)
    assert first.following == second.start == pytest.approx(39.0, abs=0.1)
    close(heard([first, second]), [(1.0, 2.0, "treasure"), (40.0, 41.0, "island")])


def test_damage_and_files_without_sound(tmp_path: Path) -> None:
    path = Path(write_speaking(tmp_path / "a.mkv", 10.0, SPOKEN[:3]))
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 200] = bytes(200)
    words = [word for *_, word in heard(pieces_of(bytes(data), 100.0))]
    assert words[0] == "treasure"
    with pytest.raises(MediaError, match="sound: "):
        read_sound(b"no video at all", seconds=10.0, limits=Limits())
    from tests.media.videos import Clip, render

    silent = read_sound(render(Clip()), seconds=10.0, limits=Limits())
    assert (len(silent.samples), silent.following) == (0, None)


def test_a_piece_as_a_file() -> None:
    import io
    import wave

    samples = np.array([0, 1, -1, 2**15 - 1, -(2**15)], np.int16)
    with wave.open(io.BytesIO(Sound(start=1.0, samples=samples, following=None).as_wav())) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, RATE)
        assert file.readframes(10) == samples.astype("<i2").tobytes()
