"""Finding files below a folder: through links, without hidden ones, and saying what was not looked at."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from pathlib import Path

from kdasr.common.errors import UserError

NOT_CONTENT = frozenset({"lost+found", "$RECYCLE.BIN", "System Volume Information", "__MACOSX", "@eaDir"})
"""Folders that systems put beside the user's own, and that do not begin with a dot."""


@dataclass
class FoundFiles:
    """What a search came across."""

    files: list[Path] = field(default_factory=list)
    """Sorted; below a link, the path goes through the link."""
    hidden: list[Path] = field(default_factory=list)
    """Folders and wanted files whose name begins with a dot, and those of `NOT_CONTENT`: not looked at."""
    links: list[Path] = field(default_factory=list)
    """Linked folders that were followed."""
    repeated: list[Path] = field(default_factory=list)
    """Linked folders that lead to a folder that counts already, such as one above them."""
    broken: list[Path] = field(default_factory=list)
    """Links that lead nowhere."""


def find_files(root: Path, is_wanted: Callable[[str], bool]) -> FoundFiles:
    """The files below `root` whose name `is_wanted`. Links to files and to folders are followed.

    Each folder counts once, however many ways lead to it, so a loop of links ends; its own place goes before
    a link to it.

    Raises:
        UserError: a folder that cannot be listed.
    """
    found = FoundFiles()
    seen = {_identity(root)}
    folders, links = [root], list[Path]()
    while folders or links:
        if not folders:  # all real folders first, then what the links lead to
            link = heappop(links)
            identity = _identity(link)
            (found.repeated if identity in seen else found.links).append(link)
            if identity in seen:
                continue
            seen.add(identity)
            folders.append(link)
        for path, is_link in _list(folders.pop(), is_wanted, found):
            if is_link:
                heappush(links, path)
            elif (identity := _identity(path)) not in seen:  # a folder may be mounted in two places
                seen.add(identity)
                folders.append(path)
    for paths in (found.files, found.hidden, found.links, found.repeated, found.broken):
        paths.sort()
    return found


def _list(folder: Path, is_wanted: Callable[[str], bool], found: FoundFiles) -> list[tuple[Path, bool]]:
    """Folders in `folder`, and whether each is a link; files are added to `found`."""
    folders = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                path, is_link = folder / entry.name, entry.is_symlink()
                try:
                    is_folder, is_file = entry.is_dir(), entry.is_file()
                except OSError:  # a link that leads to itself, or to where we may not look
                    is_folder = is_file = False
                if entry.name.startswith(".") or entry.name in NOT_CONTENT:
                    if is_folder or is_wanted(entry.name):
                        found.hidden.append(path)
                elif is_folder:
                    folders.append((path, is_link))
                elif is_link and not is_file:
                    found.broken.append(path)
                elif is_file and is_wanted(entry.name):
                    found.files.append(path)
    except OSError as error:
        raise UserError(f"{folder}: cannot be listed: {error.strerror}") from None
    return folders


def _identity(folder: Path) -> tuple[int, int]:
    try:
        status = folder.stat()
    except OSError as error:
        raise UserError(f"{folder}: cannot be looked at: {error.strerror}") from None
    return status.st_dev, status.st_ino
