"""A child that crashes, hangs or uses too much memory harms neither its parent nor the next video."""

import io
import os
import pickle
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gve_ray.media import (
    DecodePool,
    DecodeProcess,
    FrameRequest,
    Limits,
    MediaError,
    Reason,
    decode,
    encode_jpeg,
    read_image,
)
from tests.media import plans
from tests.media.videos import picture, read_number

PLAN = [FrameRequest(k=3)]


@pytest.fixture(scope="module")
def process():
    with DecodeProcess(Limits(wall_clock_s=30.0)) as running:
        yield running


def pid(process: DecodeProcess) -> int:
    assert process._child is not None
    return process._child.pid


def test_it_gives_what_decode_gives_and_is_reused(make, process, tmp_path):
    path = tmp_path / "clip.mp4"
    path.write_bytes(make(frames=20))
    here = decode(path, PLAN)
    there = process.decode(path, PLAN)
    assert there.info == here.info
    assert there.content_hash == here.content_hash
    assert np.array_equal(there.samples[0].pixels, here.samples[0].pixels)
    first = pid(process)
    small = process.decode(make(frames=12), plans.halves, max_pixels=16 * 784)
    assert [[read_number(p) for p in frames.pixels] for frames in small.samples] == [[0, 6], [6, 11]]
    assert small.samples[0].pixels[0].size <= 16 * 784 * 3
    assert pid(process) == first


def test_refusals_cross_the_border(make, process):
    for data, reason in (
        (b"", "empty"),
        (b"no video at all" * 99, "not_a_video"),
        (make()[:2000], "truncated"),
    ):
        with pytest.raises(MediaError) as caught:
            process.decode(data, PLAN)
        assert caught.value.reason == reason
        assert caught.value.detail
    with pytest.raises(ValueError, match="start=70"):
        process.decode(make(), [FrameRequest(k=2, start=70.0)])
    with pytest.raises(LookupError, match="no such shot"):
        process.decode(make(), plans.refuse)


@pytest.mark.parametrize(
    "plan, how", [(plans.segfault, "SIGSEGV"), (plans.be_killed, "SIGKILL"), (plans.leave, "exit status 3")]
)
def test_a_crash_is_reported_and_the_next_video_decodes(make, process, plan, how):
    process.decode(make(), PLAN)
    before = pid(process)
    with pytest.raises(MediaError, match=how) as caught:
        process.decode(make(), plan)
    assert caught.value.reason == Reason.CRASHED
    assert not alive(before)
    assert [read_number(p) for p in process.decode(make(frames=5), PLAN).samples[0].pixels] == [0, 2, 4]
    assert pid(process) != before


def test_a_hang_is_killed_on_time_and_the_next_video_decodes(make, process):
    process.decode(make(), PLAN)
    before = pid(process)
    patience, process.limits = process.limits, Limits(wall_clock_s=0.1)
    started = time.monotonic()
    with pytest.raises(MediaError) as caught:
        process.decode(make(), plans.hang)
    process.limits = patience
    assert caught.value.reason == Reason.TIMEOUT
    assert time.monotonic() - started < 30  # plans.hang sleeps for 600
    assert not alive(before)
    assert process.decode(make(), PLAN).info.total_frames == 30


def test_memory_is_limited(make):
    with DecodeProcess(Limits(memory_bytes=1 << 30)) as process:
        with pytest.raises(MediaError) as caught:
            process.decode(make(), plans.eat_memory)
        assert caught.value.reason == Reason.OUT_OF_MEMORY
        assert process.decode(make(), PLAN).info.total_frames == 30


def test_a_child_killed_between_videos_is_replaced_silently(make, process):
    process.decode(make(), PLAN)
    os.kill(pid(process), 9)
    assert process._child is not None
    process._child.wait()
    assert process.decode(make(), PLAN).info.total_frames == 30


def test_what_the_child_prints_stays_out_of_the_pipe(make, process):
    assert process.decode(make(), plans.print_noise).info.total_frames == 30


def test_messages_larger_than_a_pipe_go_both_ways(make, process):
    data = make(frames=20, noise=40.0, width=420, height=336, options={"crf": "1"})
    assert len(data) > 1 << 20
    result = process.decode(data, [FrameRequest(k=20)], max_pixels=1600 * 784)
    assert sum(frames.pixels.nbytes for frames in result.samples) > 1 << 21
    assert [read_number(p) for p in result.samples[0].pixels] == list(range(20))


def test_close_leaves_no_process(make):
    process = DecodeProcess()
    process.decode(make(), PLAN)
    child = pid(process)
    process.close()
    process.close()
    assert not alive(child)


def test_a_child_whose_parent_was_killed_ends(make, tmp_path):
    path = tmp_path / "clip.mp4"
    path.write_bytes(make(frames=5))
    script = (
        "from gve_ray.media import DecodeProcess, FrameRequest\n"
        "process = DecodeProcess()\n"
        f"process.decode({str(path)!r}, [FrameRequest(k=2)])\n"
        "print(process._child.pid, flush=True)\n"
        "import time; time.sleep(600)\n"
    )
    env = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, env=env)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert alive(child)
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 30
    while alive(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(child)


def test_plans_must_be_importable(process):
    def local(info):
        return PLAN

    local.__module__ = "__main__"
    for plan in (local, partial(local)):
        with pytest.raises(ValueError, match="__main__"):
            process.decode(b"never opened", plan)


def still(number: int) -> bytes:
    return encode_jpeg(picture(number, 140, 112))


def test_a_picture_is_read_as_read_image_does(process):
    here = read_image(still(21), max_pixels=16 * 784)
    there = process.read_image(still(21), max_pixels=16 * 784)
    assert np.array_equal(there.pixels, here.pixels)
    assert (there.total_frames, there.fps, read_number(there.pixels[0])) == (1, 0.0, 21)
    with pytest.raises(MediaError) as caught:
        process.read_image(b"no picture")
    assert caught.value.reason == Reason.NOT_A_PICTURE


def test_a_child_killed_or_stuck_within_a_picture():
    with DecodeProcess(Limits(wall_clock_s=1.0)) as process:
        process.read_image(still(1))
        os.kill(pid(process), signal.SIGSTOP)  # it takes the request and does nothing
        timer = threading.Timer(0.2, os.kill, (pid(process), signal.SIGKILL))
        timer.start()
        assert read_number(process.read_image(still(2)).pixels[0]) == 2  # another child has read it
        os.kill(pid(process), signal.SIGSTOP)
        with pytest.raises(MediaError) as caught:
            process.read_image(still(4))
        assert caught.value.reason == Reason.TIMEOUT
        assert read_number(process.read_image(still(5)).pixels[0]) == 5


def test_a_picture_may_not_eat_all_memory():
    out = io.BytesIO()
    Image.new("RGB", (5700, 5700)).save(out, "PNG")  # 130 MB once decoded, and again as an array
    with DecodeProcess(Limits(memory_bytes=1 << 27)) as process:
        with pytest.raises(MediaError) as caught:
            process.read_image(out.getvalue())
        assert caught.value.reason == Reason.OUT_OF_MEMORY
        assert read_number(process.read_image(still(6)).pixels[0]) == 6


def test_a_pool_lends_each_process_to_one_thread_at_a_time():
    pool = DecodePool(Limits(), 2)
    with pool.lend() as first, pool.lend() as second:
        assert first is not second
        third = queue.SimpleQueue()

        def wait() -> None:
            with pool.lend() as process:
                third.put(process)

        thread = threading.Thread(target=wait)
        thread.start()
        with pytest.raises(queue.Empty):
            third.get(timeout=0.1)
    assert third.get(timeout=10) in (first, second)
    thread.join()
    with pool.lend() as process:
        process.read_image(still(7))
        child = pid(process)
        with suppress(ZeroDivisionError), pool.lend():
            raise ZeroDivisionError
    with pool.lend() as process:  # it is back, and the one in use goes first, for it has been started
        assert pid(process) == child
    pool.close()
    assert not alive(child)


def test_the_child_gets_no_keys_and_storage_only_if_it_reads_uris(make, monkeypatch):
    for name in ("GVE_API_KEY", "RAY_AUTH_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "secret")
    for reads_uris in (True, False):
        with (
            DecodeProcess(reads_uris=reads_uris) as process,
            pytest.raises(LookupError) as told,
        ):
            process.decode(make(frames=3), plans.tell_environment)
        names = str(told.value).strip("'").split()
        assert "PATH" in names
        assert not {"GVE_API_KEY", "RAY_AUTH_TOKEN", "WANDB_API_KEY"} & set(names)
        assert ("AWS_SECRET_ACCESS_KEY" in names) is reads_uris


def test_a_child_that_reads_no_uris_has_no_network(make):
    if not _may_leave_network():
        pytest.skip("this system does not allow a process to leave the network")
    with socket.create_server(("127.0.0.1", 0)) as server:
        plan = partial(plans.connect_to, server.getsockname()[1])
        with DecodeProcess() as process, pytest.raises(LookupError, match="connected"):
            process.decode(make(frames=3), plan)
        with DecodeProcess(reads_uris=False) as process:
            with pytest.raises(OSError, match=r"unreachable|refused"):
                process.decode(make(frames=3), plan)
            assert process.decode(make(frames=3), PLAN).info.total_frames == 3


def _may_leave_network() -> bool:
    code = "from gve_ray.media.sandbox import leave_network; raise SystemExit(not leave_network())"
    return subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_malformed_reply_is_a_crash_and_nothing_in_it_runs(make, process, monkeypatch, tmp_path):
    class Harmful:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "harm"),)

    with monkeypatch.context() as patch:
        patch.setattr(DecodeProcess, "_exchange", lambda *_: pickle.dumps((True, Harmful())))
        with pytest.raises(MediaError, match="malformed reply") as caught:
            process.decode(make(frames=3), PLAN)
    assert caught.value.reason == "crashed"
    assert not (tmp_path / "harm").exists()
    assert process.decode(make(frames=3), PLAN).info.total_frames == 3


def test_media_errors_survive_pickling():
    error = pickle.loads(pickle.dumps(MediaError("corrupt", "frame 3")))
    assert (error.reason, error.detail, str(error)) == (Reason.CORRUPT, "frame 3", "corrupt: frame 3")
    with pytest.raises(ValueError, match="sad"):
        MediaError("sad")


def alive(process_id: int) -> bool:
    """False once the process has ended, even if its parent has not waited for it yet."""
    try:
        state = Path(f"/proc/{process_id}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
