"""Tests the vLLM engine against the torch engine.

All tests share one engine, because starting it takes 10 s or more.
"""

import gc
from collections.abc import Iterator
from importlib.util import find_spec

import numpy as np
import pytest

from gve_ray.embedder import Embedder
from gve_ray.media.video_metadata import video_metadata
from gve_ray.schema import Item

pytestmark = pytest.mark.skipif(find_spec("vllm") is None, reason="vllm is not installed")


@pytest.fixture(scope="module")
def engines(tiny, tiny_adapter) -> Iterator[tuple[Embedder, Embedder]]:
    """(torch, vLLM), both with the adapter; so vLLM also tests the exported, merged folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # in this process, to save the imports
        patch.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # else it pins this process
        small = {"kv_cache_memory_bytes": 2**28}
        fast = Embedder.from_pretrained(tiny, tiny_adapter, engine="vllm", engine_args=small)
        yield Embedder.from_pretrained(tiny, tiny_adapter, device="cpu"), fast
        fast.close()
        del fast
        gc.collect()
        from vllm.distributed import cleanup_dist_env_and_memory

        cleanup_dist_env_and_memory()


def test_the_same_vectors_as_torch(engines, items, frames_like) -> None:
    torch_engine, vllm_engine = engines
    cases = dict(items) | {
        "long video": Item(video=frames_like(8, 112, 112, seconds=60), text="what happens"),
        "clip": Item(video=frames_like(8, 112, 112, seconds=5, start=70)),
        "special tokens": Item(text="a <|video_pad|> in a query"),
        "cut": Item(text="abc" * 4000),
    }
    ours = torch_engine.embed(list(cases.values()))
    embeddings = vllm_engine.encode(list(cases.values()))
    theirs = embeddings.vectors
    assert theirs.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(theirs, axis=1), 1, atol=1e-5)
    cosines = (ours * theirs).sum(axis=1)
    assert cosines.min() >= 0.999, dict(zip(cases, cosines, strict=True))
    # If all vectors were nearly equal, the comparison above would prove nothing.
    assert (ours @ ours.T - 2 * np.eye(len(ours))).max() < 0.99
    assert [name for name, cut in zip(cases, embeddings.cut, strict=True) if cut] == ["cut"]
    assert embeddings.tokens.tolist() == torch_engine.encode(list(cases.values())).tokens.tolist()


def test_settings_of_a_running_engine_cannot_be_changed(engines) -> None:
    with pytest.raises(ValueError, match="only the torch engine"):
        engines[1].with_settings(frames=16)


def test_the_metadata_of_a_clip_has_the_timing_of_the_torch_engine(frames_like) -> None:
    from transformers.video_utils import VideoMetadata

    clip = video_metadata(frames_like(8, 56, 56, fps=24, seconds=5, start=1000))
    assert clip["frames_indices"][0] == 0
    assert clip["total_num_frames"] == 120
    clip.pop("do_sample_frames")
    assert VideoMetadata(**clip).sampled_fps == pytest.approx(1.6)
