"""Embed the videos of a folder and find those that match a text, an image, a clip or a mix.

    python examples/embed_and_search.py                                   # renders twelve small videos
    python examples/embed_and_search.py FOLDER "a red ball rolls to the left"
    python examples/embed_and_search.py FOLDER "the same, at night" --image street.jpg --model Alibaba-NLP/GVE-3B

Everything runs in this process, without Ray and without a service. The default model ships with the
package and knows only rendered videos of moving shapes; name a real one for real videos. For more
videos than fit into memory, and to search moments of long videos, use `gve index`.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gve_ray.demo.retrieval import write_heldout
from gve_ray.embedder import Embedder
from gve_ray.inputs.listing import find_videos
from gve_ray.schema import Item
from gve_ray.search import exact

TINY = "package://demo/tiny_vl/model"
TINY_ADAPTER = "package://demo/tiny_vl/adapter"


def embed_videos(embedder: Embedder, videos: Sequence[str]) -> np.ndarray:
    """Return a unit vector for each video, float32 [n, d]."""
    return embedder.embed([Item(video=path) for path in videos], progress=True)


def search(
    embedder: Embedder, query: Item, videos: Sequence[str], vectors: np.ndarray, *, k: int = 5
) -> list[tuple[str, float]]:
    """Return the k best videos for a query, best first, each with its cosine.

    vectors: of the videos, float32 [n, d].
    """
    rows, scores = exact(embedder.embed([query]), vectors, min(k, len(videos)))
    return [(videos[row], float(score)) for row, score in zip(rows[0], scores[0], strict=True)]


def main(args: Sequence[str] | None = None) -> None:
    """Parse the arguments, embed, search, and print the hits."""
    parser = argparse.ArgumentParser(description="Embed the videos of a folder and search them.")
    parser.add_argument("folder", nargs="?", help="default: twelve rendered videos")
    parser.add_argument("text", nargs="?")
    parser.add_argument("--image")
    parser.add_argument("--video")
    parser.add_argument("--model", default=TINY, help="a folder or hub id (default: the packaged tiny model)")
    parser.add_argument("--adapter")
    options = parser.parse_args(args)
    adapter = TINY_ADAPTER if options.model == TINY else options.adapter
    embedder = Embedder.from_pretrained(options.model, adapter)
    with tempfile.TemporaryDirectory() as scratch:
        if options.folder is None:
            rendered = write_heldout(Path(scratch, "videos"), n=12, seed=11, workers=1)
            videos, query = rendered.videos, rendered.queries["fine"][3]
        else:
            videos = find_videos(options.folder)
            query = Item(text=options.text, image=options.image, video=options.video)
        print(f"query: {query.text or options.image or options.video}")
        for video, score in search(embedder, query, videos, embed_videos(embedder, videos)):
            print(f"{score:.3f}  {video}")


if __name__ == "__main__":
    main()
