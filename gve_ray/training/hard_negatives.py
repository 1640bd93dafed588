"""Mine the hard negatives of a data set on all ranks, each of which embeds and searches a share.

    mined = mine_hard_negatives(prober, dataset, folder, config, seed=42) # called by every rank
    mined.of(rows)                                           # int32 [rows, k]: numbers of pairs

First the ranks embed a sample of the data set's distinct targets, which is the corpus. Then they embed the queries
and search the corpus. If there is a margin, they also embed the targets that are not in the corpus, to know the
score of each pair. The work is divided into chunks that do not depend on the number of ranks, and each chunk is
written to the shared folder as soon as it is done. So the result is the same for any number of ranks, and a run
that was killed repeats no finished chunk.

A rank holds the embeddings of the corpus (200,000 targets of 2,048 numbers take 1.6 GB), a few 8-byte ids per
pair, and the items of one chunk.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from pyarrow import fs

from gve_ray.progress import Progress
from gve_ray.schema import Item
from gve_ray.store import SharedFolder
from gve_ray.store.runfolder import fingerprint, write_atomically
from gve_ray.training.config import ProberConfig
from gve_ray.training.feed import Mined
from gve_ray.training.gather import barrier, gather_objects, rank, world_size
from gve_ray.training.mining import NONE, Corpus, mine
from gve_ray.training.mixture import DataSet
from gve_ray.training.pairs import PairIds
from gve_ray.training.schedule import hash_of

Embed = Callable[[Sequence[Item]], np.ndarray]

# Bounds of the size of a chunk, in items. Small data sets have small chunks, so that 64 ranks can share them.
_CHUNK = (64, 1024)
_CHUNKS = 64


def mine_hard_negatives(
    prober: Callable[[], tuple[str, Embed]],
    dataset: DataSet,
    folder: SharedFolder,
    config: ProberConfig,
    *,
    seed: int,
) -> Mined:
    """Mine the hardest `dataset.negatives` targets for each pair of the data set. Every rank must call it.

    prober: returns the name of the prober and its embed function (items -> unit-norm float32 [n, d]); called
    only if there is work to do. folder: the result is kept in it as `<dataset>.npy`, with a note about it in
    `<dataset>.mined.json`, and reused by the next call. In the meantime `mining-<dataset>/` has the finished chunks.
    Ranks wait for each other after every chunk.
    Raises ValueError if the pairs have changed since the result was written.
    """
    name, result = dataset.pairs.name, f"{dataset.pairs.name}.npy"
    work_name = f"mining-{name}"
    if not gather_objects(folder.exists(result))[0]:
        prober_name, embed = prober()
        job = _Job.of(dataset, config, seed=seed)
        work = folder.below(work_name).below(job.digest(prober_name))
        _mine_in_chunks(job, embed, work)
        if rank() == 0:
            in_order = _joined(work, "negatives", len(job.order), job.chunk)
            found = np.empty_like(in_order)
            found[job.order] = in_order
            note = {"prober": prober_name, "searched": len(job.corpus), "margin": job.margin}
            write_atomically(fs.LocalFileSystem(), f"{folder.path}/{_note(name)}", json.dumps(note).encode())
            folder.publish(_note(name))
            _write(folder, result, found)  # after the note, because it marks the data set as done
        barrier()
    _clear(folder, work_name)
    path = folder.fetch(result)
    rows = np.load(path, mmap_mode="r", allow_pickle=False)
    if rows.dtype != np.int32 or rows.shape != (len(dataset.pairs), dataset.negatives):
        raise ValueError(
            f"{path}: {rows.dtype} {list(rows.shape)}, but this data set has {len(dataset.pairs)} pairs with "
            f"{dataset.negatives} negatives each (int32); delete the file, and they will be mined again"
        )
    return Mined(path=path)


def mined_by(folder: SharedFolder, dataset: str) -> str:
    """Return the name of the prober with which `mine_hard_negatives` has mined a data set."""
    note = json.loads(folder.fetch(_note(dataset)).read_text())
    return str(note["prober"])


def _note(dataset: str) -> str:
    return f"{dataset}.mined.json"


@dataclass(frozen=True, kw_only=True, eq=False)
class _Job:
    """What is searched for which pairs. All arrays hold numbers of pairs.

    corpus: int64 [m], ascending, the pairs whose targets are searched. own: int64 [pairs], for each pair the
    first one with the same target. order: int64 [pairs], all pairs, with those of one target side by side, so
    that nearly all targets are embedded in one chunk only. chunk: items per chunk. k: negatives per pair.
    """

    dataset: DataSet
    ids: PairIds
    corpus: np.ndarray
    own: np.ndarray
    order: np.ndarray
    chunk: int
    k: int
    margin: float | None

    @classmethod
    def of(cls, dataset: DataSet, config: ProberConfig, *, seed: int) -> "_Job":
        ids = dataset.pairs.ids()
        _, first, number = np.unique(ids.targets, return_index=True, return_inverse=True)
        own = first[number]
        distinct = np.sort(first)
        if config.corpus < len(distinct):
            rng = np.random.default_rng(hash_of(seed, dataset.pairs.name, "corpus"))
            distinct = np.sort(rng.permutation(distinct)[: config.corpus])
        smallest, largest = _CHUNK
        return cls(
            dataset=dataset,
            ids=ids,
            corpus=distinct,
            own=own,
            order=np.argsort(own, kind="stable"),
            chunk=min(max(-(-len(own) // _CHUNKS), smallest), largest),
            k=dataset.negatives,
            margin=config.margin,
        )

    def digest(self, prober: str) -> str:
        """Identify everything that the chunks depend on, so that chunks of another job are not used."""
        settings = [prober, self.chunk, self.k, self.margin]
        digest = hashlib.sha256(fingerprint(settings).encode())
        for values in (self.corpus, self.ids.queries, self.ids.targets, self.ids.sources):
            digest.update(values.tobytes())
        return digest.hexdigest()[:16]

    def targets(self, rows: np.ndarray) -> list[Item]:
        """Return the targets of these pairs."""
        return [pair.target for pair in self.dataset.pairs.take(rows)]


def _mine_in_chunks(job: _Job, embed: Embed, work: SharedFolder) -> None:
    """Embed the corpus, then search it, until every chunk of both is in `work`."""
    name = job.dataset.pairs.name
    _share(f"embedding {name}", "targets", job, len(job.corpus), partial(_embed_targets, embed), work)
    corpus = Corpus(
        _joined(work, "targets", len(job.corpus), job.chunk),
        job.ids.sources[job.corpus],
        positives=(job.ids.queries, job.ids.sources),
    )
    search = partial(_search, embed, corpus)
    _share(f"mining {name}", "negatives", job, len(job.order), search, work)


def _embed_targets(embed: Embed, job: _Job, part: slice) -> np.ndarray:
    """Embed a part of the corpus: float32 [part, d]."""
    return np.asarray(embed(job.targets(job.corpus[part])), dtype=np.float32)


def _search(embed: Embed, corpus: Corpus, job: _Job, part: slice) -> np.ndarray:
    """Mine for a part of `job.order`: int32 [part, k], numbers of pairs."""
    rows = job.order[part]
    queries = embed([pair.query for pair in job.dataset.pairs.take(rows)])
    limits = None
    if job.margin is not None:
        limits = np.einsum("nd,nd->n", queries, _own_targets(embed, corpus, job, rows)) + job.margin
    near = mine(queries, job.ids.queries[rows], corpus, k=job.k, limits=limits)
    return np.where(near == NONE, NONE, job.corpus[near]).astype(np.int32)


def _own_targets(embed: Embed, corpus: Corpus, job: _Job, rows: np.ndarray) -> np.ndarray:
    """Return the embeddings of the targets of these pairs, float32 [rows, d]; only those not in the corpus
    are computed.
    """
    distinct, which = np.unique(job.own[rows], return_inverse=True)
    places = np.minimum(np.searchsorted(job.corpus, distinct), len(job.corpus) - 1)
    vectors = corpus.vectors[places]
    missing = job.corpus[places] != distinct
    if missing.any():
        vectors[missing] = embed(job.targets(distinct[missing]))
    return np.asarray(vectors[which])


def _share(
    label: str,
    kind: str,
    job: _Job,
    size: int,
    compute: Callable[[_Job, slice], np.ndarray],
    work: SharedFolder,
) -> None:
    """Compute the chunks of `size` rows that `work` lacks, in rounds of one chunk per rank.

    A barrier after each round bounds the time that a rank waits in a collective by the time of one chunk.
    """
    total = -(-size // job.chunk)
    present = set(gather_objects(work.names() if rank() == 0 else [])[0])  # the same list on all ranks
    missing = [at for at in range(total) if _file(kind, at) not in present]
    progress = Progress(label, total, unit="chunks", done=total - len(missing))
    for start in range(0, len(missing), world_size()):
        if start + rank() < len(missing):
            at = missing[start + rank()]
            begin = at * job.chunk
            _write(work, _file(kind, at), compute(job, slice(begin, min(begin + job.chunk, size))))
        barrier()
        progress.reach(min(total, total - len(missing) + start + world_size()))


def _file(kind: str, at: int) -> str:
    return f"{kind}-{at:06d}.npy"


def _write(folder: SharedFolder, name: str, values: np.ndarray) -> None:
    """Write an array in one atomic step and publish it."""
    folder.path.mkdir(parents=True, exist_ok=True)
    part = folder.path / f".{name}.{os.getpid()}.part"
    with part.open("wb") as file:
        np.save(file, values, allow_pickle=False)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, folder.path / name)
    folder.publish(name)


def _joined(work: SharedFolder, kind: str, size: int, chunk: int) -> np.ndarray:
    """Read all chunks of a kind into one array of `size` rows."""
    joined: np.ndarray | None = None
    for at in range(-(-size // chunk)):
        values = np.load(work.fetch(_file(kind, at)), allow_pickle=False)
        if joined is None:
            joined = np.empty((size, values.shape[1]), dtype=values.dtype)
        joined[at * chunk : at * chunk + len(values)] = values
    assert joined is not None
    return joined


def _clear(folder: SharedFolder, name: str) -> None:
    """Delete the chunks, on each node the local copies too."""
    if rank() == 0:
        folder.remove(name)
    elif not folder.is_local:
        shutil.rmtree(folder.path / name, ignore_errors=True)
