"""The mp4s of moments: made once, kept within the budget of the disk, refused with a reason."""

import asyncio
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from gve_ray.media import Limits
from gve_ray.serving.cutter import CutFile, Cutter
from gve_ray.serving.errors import ApiError
from tests.media.videos import Clip, render

LARGE = 1 << 30  # bytes


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("films") / "a film.mp4"
    path.write_bytes(render(Clip(frames=60)))
    return str(path)


@pytest.fixture
def cutters() -> Iterator[list[Cutter]]:
    made: list[Cutter] = []
    yield made
    for cutter in made:
        cutter.close()


async def cut(cutter: Cutter, film: str, start: float, end: float) -> CutFile:
    return await cutter.cut(film, start, end, fingerprint="f00d", name=Path(film).name)


def test_a_moment_is_cut_once(film: str, cutters: list[Cutter]) -> None:
    async def scenario() -> None:
        cutter = Cutter(Limits(), max_seconds=10.0, max_bytes=LARGE)
        cutters.append(cutter)
        first, second, other = await asyncio.gather(
            cut(cutter, film, 1.0, 2.0), cut(cutter, film, 1.0, 2.0), cut(cutter, film, 1.0, 3.0)
        )
        assert first is second
        assert first.tag != other.tag
        assert first.path.name == "a film 0.00.01-0.00.02.mp4"
        assert first.path.stat().st_size == first.size
        abandoned, waiting = (asyncio.ensure_future(cut(cutter, film, 2.0, 3.0)) for _ in range(2))
        await asyncio.sleep(0)
        abandoned.cancel()
        assert (await waiting).path.is_file()
        assert abandoned.cancelled()
        cutter.close()
        assert not first.path.exists()

    asyncio.run(scenario())


def test_the_files_that_were_used_last_are_kept(film: str, cutters: list[Cutter]) -> None:
    async def scenario() -> None:
        probe = Cutter(Limits(), max_seconds=10.0, max_bytes=LARGE)
        cutters.append(probe)
        sizes = [(await cut(probe, film, start, start + 1.0)).size for start in (0.0, 1.0, 2.0)]
        cutter = Cutter(Limits(), max_seconds=10.0, max_bytes=sum(sizes) - 1)
        cutters.append(cutter)
        first, second = await cut(cutter, film, 0.0, 1.0), await cut(cutter, film, 1.0, 2.0)
        await cut(cutter, film, 0.0, 1.0)
        third = await cut(cutter, film, 2.0, 3.0)
        assert [made.path.exists() for made in (first, second, third)] == [True, False, True]
        assert (await cut(cutter, film, 1.0, 2.0)).path.is_file()  # made again

    asyncio.run(scenario())


def test_a_moment_that_is_too_long_or_cannot_be_cut(film: str, cutters: list[Cutter], tmp_path: Path) -> None:
    async def scenario() -> None:
        cutter = Cutter(Limits(), max_seconds=2.0, max_bytes=1500)
        cutters.append(cutter)

        async def refusal(source: str, end: float) -> tuple[int, str | None, str]:
            with pytest.raises(ApiError) as caught:
                await cut(cutter, source, 0.0, end)
            return caught.value.status, caught.value.code, caught.value.message

        assert await refusal(film, 2.5) == (
            413, "moment_too_long", "this moment is 2.5 s long; the limit is 2 s: download the whole file",
        )  # fmt: skip
        status, code, message = await refusal(film, 2.0)
        assert (status, code) == (413, "too_large")
        assert message == "no moment can be cut out: more than 1500 bytes; download the whole file"
        broken = tmp_path / "broken.mp4"
        broken.write_bytes(b"no film")
        assert (await refusal(str(broken), 1.0))[:2] == (422, "corrupt")
        broken.write_bytes(Path(film).read_bytes())  # a failure is not kept
        assert (await cut(cutter, str(broken), 0.0, 0.1)).path.is_file()

    asyncio.run(scenario())


def test_the_files_of_killed_processes_are_deleted(
    cutters: list[Cutter], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in (f"gve-moments-{ended.pid}-a", f"gve-moments-{os.getpid()}-b", "gve-moments-other"):
        (tmp_path / name / "moment").mkdir(parents=True)
    cutters.append(Cutter(Limits(), max_seconds=1.0, max_bytes=LARGE))
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names[-1] == "gve-moments-other"
    assert [name.startswith(f"gve-moments-{os.getpid()}-") for name in names] == [True, True, False]
