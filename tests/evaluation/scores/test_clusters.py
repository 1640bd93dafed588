"""Queries that share videos, images or positives are joined, also across data sets."""

from gve_ray.evaluation.data.eval_sets import EvalSet
from gve_ray.evaluation.data.retrieval_set import RetrievalSet
from gve_ray.evaluation.scores.clusters import join_queries, shared_content
from gve_ray.schema import Item


def data_set(
    name: str,
    queries: list[Item],
    corpus: dict[str, Item],
    positives: list[set[str]],
    *,
    is_classification: bool = False,
) -> EvalSet:
    ids = [f"q{i}" for i in range(len(queries))]
    data = RetrievalSet(
        name=name,
        query_ids=ids,
        queries=queries,
        corpus_ids=list(corpus),
        corpus=list(corpus.values()),
        positives={key: frozenset(ids) for key, ids in zip(ids, positives, strict=True)},
        candidates=None,
        skipped=[],
    )
    return EvalSet(
        data=data,
        metric="hit@1",
        queries=queries,
        query_keys=ids,
        corpus_keys=[f"key of {item.text}" for item in corpus.values()],
        is_classification=is_classification,
    )


def digest(path: str) -> str:
    """Files are named FOLDER/CONTENT."""
    return path.partition("/")[2]


def clusters(*sets: EvalSet) -> dict[str, list[int]]:
    shared = {each.data.name: shared_content(each, digest) for each in sets}
    return {name: numbers.tolist() for name, numbers in join_queries(shared).items()}


TEXT = Item(text="words")


def test_queries_are_joined_by_content() -> None:
    """The files of two data sets have other names and the same content."""
    first = data_set(
        "first",
        [TEXT] * 4,
        {"a": Item(video="1/x"), "b": Item(video="1/y"), "c": Item(video="1/z")},
        [{"a"}, {"b"}, {"a"}, {"c"}],
    )
    second = data_set(
        "second",
        [Item(image="2/still"), Item(video="2/z"), TEXT],
        {"k": Item(video="2/y"), "l": Item(text="a text", video="2/w")},
        [{"k"}, {"l"}, {"l"}],
    )
    # Joined: 0 and 2 by x; 1 and second's 0 by y; second's 1 with 3 by its own video z, and with 2 by w.
    assert clusters(first, second) == {"first": [0, 1, 0, 2], "second": [1, 2, 2]}
    assert clusters(second) == {"second": [0, 1, 1]}


def test_joins_are_transitive_and_texts_count_by_item() -> None:
    corpus = {"a": Item(text="one"), "b": Item(text="two"), "c": Item(text="three")}
    chain = data_set("chain", [TEXT] * 4, corpus, [{"a"}, {"c"}, {"a", "b"}, {"b", "c"}])
    assert clusters(chain) == {"chain": [0, 0, 0, 0]}
    apart = data_set("apart", [TEXT] * 3, corpus, [{"a"}, {"b"}, {"c"}])
    assert clusters(apart) == {"apart": [0, 1, 2]}


def test_videos_of_one_class_are_independent() -> None:
    videos = [Item(video="1/x"), Item(video="1/y"), Item(video="2/x")]
    corpus = {"runs": Item(text="runs"), "jumps": Item(text="jumps")}
    labels = [{"runs"}, {"runs"}, {"jumps"}]
    assert clusters(data_set("set", videos, corpus, labels, is_classification=True)) == {"set": [0, 1, 0]}
    assert clusters(data_set("set", videos, corpus, labels)) == {"set": [0, 0, 0]}


def test_long_chains() -> None:
    n = 5000
    joined = join_queries({"chain": [{i, i + 1} for i in range(n)]})
    assert set(joined["chain"]) == {0}
