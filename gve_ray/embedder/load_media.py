"""Load the media of items into memory: asset references from a store, paths and URIs from files."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from gve_ray.embedder.settings import EmbedderSettings
from gve_ray.media import read_frames, read_image
from gve_ray.schema import ASSET_SCHEME, Frames, Item, Media

if TYPE_CHECKING:
    from gve_ray.store import AssetReader


def load_media(items: Sequence[Item], settings: EmbedderSettings, assets: "AssetReader | None") -> list[Item]:
    """Return the items in order, with every image and video as `Frames`.

    settings: how many frames to sample, and the pixel budget. assets: the store of asset
    references, all of which are read by one call. Raises ValueError for an asset reference if
    `assets` is None, KeyError for a video that the store does not have, and MediaError for a file
    that cannot be read.
    """
    refs = list(dict.fromkeys(ref for item in items for ref in _asset_refs(item)))
    if refs and assets is None:
        raise ValueError(f"{refs[0]!r} is an asset reference; pass assets=AssetReader(<uri of assets.lance>)")
    stored: dict[str, Frames] = {}
    if assets is not None and refs:
        stored = dict(zip(refs, assets.frames_many(refs), strict=True))

    def read(media: Media | None, slot: str) -> Frames | None:
        """Return the media of one slot as frames: unchanged, from the store, or from a file."""
        if media is None or isinstance(media, Frames):
            return media
        if media in stored:
            return stored[media]
        maximum, minimum = settings.max_pixels, settings.min_pixels
        if slot == "image":
            return read_image(media, max_pixels=maximum, min_pixels=minimum)
        return read_frames(media, k=settings.frames, max_pixels=maximum, min_pixels=minimum)

    return [
        replace(item, image=read(item.image, "image"), video=read(item.video, "video"))
        if item.image is not None or item.video is not None
        else item
        for item in items
    ]


def _asset_refs(item: Item) -> list[str]:
    media = (item.image, item.video)
    return [ref for ref in media if isinstance(ref, str) and ref.startswith(ASSET_SCHEME)]
