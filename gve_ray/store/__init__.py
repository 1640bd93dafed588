"""Store data: data sets with atomic commits, frames by reference, run folders, cached models."""

from gve_ray.store.assets import AssetReader, frames_of_row, jpegs_of_row
from gve_ray.store.dataset import Store, StoreError
from gve_ray.store.faults import StorageError
from gve_ray.store.runfolder import FolderLock, RunFolder, RunFolderError, fingerprint
from gve_ray.store.shared import SharedFolder

__all__ = [
    "AssetReader",
    "FolderLock",
    "RunFolder",
    "RunFolderError",
    "SharedFolder",
    "StorageError",
    "Store",
    "StoreError",
    "fingerprint",
    "frames_of_row",
    "jpegs_of_row",
]
