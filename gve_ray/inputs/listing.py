"""List the videos of a folder, a glob or a single file as URIs.

    find_videos("/data/[Group] Show")     # a path that exists is taken literally
    find_videos("/data/**/*.mkv")         # any other path with * ? [ is a glob

One warning counts the files that are skipped, and names the first of them.
"""

import logging
import os
import re
import stat
from collections import deque
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path

from pyarrow import fs

from gve_ray.inputs.table import FORMS, kind_of
from gve_ray.job import PreflightError
from gve_ray.media.source import VIDEO_SUFFIXES, local_path
from gve_ray.media.subtitles import SUFFIXES, video_stems
from gve_ray.store.runfolder import filesystem, in_uri

log = logging.getLogger(__name__)

_WILD = re.compile(r"[*?\[]")
_NAMED = 3  # number of files of each kind that a warning names
_ENDINGS = " ".join(sorted(VIDEO_SUFFIXES))


class NoVideosError(PreflightError):
    """The folder or glob exists, but no video is in it."""


@dataclass(kw_only=True)
class _Listing:
    """The content of a folder.

    names: relative paths of its files. uri_of: relative path -> URI. lost: relative paths of
    entries that could not be read, and why.
    """

    names: list[str] = field(default_factory=list)
    uri_of: Callable[[str], str]
    lost: dict[str, str] = field(default_factory=dict)


def find_videos(source: str) -> list[str]:
    """Return the sorted URIs of the videos in a folder and its subfolders, of a glob, or of one file.

    Links to folders are followed, and each folder is searched once. A local name that is not UTF-8
    becomes a file:// URI. Raises PreflightError; NoVideosError if there is no video.
    """
    folder, pattern = _split(source)
    kind = kind_of(folder)
    if kind == fs.FileType.NotFound:
        raise PreflightError(f"input={source!r}: no such file or folder; name a folder, a glob or a manifest")
    if kind == fs.FileType.File and not pattern:
        return [_single(source)]
    matching = _regex(pattern) if pattern else None
    listing = _list(folder, _depth(pattern))
    if matching:
        listing.names = [name for name in listing.names if matching.fullmatch(name)]
        listing.lost = {name: why for name, why in listing.lost.items() if matching.fullmatch(name)}
    videos = [name for name in listing.names if _is_video(name) and (pattern or not _is_hidden(name))]
    left_out = _left_out(listing, bool(pattern))
    if not videos:
        raise NoVideosError(
            f"input={source!r}: no video in it ({left_out or 'and no other files'}); files must end in one of "
            f"{_ENDINGS}, or be named by a manifest; for videos inside archives give a glob such as '*.tar'"
        )
    if left_out:
        log.warning("input=%r: %d videos; left out: %s", source, len(videos), left_out)
    return sorted(listing.uri_of(name) for name in videos)


def find_files(source: str) -> list[str]:
    """Return the sorted files that a glob matches, as paths or URIs; any other source is returned alone.

    Raises ValueError if a glob matches nothing.
    """
    folder, pattern = _split(source)
    if not pattern:
        return [source]
    if kind_of(folder) == fs.FileType.NotFound:
        raise ValueError(f"no such folder {folder!r}")
    listing = _list(folder, _depth(pattern))
    matching = _regex(pattern)
    names = [name for name in listing.names if matching.fullmatch(name)]
    if not names:
        raise ValueError("no file matches it")
    return [listing.uri_of(name) if "://" in folder else os.path.join(folder, name) for name in names]


def _split(source: str) -> tuple[str, str]:
    """Split a source into a folder and a glob below it, which is "" for everything.

    The folder is the longest prefix of the path that exists or has no wildcard.
    """
    if not _WILD.search(source) or _exists(source):
        return source, ""
    parts = source.split("/")
    for at, part in enumerate(parts):
        if _WILD.search(part) and not _exists("/".join(parts[: at + 1])):
            return "/".join(parts[:at]) or ("/" if at else "."), "/".join(parts[at:])
    return source, ""


def _exists(source: str) -> bool:
    try:
        return kind_of(source) != fs.FileType.NotFound
    except ValueError:  # with such characters it is not a valid URI
        return False


def _single(source: str) -> str:
    """Return the URI of a single video. Raises PreflightError if its name does not end like a video's."""
    path = local_path(source)
    name = source.partition("?")[0] if path is None else path.name
    if not _is_video(name):
        raise PreflightError(
            f"input={source!r}: neither a video ({_ENDINGS}) nor a manifest ({FORMS}); give a manifest whose column "
            "uri names the videos"
        )
    return source if "://" in source else local_uri(os.path.abspath(source))


def _list(folder: str, depth: int | None) -> _Listing:
    path = local_path(folder)
    if path is not None:
        return _list_local(folder, path, depth)
    files, root = filesystem(folder)
    listed = files.get_file_info(fs.FileSelector(root, recursive=True))
    names = [info.path[len(root) :].lstrip("/") for info in listed if info.type == fs.FileType.File]
    place, mark, query = folder.partition("?")
    place = place.rstrip("/")
    return _Listing(names=sorted(names), uri_of=lambda name: f"{place}/{in_uri(files, name)}{mark}{query}")


def _list_local(folder: str, path: Path, depth: int | None) -> _Listing:
    root = os.path.abspath(path)

    def uri_of(name: str) -> str:
        whole = os.path.join(root, name)
        return Path(whole).as_uri() if "://" in folder else local_uri(whole)

    listing = _Listing(uri_of=uri_of)
    for entry in _walk(root, depth, listing.lost):
        listing.names.append(os.path.relpath(entry.path, root))
    listing.names.sort()
    return listing


def local_uri(path: str) -> str:
    """Return the path, or its file:// URI if it is not UTF-8, because tables cannot store such a path."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return Path(path).as_uri()
    return path


def _walk(root: str, depth: int | None, lost: dict[str, str]) -> Iterator["os.DirEntry[str]"]:
    """Yield the files below a folder; add entries that could not be read to `lost`.

    depth: levels of subfolders to search. None: all levels; then each folder is searched once, even
    if links lead to it, and preferably under its own path.
    """
    real, linked, seen = deque([(root, 0)]), deque[tuple[str, int]](), set[str]()
    while real or linked:
        folder, level = real.popleft() if real else linked.popleft()
        place = os.path.realpath(folder)
        if depth is None and place in seen:
            continue
        seen.add(place)
        try:
            with os.scandir(folder) as listed:
                entries = sorted(listed, key=lambda entry: entry.name)
        except OSError as error:
            lost[os.path.relpath(folder, root)] = str(error.strerror)
            continue
        for entry in entries:
            mode = _mode(entry)
            if stat.S_ISDIR(mode):
                if depth is None or level < depth:
                    (linked if entry.is_symlink() else real).append((entry.path, level + 1))
            elif stat.S_ISREG(mode):
                yield entry
            elif _is_video(entry.name):
                why = "not a file" if mode else "a link that leads nowhere"
                lost[os.path.relpath(entry.path, root)] = why


def _mode(entry: "os.DirEntry[str]") -> int:
    """Return the mode of an entry or of its link target; 0 for a broken link."""
    try:
        return entry.stat().st_mode
    except OSError:
        return 0


def _left_out(listing: _Listing, is_glob: bool) -> str:
    """Describe the skipped files in the folder or of the glob; return "" if there are none.

    Subtitle files of the videos are not skipped: `gve index` reads them.
    """
    stems = {os.path.splitext(name)[0] for name in listing.names if _is_video(name)}
    hidden = [] if is_glob else [name for name in listing.names if _is_hidden(name)]
    endings: dict[str, list[str]] = {}
    for name in sorted({*listing.names} - {*hidden}):
        if not _is_video(name) and not _is_subtitle_of(name, stems):
            ending = os.path.splitext(name)[1].lower() or "without one"
            endings.setdefault(ending, []).append(repr(name))
    unreadable = [f"{name!r}: {why}" for name, why in sorted(listing.lost.items())]
    kinds = {
        "not a video's ending": ", ".join(_counted(names, ending) for ending, names in endings.items()),
        "hidden by a dot": _counted([repr(name) for name in hidden if _is_video(name)]),
        "cannot be read": _counted(unreadable),
    }
    return "; ".join(f"{why}: {names}" for why, names in kinds.items() if names)


def _counted(names: Sequence[str], kind: str = "") -> str:
    """Return the number of names and the first of them as text; "" for none."""
    first = ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
    return f"{len(names)}{kind and ' '}{kind} ({first})" if names else ""


def _is_video(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES


def _is_subtitle_of(name: str, stems: Set[str]) -> bool:
    """Whether a file has the subtitles of one of the videos with these paths, given without their endings."""
    return name.lower().endswith(SUFFIXES) and not video_stems(name).isdisjoint(stems)


def _is_hidden(path: str) -> bool:
    return any(part.startswith(".") for part in path.split("/"))


def _depth(pattern: str) -> int | None:
    return None if "**" in pattern or not pattern else pattern.count("/")


def _regex(glob: str) -> re.Pattern[str]:
    """Convert a glob to a regular expression: * and ? match within a folder, ** across folders, [...] a set."""
    out, at = "", 0
    while at < len(glob):
        if glob.startswith("**/", at):
            out, at = out + "(?:.*/)?", at + 3
        elif glob.startswith("**", at):
            out, at = out + ".*", at + 2
        elif glob[at] == "*":
            out, at = out + "[^/]*", at + 1
        elif glob[at] == "?":
            out, at = out + "[^/]", at + 1
        elif glob[at] == "[" and (end := glob.find("]", at + 2)) > 0:
            inner = glob[at + 1 : end].replace("\\", r"\\")
            out, at = out + "[" + (f"^{inner[1:]}" if inner[0] == "!" else inner) + "]", end + 1
        else:
            out, at = out + re.escape(glob[at]), at + 1
    try:
        return re.compile(out, re.DOTALL)
    except re.error as error:
        raise PreflightError(
            f"glob {glob!r}: {error}; write a character of a name as [*], [?] or [[]"
        ) from None
