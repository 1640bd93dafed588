"""Dynamic batching: what goes together, who is told what, and that nobody waits for the clock."""

import asyncio
import threading
from collections.abc import Sequence

import numpy as np
import pytest

from gve_ray.embedder import Embeddings
from gve_ray.schema import Frames, Item
from gve_ray.serving.batcher import TokenBatcher, estimated_tokens


class Engine:
    """A vector is the length of the text. Every call waits for `go`."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.go = threading.Event()

    def __call__(self, items: Sequence[Item]) -> Embeddings:
        self.calls.append([item.text or "" for item in items])
        assert self.go.wait(30)
        if any(item.text == "bad" for item in items):
            raise ValueError("bad text")
        if any(item.text == "broken" for item in items):
            raise RuntimeError("broken engine")
        lengths = np.array([len(item.text or "") for item in items])
        return Embeddings(vectors=lengths[:, None].astype(np.float32), tokens=lengths, cut=lengths > 99)


def words(*texts: str) -> list[Item]:
    return [Item(text=text) for text in texts]


async def begun(batcher: TokenBatcher, *requests: list[Item]) -> list["asyncio.Task[Embeddings]"]:
    """Requests that wait, in order."""
    tasks = []
    for items in requests:
        tasks.append(asyncio.create_task(batcher.embed(items)))
        await asyncio.sleep(0.02)
    return tasks


def test_what_waits_goes_together_up_to_the_budget() -> None:
    async def scenario() -> None:
        engine = Engine()
        one = estimated_tokens(Item(text="bb"))
        batcher = TokenBatcher(engine, max_tokens=3 * one)
        tasks = await begun(
            batcher, words("a"), words("bb"), words("cc", "dd"), words("ee"), words("f" * 400)
        )
        assert engine.calls == [["a"]]  # at once, alone
        engine.go.set()
        found = [await task for task in tasks]
        # In order; one item may be above the budget.
        assert engine.calls[1:] == [["bb", "cc", "dd"], ["ee"], ["f" * 400]]
        assert [one.tokens.tolist() for one in found] == [[1], [2], [2, 2], [2], [400]]
        assert [one.cut.tolist() for one in found] == [[False], [False], [False, False], [False], [True]]

    asyncio.run(scenario())


class Watch:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.waited: list[int] = []
        self.calls: list[int] = []

    def waiting(self, count: int) -> None:
        self.waited.append(count)

    def batch(self, tokens: int, seconds: float) -> None:
        assert 0 <= seconds < 30
        self.calls.append(tokens)


@pytest.mark.parametrize("bad", ["", "bad"])
def test_who_watches_sees_the_queue_and_each_call(bad: str) -> None:
    async def scenario() -> None:
        engine, watch = Engine(), Watch()
        batcher = TokenBatcher(engine, max_tokens=1000, observer=watch)
        tasks = await begun(batcher, words("a"), words("bb", "cc"), words(bad or "dd"))
        engine.go.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        one = estimated_tokens(Item(text="bb"))
        # The first goes at once; the others wait until it is done, then go together, and alone if that fails.
        assert watch.waited == [1, 0, 1, 2, 0, 0]
        last = estimated_tokens(Item(text=bad or "dd"))
        together = 2 * one + last
        assert watch.calls == [estimated_tokens(Item(text="a")), together, *([2 * one, last] if bad else [])]

    asyncio.run(scenario())


def test_a_large_request_is_divided_and_lets_others_in() -> None:
    async def scenario() -> None:
        engine = Engine()
        batcher = TokenBatcher(engine, max_tokens=2 * estimated_tokens(Item(text="bb")))
        many, one = await begun(batcher, words("a1", "a2", "a3", "a4", "a5"), words("b1"))
        engine.go.set()
        assert (await many).tokens.tolist() == [2] * 5
        assert (await many).vectors.shape == (5, 1)
        assert (await one).tokens.tolist() == [2]
        assert engine.calls == [["a1", "a2"], ["a3", "a4"], ["a5", "b1"]]

    asyncio.run(scenario())


@pytest.mark.parametrize("bad,error", [("bad", ValueError), ("broken", RuntimeError)])
def test_a_bad_request_fails_alone(bad: str, error: type[Exception]) -> None:
    async def scenario() -> None:
        engine = Engine()
        batcher = TokenBatcher(engine, max_tokens=1000)
        tasks = await begun(batcher, words("a"), words("ok"), words("good", bad), words("fine"))
        engine.go.set()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(one) for one in found] == [Embeddings, Embeddings, error, Embeddings]
        assert found[3].tokens.tolist() == [4]

    asyncio.run(scenario())


def test_a_broken_engine_is_tried_again_for_the_next() -> None:
    async def scenario() -> None:
        engine = Engine()
        engine.go.set()
        batcher = TokenBatcher(engine, max_tokens=1000)
        with pytest.raises(RuntimeError, match="broken engine"):
            await batcher.embed(words("broken"))
        assert (await batcher.embed(words("ok"))).tokens.tolist() == [2]

    asyncio.run(scenario())


def test_who_gives_up_costs_nothing() -> None:
    async def scenario() -> None:
        engine = Engine()
        batcher = TokenBatcher(engine, max_tokens=1000)
        first, given_up, last = await begun(batcher, words("a"), words("bb", "b" * 9000), words("ccc"))
        given_up.cancel()
        await asyncio.sleep(0)
        engine.go.set()
        await asyncio.gather(first, last)
        assert engine.calls == [["a"], ["ccc"]]

    asyncio.run(scenario())


def test_the_estimate_counts_what_is_seen() -> None:
    def frames(count: int) -> Frames:
        zeros = np.zeros(count)
        return Frames(
            pixels=np.zeros((count, 56, 84, 3), np.uint8), timestamps=zeros, indices=zeros.astype(int),
            fps=1, duration=count, total_frames=count,
        )  # fmt: skip

    text = estimated_tokens(Item(text="a" * 30))
    assert estimated_tokens(Item(text="a" * 30, image=frames(1))) - text == 2 * 3
    assert estimated_tokens(Item(text="a" * 30, video=frames(8))) - text == 2 * 3 * 4
