"""Cases about files that are odd but intact, and files that are broken: padded units, indices that
omit key pictures or list too many, damage, encryption, codecs without a decoder, single frames."""

import struct
from collections.abc import Callable, Iterator
from functools import partial

from tests.media.matrix import isobmff, matroska
from tests.media.matrix.films import Film, remux, render
from tests.media.matrix.judge import Case
from tests.media.matrix.plain import film_in, shown

_ZEROS = (4, *range(8, 16), 100, 1000)
_START_CODE = b"\0\0\0\x01"
_END_OF_SEQUENCE = {"h264": _START_CODE + b"\x0a", "hevc": _START_CODE + b"\x48\x01"}
_NO_KEY = frozenset({"encrypted", "unsupported_codec", "corrupt"})
_KEY = {"encryption_key": "00112233445566778899aabbccddeeff", "encryption_kid": "0123456789abcdef" * 2}


def cases() -> Iterator[Case]:
    yield from _padding()
    yield from _holes()
    yield from _sync_tables()
    yield from _matroska_indices()
    yield from _avi_indices()
    yield from _encryption()
    yield from _unknown_codecs()
    yield from _single_frames()


# Units (NAL) with a length field of 4 bytes in front of each.


def _units(packet: bytes) -> list[bytes]:
    units, at = [], 0
    while at < len(packet):
        (length,) = struct.unpack_from(">I", packet, at)
        units.append(packet[at + 4 : at + 4 + length])
        at += 4 + length
    return units


def _packet(units: list[bytes]) -> bytes:
    return b"".join(struct.pack(">I", len(unit)) + unit for unit in units)


def _pad_each(zeros: int, number: int, packet: bytes) -> bytes:
    return _packet([unit + bytes(zeros) for unit in _units(packet)])


def _pad_last(zeros: int, number: int, packet: bytes) -> bytes:
    *units, last = _units(packet)
    return _packet([*units, last + bytes(zeros)])


def _pad_to_16(number: int, packet: bytes) -> bytes:
    """As hardware encoders of phones do."""
    return _packet([unit + bytes(-(len(unit) + 4) % 16) for unit in _units(packet)])


def _end_sequences(ending: bytes, before: frozenset[int], number: int, packet: bytes) -> bytes:
    """An end of sequence within the last unit of each packet in front of one of `before`."""
    *units, last = _units(packet)
    return _packet([*units, last + ending if number + 1 in before else last])


def _byte_stream(start_code: bytes, number: int, packet: bytes) -> bytes:
    """All units of the packet in one, with start codes between them."""
    return _packet([start_code.join(_units(packet))])


def _hole(hit: int, number: int, packet: bytes) -> bytes:
    """Zeros over the second half of one picture."""
    if number != hit:
        return packet
    *units, last = _units(packet)
    return _packet([*units, last[: len(last) // 2] + bytes(len(last) - len(last) // 2)])


def _changed(film: Film, change: Callable[[int, bytes], bytes]) -> bytes:
    """The film with its packets changed. Length fields are those of MP4, whichever container it is for."""
    lengths = render(film.but(container="mp4", muxer={}))
    return remux(lengths, film.container, change=change, muxer=film.muxer)


def _padding() -> Iterator[Case]:
    for container, codecs in (
        ("mp4", "h264 h264-b h264-slices h264-open hevc hevc-closed"),
        ("matroska", "h264-b hevc"),
        ("mov", "h264"),
        ("mp4-fragments", "h264"),
    ):
        for codec in codecs.split():
            film = film_in(container, codec)
            changes: dict[str, Callable[[int, bytes], bytes]] = {
                "units padded to 16 bytes": _pad_to_16,
                "units after 4-byte start codes": partial(_byte_stream, _START_CODE),
                "units after 3-byte start codes": partial(_byte_stream, _START_CODE[1:]),
            }
            for zeros in _ZEROS:
                changes[f"{zeros} zeros after each unit"] = partial(_pad_each, zeros)
                changes[f"{zeros} zeros after each picture"] = partial(_pad_last, zeros)
            ending = _END_OF_SEQUENCE[codec.split("-")[0]]
            changes["end of sequence at the end"] = partial(_end_sequences, ending, frozenset({film.frames}))
            if codec in ("h264", "h264-slices"):  # in the others, pictures refer to the group before
                keys = frozenset(range(0, film.frames + 1, 10))
                changes["end of sequence in front of key pictures"] = partial(_end_sequences, ending, keys)
            for name, change in changes.items():
                yield Case(
                    name=f"{container}/{codec}/{name}",
                    make=partial(_changed, film, change),
                    answers=shown(film),
                )


def _holes() -> Iterator[Case]:
    for container, codecs in (
        ("mp4", "h264 h264-b h264-slices hevc hevc-closed"),
        ("matroska", "h264 hevc"),
        ("mp4-fragments", "h264-b"),
    ):
        for codec in codecs.split():
            film = film_in(container, codec, noise=20.0)
            for number in (0, 10, 11, 23, 39):
                yield Case(
                    name=f"{container}/{codec}/hole in picture {number}",
                    make=partial(_changed, film, partial(_hole, number)),
                    answers=shown(film),
                    refusals=frozenset({"corrupt"}),
                    damaged=True,
                )


_TABLES: dict[str, Callable[[list[int], int], list[int] | None]] = {
    "every second key picture missing": lambda keys, samples: keys[::2],
    "only the first key picture listed": lambda keys, samples: keys[:1],
    "the first key picture missing": lambda keys, samples: keys[1:],
    "the last key picture missing": lambda keys, samples: keys[:-1],
    "pictures listed that are no key": lambda keys, samples: sorted({*keys, *range(5, samples, 7)}),
    "all listed": lambda keys, samples: list(range(samples)),
    "others listed": lambda keys, samples: [0, *(key + 2 for key in keys if key + 2 < samples)],
    "empty": lambda keys, samples: [],
    "no table": lambda keys, samples: None,
}


def _sync_tables() -> Iterator[Case]:
    for container, codecs in (
        ("mp4", "h264 h264-b h264-open hevc hevc-closed hevc-p vp9 av1 mpeg4 mpeg4-b"),
        ("mov", "h264-b hevc"),
    ):
        for codec in codecs.split():
            film = film_in(container, codec, frames=60)
            for name, choose in _TABLES.items():
                yield Case(
                    name=f"{container}/{codec}/sync table: {name}",
                    make=partial(_edited, film, isobmff.with_sync_samples(choose)),
                    answers=shown(film),
                )
            make = partial(_edited, film, isobmff.with_long_offsets)
            yield Case(name=f"{container}/{codec}/64-bit offsets", make=make, answers=shown(film))


def _edited(film: Film, *changes: isobmff.Change) -> bytes:
    return isobmff.edit(render(film), *changes)


def _matroska_indices() -> Iterator[Case]:
    changes: dict[str, matroska.Change] = {
        "no cues": matroska.without_cues,
        "cues half a second late": matroska.with_shifted_cues(0.5),
        "cues half a second early": matroska.with_shifted_cues(-0.5),
        "cues an hour late": matroska.with_shifted_cues(3600),
        "all cues to the first cluster": matroska.with_cues_to_one_cluster(0),
        "all cues to the last cluster": matroska.with_cues_to_one_cluster(-1),
        "no key flags": matroska.with_key_flags(lambda number, key: False),
        "first key flag only": matroska.with_key_flags(lambda number, key: number == 0),
        "all key flags": matroska.with_key_flags(lambda number, key: True),
    }
    for container, codecs in (("matroska", "h264 h264-b hevc hevc-p mpeg4-b av1"), ("webm", "vp8 vp9")):
        for codec in codecs.split():
            # Clusters of half a second, so that a reader has several to seek to.
            film = film_in(container, codec, frames=60, muxer={"cluster_time_limit": "500"})
            for name, change in changes.items():
                make = partial(_rewritten, film, change)
                yield Case(name=f"{container}/{codec}/{name}", make=make, answers=shown(film))


def _rewritten(film: Film, change: matroska.Change) -> bytes:
    return matroska.edit(render(film), change)


def _avi_indices() -> Iterator[Case]:
    for codec in ("mpeg4", "mpeg4-b", "h264", "mjpeg"):
        film = film_in("avi", codec)
        for name, change in (
            ("no index", _without_avi_index),
            ("index without key flags", partial(_with_avi_flags, 0)),
            ("index with key flags only", partial(_with_avi_flags, 0x10)),
        ):
            make = partial(_avi, film, change)
            yield Case(name=f"avi/{codec}/{name}", make=make, answers=shown(film))


def _avi(film: Film, change: Callable[[bytes], bytes]) -> bytes:
    return change(render(film))


def _without_avi_index(data: bytes) -> bytes:
    at = data.rindex(b"idx1")
    return b"RIFF" + struct.pack("<I", at - 8) + data[8:at]


def _with_avi_flags(flags: int, data: bytes) -> bytes:
    start = data.rindex(b"idx1") + 8
    (size,) = struct.unpack_from("<I", data, start - 4)
    index = bytearray(data[start : start + size])
    for at in range(4, size, 16):
        struct.pack_into("<I", index, at, flags)
    return data[:start] + bytes(index) + data[start + size :]


def _encryption() -> Iterator[Case]:
    options = {"encryption_scheme": "cenc-aes-ctr"} | _KEY
    for container, codec in (("mp4", "h264"), ("mp4", "h264-b"), ("mp4", "hevc"), ("mov", "h264")):
        film = film_in(container, codec, noise=20.0, muxer=options)
        make = partial(render, film)
        yield Case(name=f"{container}/{codec}/encrypted", make=make, refusals=_NO_KEY)
    for tag in (b"encv", b"drmi"):
        film = film_in("mp4", "h264")
        make = partial(_edited, film, isobmff.with_codec_tag(tag))
        yield Case(name=f"mp4/h264/codec tag {tag.decode()}", make=make, refusals=_NO_KEY)
    for container, codec in (("matroska", "h264"), ("webm", "vp9"), ("webm", "vp8"), ("matroska", "hevc")):
        film = film_in(container, codec)
        make = partial(_rewritten, film, matroska.encrypted)
        yield Case(name=f"{container}/{codec}/encrypted", make=make, refusals=_NO_KEY)
    for codec in ("h264", "hevc", "mpeg2"):
        make = partial(_scrambled, film_in("ts", codec))
        refusals = _NO_KEY | {"no_video_stream", "not_a_video"}
        yield Case(name=f"ts/{codec}/scrambled", make=make, refusals=refusals)


def _scrambled(film: Film) -> bytes:
    """The transport stream as a receiver without the key records it: payloads scrambled and marked so."""
    data = bytearray(render(film))
    for at in range(0, len(data), 188):
        pid = int.from_bytes(data[at + 1 : at + 3], "big") & 0x1FFF
        if pid != 0x100:  # the picture's, in FFmpeg's files
            continue
        control = data[at + 3]
        data[at + 3] = control & 0x3F | 0x80
        start = at + 4 + (1 + data[at + 4] if control & 0x20 else 0)
        data[start : at + 188] = bytes(
            byte ^ (0x5A + i * 37 & 0xFF) for i, byte in enumerate(data[start : at + 188])
        )
    return bytes(data)


def _unknown_codecs() -> Iterator[Case]:
    refusals = frozenset({"unsupported_codec"})
    for container, codec in (("mp4", "h264"), ("mov", "hevc"), ("mp4-fragments", "h264-b")):
        for tag in (b"dav1", b"zzzz", b"\0\0\0\0"):
            film = film_in(container, codec)
            make = partial(_edited, film, isobmff.with_codec_tag(tag))
            name = tag.decode() if tag.strip(b"\0") else "of zeros"
            yield Case(name=f"{container}/{codec}/codec tag {name}", make=make, refusals=refusals)
    for container, codec in (("matroska", "h264"), ("webm", "vp9")):
        make = partial(_rewritten, film_in(container, codec), matroska.with_codec(b"V_SOMETHING"))
        yield Case(name=f"{container}/{codec}/codec unknown", make=make, refusals=refusals)
    make = partial(_avi, film_in("avi", "mpeg4"), lambda data: data.replace(b"FMP4", b"ZZZZ"))
    yield Case(name="avi/mpeg4/codec unknown", make=make, refusals=refusals)


def _single_frames() -> Iterator[Case]:
    for container, codec in (
        ("mp4", "h264"), ("mp4", "hevc"), ("mov", "prores"), ("mp4-fragments", "h264"), ("matroska", "h264"),
        ("webm", "vp9"), ("webm", "vp8"), ("ts", "h264"), ("ts", "mpeg2"), ("avi", "mjpeg"), ("flv", "flv1"),
        ("ogg", "vp8"), ("gif", "gif"), ("apng", "apng"),
    ):  # fmt: skip
        film = film_in(container, codec, frames=1, noise=0.0 if codec == "gif" else 20.0)
        make = partial(render, film)
        # An APNG of one frame is an ordinary picture.
        refusals = frozenset({"too_few_frames", "not_a_video"} if codec == "apng" else {"too_few_frames"})
        yield Case(name=f"{container}/{codec}/one frame", make=make, refusals=refusals)
    film = film_in("mp4", "h264")
    make = partial(_edited, film, isobmff.with_edits((0.4, 0.04)))
    yield Case(name="mp4/h264/edit list: one frame", make=make, refusals=frozenset({"too_few_frames"}))
