"""Dynamic batching: the composition of batches, errors, cancellation and the observer."""

import asyncio
import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from gve_ray.embedder import Embeddings
from gve_ray.schema import Frames, Item
from gve_ray.serving.batcher import Caller, TokenBatcher, estimated_tokens
from gve_ray.serving.errors import ApiError


class Engine:
    """A model whose vectors are the lengths of the texts.

    Every call sets `started` and waits for `go`.
    """

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.started, self.go = threading.Event(), threading.Event()

    def __call__(self, items: Sequence[Item]) -> Embeddings:
        self.calls.append([item.text or "" for item in items])
        self.started.set()
        assert self.go.wait(60)
        if any(item.text == "bad" for item in items):
            raise ValueError("bad text")
        if any(item.text == "broken" for item in items):
            raise RuntimeError("broken engine")
        lengths = np.array([len(item.text or "") for item in items])
        return Embeddings(vectors=lengths[:, None].astype(np.float32), tokens=lengths, cut=lengths > 99)


def items_of(*texts: str) -> list[Item]:
    return [Item(text=text) for text in texts]


def batcher_of(engine: Engine, **options: Any) -> TokenBatcher:
    """Return a batcher whose limits of waiting work are never reached, unless the options say otherwise."""
    return TokenBatcher(engine, **{"max_request_tokens": 10**6, "max_client_tokens": 10**7, **options})


async def start(
    batcher: TokenBatcher, engine: Engine, *requests: list[Item]
) -> list["asyncio.Task[Embeddings]"]:
    """Start requests: the first is in the model, and the others wait in order, when this returns."""
    tasks = []
    for items in requests:
        tasks.append(asyncio.create_task(batcher.embed(items)))
        await asyncio.sleep(0)  # the task runs until it waits for its result
        await asyncio.to_thread(engine.started.wait, 60)
    return tasks


def test_waiting_requests_form_batches_up_to_the_budget() -> None:
    async def scenario() -> None:
        engine = Engine()
        tokens = estimated_tokens(Item(text="bb"))
        batcher = batcher_of(engine, max_tokens=3 * tokens)
        tasks = await start(
            batcher,
            engine,
            items_of("a"),
            items_of("bb"),
            items_of("cc", "dd"),
            items_of("ee"),
            items_of("f" * 400),
        )
        assert engine.calls == [["a"]]  # at once, alone
        engine.go.set()
        results = [await task for task in tasks]
        # The smallest first, then in order; a single item may exceed the budget.
        assert engine.calls[1:] == [["bb", "ee", "cc"], ["f" * 400], ["dd"]]
        assert [result.tokens.tolist() for result in results] == [[1], [2], [2, 2], [2], [400]]
        assert [result.cut.tolist() for result in results] == [
            [False],
            [False],
            [False, False],
            [False],
            [True],
        ]

    asyncio.run(scenario())


class Observer:
    """Records what the batcher reports."""

    def __init__(self) -> None:
        self.waited: list[int] = []
        self.calls: list[int] = []

    def waiting(self, count: int) -> None:
        self.waited.append(count)

    def batch(self, tokens: int, seconds: float) -> None:
        assert seconds >= 0
        self.calls.append(tokens)


@pytest.mark.parametrize("bad", ["", "bad"])
def test_the_observer_sees_the_queue_and_each_call(bad: str) -> None:
    async def scenario() -> None:
        engine, observer = Engine(), Observer()
        batcher = batcher_of(engine, max_tokens=1000, observer=observer)
        tasks = await start(batcher, engine, items_of("a"), items_of("bb", "cc"), items_of(bad or "dd"))
        engine.go.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        tokens = estimated_tokens(Item(text="bb"))
        # The first request starts at once. The others wait for it, then form one batch, or one
        # batch each if that fails.
        assert observer.waited == [1, 0, 1, 2, 0, 0]
        last = estimated_tokens(Item(text=bad or "dd"))
        together = 2 * tokens + last
        assert observer.calls == [
            estimated_tokens(Item(text="a")),
            together,
            *([last, 2 * tokens] if bad else []),
        ]

    asyncio.run(scenario())


def test_a_large_request_is_split_and_shares_a_batch() -> None:
    async def scenario() -> None:
        engine = Engine()
        batcher = batcher_of(engine, max_tokens=2 * estimated_tokens(Item(text="bb")))
        large, small = await start(batcher, engine, items_of("a1", "a2", "a3", "a4", "a5"), items_of("b1"))
        engine.go.set()
        assert (await large).tokens.tolist() == [2] * 5
        assert (await large).vectors.shape == (5, 1)
        assert (await small).tokens.tolist() == [2]
        assert engine.calls == [["a1", "a2"], ["b1", "a3"], ["a4", "a5"]]

    asyncio.run(scenario())


def test_a_small_request_waits_for_few_batches_behind_many_large_ones() -> None:
    """Each item of the 20 large requests fills a batch; one of them is in the model."""

    async def scenario() -> None:
        engine = Engine()
        batcher = batcher_of(engine, max_tokens=estimated_tokens(Item(text="b" * 300)))
        large = [items_of(*[chr(ord("A") + i) * 300] * 3) for i in range(20)]
        tasks = await start(batcher, engine, *large, items_of("a red ball"))
        engine.go.set()
        await asyncio.gather(*tasks)
        texts = [call[0][0] for call in engine.calls]
        assert texts.index("a") == 1
        assert sorted(texts) == sorted(["a", *(chr(ord("A") + i) for i in range(20) for _ in range(3))])

    asyncio.run(scenario())


def test_a_stream_of_small_requests_does_not_stop_a_large_one() -> None:
    """Two small requests always wait, but every second batch is for whoever waits longest."""

    async def scenario() -> None:
        engine = Engine()
        engine.go.set()
        batcher = batcher_of(engine, max_tokens=estimated_tokens(Item(text="a")))
        large = asyncio.create_task(batcher.embed(items_of("L" * 300, "L" * 300)))

        async def small() -> None:
            while not large.done():
                await batcher.embed(items_of("s"))

        await asyncio.wait_for(asyncio.gather(large, small(), small()), 60)

    asyncio.run(scenario())


class GatedEngine(Engine):
    """A model in which a batch with a text that begins with the letter of a gate waits for that gate."""

    def __init__(self, *letters: str) -> None:
        super().__init__()
        self.go.set()
        self.gates = {letter: threading.Event() for letter in letters}

    def __call__(self, items: Sequence[Item]) -> Embeddings:
        self.started.set()
        for letter in {(item.text or "")[0] for item in items} & set(self.gates):
            assert self.gates[letter].wait(60)
        return super().__call__(items)


@pytest.mark.parametrize("is_thread_safe", [True, False])
def test_short_requests_do_not_wait_for_a_large_batch_if_the_model_is_thread_safe(
    is_thread_safe: bool,
) -> None:
    async def scenario() -> None:
        engine = GatedEngine("L")
        batcher = batcher_of(engine, max_tokens=1000, is_thread_safe=is_thread_safe)
        large, middle, short = await start(
            batcher, engine, items_of("L" * 3000), items_of("m" * 300), items_of("short")
        )
        if is_thread_safe:
            assert (await asyncio.wait_for(short, 60)).tokens.tolist() == [5]
            assert (await batcher.embed(items_of("again"))).tokens.tolist() == [5]
        assert not large.done()
        assert not middle.done()
        engine.gates["L"].set()
        await asyncio.gather(large, middle, short)
        assert len(engine.calls) == (4 if is_thread_safe else 2)

    asyncio.run(scenario())


def test_a_request_whose_last_items_overtake_the_others_has_its_vectors_in_order() -> None:
    """Some items of short requests are in a batch with a large text; a second thread embeds the rest meanwhile."""

    async def scenario() -> None:
        engine = GatedEngine("A", "B", "s")
        tokens = estimated_tokens(Item(text="123"))
        batcher = batcher_of(engine, max_tokens=48 * tokens, is_thread_safe=True)
        short = [items_of("1", "12", "123") for _ in range(40)]
        large = [items_of(letter * 3 * 30 * tokens) for letter in "AB"]
        tasks = await start(batcher, engine, large[0], items_of("s"), large[1], *short)
        engine.gates["A"].set()
        await tasks[0]
        engine.gates["s"].set()
        done, _ = await asyncio.wait(tasks[3:], timeout=60, return_when=asyncio.FIRST_COMPLETED)
        while not any(call == ["123"] * len(call) for call in engine.calls):
            await asyncio.sleep(0.01)
        assert done
        assert not tasks[2].done()
        engine.gates["B"].set()
        results = await asyncio.gather(*tasks)
        assert [result.tokens.tolist() for result in results[3:]] == [[1, 2, 3]] * 40

    asyncio.run(scenario())


def test_limits_of_the_work_that_waits() -> None:
    async def scenario() -> None:
        engine, tokens = Engine(), estimated_tokens(Item(text="aa"))
        batcher = batcher_of(
            engine, max_tokens=1000, max_request_tokens=3 * tokens, max_client_tokens=4 * tokens
        )
        waiting = [asyncio.create_task(batcher.embed(items_of("aa", "bb", "cc"), Caller(client="first")))]
        await asyncio.sleep(0)
        for request, client, status, number in (
            (["aa"] * 4, "second", 413, f"{4 * tokens} tokens; the limit is {3 * tokens}"),
            (["aa"] * 2, "first", 429, f"{3 * tokens} tokens and this one {2 * tokens}; the limit is {4 * tokens}"),
        ):  # fmt: skip
            with pytest.raises(ApiError, match=number) as refused:
                await batcher.embed(items_of(*request), Caller(client=client))
            assert refused.value.status == status
        waiting += [
            asyncio.create_task(batcher.embed(items_of("dd"), Caller(client=client)))
            for client in ("first", "second")
        ]
        engine.go.set()
        await asyncio.gather(*waiting)
        await batcher.embed(items_of("aa", "bb"), Caller(client="first"))  # its earlier requests are answered

    asyncio.run(scenario())


def test_a_request_that_cannot_be_done_by_its_deadline_is_refused_at_once() -> None:
    """One batch has shown that the model embeds at most about 20,000 tokens a second."""

    def slow(items: Sequence[Item]) -> Embeddings:
        time.sleep(0.05)
        zeros = np.zeros(len(items))
        return Embeddings(vectors=zeros[:, None], tokens=zeros, cut=zeros > 0)

    async def scenario() -> None:
        batcher = TokenBatcher(slow, max_tokens=1000, max_request_tokens=10**9, max_client_tokens=10**9)
        text = items_of("a" * 3000)
        soon = Caller(deadline=time.time() + 30)
        await batcher.embed(text, soon)
        running = asyncio.create_task(batcher.embed(text * 3, soon))
        await asyncio.sleep(0)  # the task runs until it waits for its result
        with pytest.raises(ApiError, match="s left") as refused:
            await batcher.embed(text * 1000, soon)  # a million tokens: 50 s or more
        assert refused.value.status == 503
        assert refused.value.retry_after is not None
        await batcher.embed(text, soon)
        await running
        # The model is free, so even a request that will be late is admitted, and measures the rate.
        await batcher.embed(text, Caller(deadline=time.time()))

    asyncio.run(scenario())


@pytest.mark.parametrize("bad,error", [("bad", ValueError), ("broken", RuntimeError)])
def test_a_bad_request_fails_alone(bad: str, error: type[Exception]) -> None:
    async def scenario() -> None:
        engine = Engine()
        batcher = batcher_of(engine, max_tokens=1000)
        tasks = await start(
            batcher, engine, items_of("a"), items_of("ok"), items_of("good", bad), items_of("fine")
        )
        engine.go.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(result) for result in results] == [Embeddings, Embeddings, error, Embeddings]
        assert results[3].tokens.tolist() == [4]

    asyncio.run(scenario())


def test_an_error_of_the_engine_does_not_affect_the_next_request() -> None:
    async def scenario() -> None:
        engine = Engine()
        engine.go.set()
        batcher = batcher_of(engine, max_tokens=1000)
        with pytest.raises(RuntimeError, match="broken engine"):
            await batcher.embed(items_of("broken"))
        assert (await batcher.embed(items_of("ok"))).tokens.tolist() == [2]

    asyncio.run(scenario())


def test_cancelled_requests_are_not_embedded() -> None:
    async def scenario() -> None:
        engine = Engine()
        batcher = batcher_of(engine, max_tokens=1000)
        first, cancelled, last = await start(
            batcher, engine, items_of("a"), items_of("bb", "b" * 9000), items_of("ccc")
        )
        cancelled.cancel()
        await asyncio.sleep(0)  # the cancelled task ends
        engine.go.set()
        await asyncio.gather(first, last)
        assert engine.calls == [["a"], ["ccc"]]

    asyncio.run(scenario())


def test_the_estimate_counts_visual_tokens() -> None:
    def frames(count: int) -> Frames:
        zeros = np.zeros(count)
        return Frames(
            pixels=np.zeros((count, 56, 84, 3), np.uint8), timestamps=zeros, indices=zeros.astype(int),
            fps=1, duration=count, total_frames=count,
        )  # fmt: skip

    text = estimated_tokens(Item(text="a" * 30))
    assert estimated_tokens(Item(text="a" * 30, image=frames(1))) - text == 2 * 3
    assert estimated_tokens(Item(text="a" * 30, video=frames(8))) - text == 2 * 3 * 4
