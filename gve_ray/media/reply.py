"""The form in which a decoding process answers: JSON and raw arrays, which cannot execute code.

    data = encode_result(decoded)      # or encode_error(error)
    decode_reply(data)                 # returns the result, or raises the error

A file that takes over the decoder controls what the decoder sends. A reply can therefore hold only
the types that are listed here; anything else raises MalformedReplyError.
"""

import builtins
import dataclasses
import json
import math
import struct
from typing import Any

import numpy as np

from gve_ray.media.decode import Decoded
from gve_ray.media.limits import MediaError
from gve_ray.media.sound import Sound
from gve_ray.media.video.cut import Cut
from gve_ray.media.video.probe import VideoInfo
from gve_ray.schema import Frames

_CLASSES = {cls.__name__: cls for cls in (Cut, Decoded, Frames, Sound, VideoInfo)}
_DTYPES = ("uint8", "int16", "int64", "float64")
_ERRORS = (
    "AttributeError",
    "FileNotFoundError",
    "ImportError",
    "IndexError",
    "IsADirectoryError",
    "KeyError",
    "LookupError",
    "MemoryError",
    "NotImplementedError",
    "OSError",
    "PermissionError",
    "RuntimeError",
    "TypeError",
    "ValueError",
    "ZeroDivisionError",
)
_SIZE = struct.Struct("<Q")  # length of the JSON part, before it


class MalformedReplyError(Exception):
    """A reply that no decoding process of this package sends."""


def encode_result(value: Any) -> bytes:
    """Encode a result: dataclasses of this module's list, arrays, lists, tuples, and JSON's values."""
    arrays: list[np.ndarray] = []
    header = json.dumps({"result": _plain(value, arrays)}).encode()
    return b"".join(
        [_SIZE.pack(len(header)), header, *(np.ascontiguousarray(array).data for array in arrays)]
    )


def encode_error(error: Exception) -> bytes:
    """Encode an exception; one of a class that is not listed becomes a RuntimeError with its name."""
    if isinstance(error, MediaError):
        fields: dict[str, Any] = {"class": "MediaError", "arguments": [str(error.reason), error.detail]}
    elif type(error).__name__ in _ERRORS:
        arguments = error.args if all(isinstance(part, str | int) for part in error.args) else (str(error),)
        if isinstance(error, OSError) and error.errno is not None:
            arguments = (error.errno, error.strerror, *([str(error.filename)] if error.filename else ()))
        fields = {"class": type(error).__name__, "arguments": list(arguments)}
    else:
        fields = {"class": "RuntimeError", "arguments": [f"{type(error).__name__}: {error}"]}
    header = json.dumps({"error": fields}).encode()
    return _SIZE.pack(len(header)) + header


def decode_reply(data: bytes) -> Any:
    """Return the result in a reply, or raise the error in it. Raises MalformedReplyError for other bytes."""
    buffer = bytearray(data)  # arrays can be written to
    try:
        (size,) = _SIZE.unpack_from(buffer)
        header = json.loads(buffer[_SIZE.size : _SIZE.size + size])
        if "error" in header:
            error = _error(header["error"]["class"], header["error"]["arguments"])
        else:
            return _value(header["result"], buffer, _SIZE.size + size)
    except (ValueError, TypeError, KeyError, AttributeError, struct.error, RecursionError) as fault:
        raise MalformedReplyError(f"{type(fault).__name__}: {fault}") from None
    try:
        raise error
    finally:
        # The traceback refers to this frame, which would refer to the error: such a circle, with the bytes of a
        # file in the frames of the callers, lasts until the garbage collector runs.
        del error


def _error(name: str, arguments: list[Any]) -> Exception:
    if name == "MediaError":
        return MediaError(*arguments)
    if name not in _ERRORS:
        raise ValueError(f"class {name!r}")
    error: Exception = getattr(builtins, name)(*arguments)
    return error


def _plain(value: Any, arrays: list[np.ndarray]) -> Any:
    """Return what JSON can hold; arrays are added to the list, and the place of each is noted."""
    if isinstance(value, np.ndarray):
        start = sum(array.nbytes for array in arrays)
        arrays.append(value)
        return {"array": value.dtype.name, "shape": value.shape, "start": start}
    if dataclasses.is_dataclass(value) and type(value).__name__ in _CLASSES:
        fields = {
            field.name: _plain(getattr(value, field.name), arrays) for field in dataclasses.fields(value)
        }
        return {"class": type(value).__name__, "fields": fields}
    if isinstance(value, tuple):
        return {"tuple": [_plain(part, arrays) for part in value]}
    if isinstance(value, list):
        return [_plain(part, arrays) for part in value]
    return value.item() if isinstance(value, np.generic) else value


def _value(plain: Any, buffer: bytearray, start: int) -> Any:
    if isinstance(plain, list):
        return [_value(part, buffer, start) for part in plain]
    if not isinstance(plain, dict):
        return plain
    if "array" in plain:
        if plain["array"] not in _DTYPES:
            raise ValueError(f"dtype {plain['array']!r}")
        shape, offset = tuple(plain["shape"]), plain["start"]
        if not all(isinstance(number, int) and number >= 0 for number in (*shape, offset)):
            raise ValueError(f"shape {shape}, start {offset!r}")
        count = math.prod(shape)
        return np.frombuffer(buffer, plain["array"], count=count, offset=start + offset).reshape(shape)
    if "tuple" in plain:
        return tuple(_value(part, buffer, start) for part in plain["tuple"])
    fields = {name: _value(part, buffer, start) for name, part in plain["fields"].items()}
    return _CLASSES[plain["class"]](**fields)
