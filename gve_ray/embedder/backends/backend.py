"""The interface of a backend: a program that runs an embedding model."""

from collections.abc import Sequence
from typing import Protocol

from gve_ray.embedder.conversation import ended_instruction
from gve_ray.embedder.embeddings import Embeddings, Finished, ignore
from gve_ray.schema import Item


class Backend(Protocol):
    """Embeds items whose media are in memory.

    is_thread_safe: whether two threads may call `embed` at the same time.
    """

    is_thread_safe: bool = False

    def refuses(self, item: Item) -> str:
        """Return why the model cannot embed such an item, or an empty string, as by default."""
        return ""

    def embed(self, items: Sequence[Item], finished: Finished = ignore) -> Embeddings:
        """Return the embeddings in the order of the items.

        finished: called with the number of items that are done, by backends that know it before the
        end.
        """

    def close(self) -> None:
        """Stop processes that the backend has started; by default there are none."""
        return


def instruction_of(item: Item, default: str | None, *, ended: bool) -> str | None:
    """Return the instruction of an item, or the default one.

    ended: add a full stop if it ends without a punctuation mark.
    """
    instruction = item.instruction or default
    return ended_instruction(instruction) if instruction and ended else instruction


def parts_of(item: Item) -> list[str]:
    """Return what an item consists of, in alphabetical order: image, text, video."""
    return [slot for slot in ("image", "text", "video") if getattr(item, slot)]
