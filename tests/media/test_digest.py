"""Stamps change when a local or remote file is written again."""

import hashlib
from pathlib import Path

import fsspec
import pytest

from gve_ray.media.digest import UNREADABLE, media_digest, media_stamp


def test_a_stamp_changes_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "odd %20 ü.mp4"
    assert media_stamp(str(path)) == UNREADABLE
    path.write_bytes(b"one")
    before = media_stamp(str(path))
    assert media_stamp(path.as_uri()) == media_stamp(str(path)) == before
    path.write_bytes(b"other")
    assert media_stamp(str(path)) not in (before, UNREADABLE)


def test_a_stamp_of_a_uri() -> None:
    files = fsspec.filesystem("memory")
    assert media_stamp("memory://clips/none.mp4") == UNREADABLE
    files.pipe("/clips/stamped.mp4", b"one")
    before = media_stamp("memory://clips/stamped.mp4")
    assert before == media_stamp("memory://clips/stamped.mp4")
    files.pipe("/clips/stamped.mp4", b"other")
    assert media_stamp("memory://clips/stamped.mp4") not in (before, UNREADABLE)


@pytest.mark.parametrize("path", ["foo://clips/a.mp4", "/nul\0in/it.mp4", "file:///nul%00in/it.mp4"])
def test_what_is_no_path_is_unreadable(path: str) -> None:
    assert media_stamp(path) == UNREADABLE
    assert media_digest(path) == hashlib.sha256(b"name\0" + path.encode()).hexdigest()


def test_a_scheme_whose_client_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(uri: str) -> None:
        raise ImportError(f"install what {uri} needs")

    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    assert media_stamp("github://some/clip.mp4") == UNREADABLE
