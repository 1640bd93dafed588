import hashlib
import os

import fsspec
import pytest

from gve_ray.media import FrameRequest, Limits, MediaError, decode, read_frames
from tests.media.videos import read_number


@pytest.fixture
def clip(make) -> bytes:
    return make(frames=12)


def test_path_uri_and_bytes_give_the_same_video(clip, tmp_path):
    path = tmp_path / "odd name %20 : ü.mp4"
    path.write_bytes(clip)
    fsspec.filesystem("memory").pipe("/clips/a.mp4", clip)
    results = [
        decode(source, [FrameRequest(k=4)])
        for source in (clip, path, str(path), path.as_uri(), "memory://clips/a.mp4")
    ]
    for result in results:
        assert result.content_hash == hashlib.sha256(clip).hexdigest()
        assert [read_number(p) for p in result.samples[0].pixels] == [0, 4, 7, 11]
        assert result.info == results[0].info


def test_pyarrow_file_systems_are_used(clip, tmp_path):
    (tmp_path / "a.mp4").write_bytes(clip)
    # a scheme with a query is pyarrow's own spelling; file:// with a host-less path goes the local
    # way
    frames = read_frames(f"file://{tmp_path}/a.mp4", k=2)
    assert frames.indices.tolist() == [0, 11]


@pytest.mark.parametrize("strict", [True, False])
def test_a_name_that_is_not_utf8_is_read_by_its_uri(clip, tmp_path, strict):
    for name, data in ((b"caf\xe9.mp4", clip), (b"bad\xe9.mp4", clip[:200])):
        with open(os.fsencode(tmp_path) + b"/" + name, "wb") as file:
            file.write(data)
    decoded = decode(f"file://{tmp_path}/caf%E9.mp4", [FrameRequest(k=4)], strict=strict)
    assert [read_number(p) for p in decoded.samples[0].pixels] == [0, 4, 7, 11]
    for name in ("bad%E9.mp4", "gone%E9.mp4"):
        with pytest.raises(MediaError) as caught:
            decode(f"file://{tmp_path}/{name}", [FrameRequest(k=4)], strict=strict)
        assert name in str(caught.value)
        str(caught.value).encode()  # or no table of rejects could hold it


@pytest.mark.parametrize("source", ["/nowhere/at/all.mp4", "memory://no/such.mp4", "nosuchscheme://x/y.mp4"])
def test_what_cannot_be_fetched_is_unreadable(source):
    with pytest.raises(MediaError) as caught:
        decode(source, [FrameRequest(k=2)])
    assert caught.value.reason == "unreadable"
    assert source.rsplit("/", 1)[-1] in caught.value.detail


@pytest.mark.parametrize("remote", [False, True])
def test_size_limits_hold_before_anything_is_decoded(clip, remote):
    fsspec.filesystem("memory").pipe("/big.mp4", clip)
    with pytest.raises(MediaError) as caught:
        decode("memory://big.mp4" if remote else clip, [FrameRequest(k=2)], limits=Limits(max_bytes=1000))
    assert caught.value.reason == "too_large"


def test_an_asset_reference_needs_a_store():
    with pytest.raises(ValueError, match="AssetReader"):
        read_frames("asset://abc/video")
