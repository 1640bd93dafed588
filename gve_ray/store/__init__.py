"""Data sets with atomic commits, asset bytes by reference, and the folders of runs."""

from gve_ray.store.assets import AssetReader, frames_of_row
from gve_ray.store.dataset import Store, StoreError
from gve_ray.store.runfolder import FolderLock, RunFolder, RunFolderError, fingerprint

__all__ = [
    "AssetReader",
    "FolderLock",
    "RunFolder",
    "RunFolderError",
    "Store",
    "StoreError",
    "fingerprint",
    "frames_of_row",
]
