"""A folder with a small file system of its own, in memory, which can be filled. Needs the right to mount.

with SmallDisk(folder, 2**20) as disk:
    disk.fill()       # now nothing can be written there
    disk.empty()      # now it can
"""

import os
import subprocess
from pathlib import Path


class SmallDisk:
    """Context manager. Raises PermissionError if this user may not mount file systems."""

    def __init__(self, folder: Path, size: int) -> None:
        self.folder, self._size = folder, size

    def __enter__(self) -> "SmallDisk":
        self.folder.mkdir()
        try:
            self._mount(f"size={self._size}")
        except (subprocess.CalledProcessError, FileNotFoundError) as error:
            self.folder.rmdir()
            raise PermissionError(f"{self.folder}: cannot be mounted ({error})") from error
        return self

    def __exit__(self, *_: object) -> None:
        # A process may still have an open file there.
        subprocess.run(["umount", "--lazy", str(self.folder)], check=True)
        self.folder.rmdir()

    def fill(self) -> None:
        """Leave no space, by making the file system as small as its content."""
        while True:
            space = os.statvfs(self.folder)
            used = (space.f_blocks - space.f_bfree) * space.f_frsize
            try:
                self._mount(f"remount,size={max(used, space.f_frsize)}")  # 0 would be no limit
                return
            except subprocess.CalledProcessError:  # more was written meanwhile
                continue

    def empty(self) -> None:
        """Give the file system its first size again."""
        self._mount(f"remount,size={self._size}")

    def _mount(self, options: str) -> None:
        command = ["mount", "-t", "tmpfs", "-o", options, "gve-small-disk", str(self.folder)]
        subprocess.run(command, check=True, capture_output=True)
