"""References in items -> frames in memory: asset references from a store, paths and URIs from files."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from gve_ray.embedder.settings import EmbedderSettings
from gve_ray.media import read_frames, read_image
from gve_ray.schema import ASSET_SCHEME, Frames, Item, Media

if TYPE_CHECKING:
    from gve_ray.store import AssetReader


def resolve(items: Sequence[Item], settings: EmbedderSettings, assets: "AssetReader | None") -> list[Item]:
    """The items with every image and video as `Frames`, in order.

    Asset references are read by one call. Raises ValueError for an asset reference without `assets`;
    errors of reading (missing video, MediaError) pass through.
    """
    refs = list(dict.fromkeys(ref for item in items for ref in _asset_refs(item)))
    if refs and assets is None:
        raise ValueError(f"{refs[0]!r} is an asset reference; pass assets=AssetReader(<uri of assets.lance>)")
    stored: dict[str, Frames] = {}
    if assets is not None and refs:
        stored = dict(zip(refs, assets.frames_many(refs), strict=True))

    def read(media: Media | None, slot: str) -> Frames | None:
        """One slot's media in memory: as it is, from the store, or from its file."""
        if media is None or isinstance(media, Frames):
            return media
        if media in stored:
            return stored[media]
        most, least = settings.max_pixels, settings.min_pixels
        if slot == "image":
            return read_image(media, max_pixels=most, min_pixels=least)
        return read_frames(media, k=settings.frames, max_pixels=most, min_pixels=least)

    return [
        replace(item, image=read(item.image, "image"), video=read(item.video, "video"))
        if item.image is not None or item.video is not None
        else item
        for item in items
    ]


def _asset_refs(item: Item) -> list[str]:
    media = (item.image, item.video)
    return [one for one in media if isinstance(one, str) and one.startswith(ASSET_SCHEME)]
