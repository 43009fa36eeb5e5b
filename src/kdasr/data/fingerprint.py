"""Whether files are still those that something was made of, without reading all of them."""

import hashlib
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from lhotse.cut import MonoCut

_SAMPLED_BYTES = 4096


def fingerprint(path: Path, *, timed: bool = True) -> bytes:
    """Changes when a file is replaced or written to; empty when there is none.

    It is made of the file's size and time of change, and of 4 KB at its beginning, in its middle and at its
    end (a flac begins with the digest of its samples). Reading no more keeps it cheap for a large corpus: a
    change elsewhere that leaves size and time as they were goes unnoticed. Without the time (`timed=False`)
    a copy of the file has the same.
    """
    digest = hashlib.blake2b(digest_size=16)
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            digest.update(f"{status.st_size} {status.st_mtime_ns if timed else ''} ".encode())
            last = max(0, status.st_size - _SAMPLED_BYTES)
            for place in (0, last // 2, last):
                file.seek(place)
                digest.update(file.read(_SAMPLED_BYTES))
    except OSError:
        return b""
    return digest.digest()


def content_print(path: Path) -> str:
    """Changes when a file is replaced by another one: made of its size and of 4 KB at 64 places.

    A copy of the file has the same. Of a gzipped file, hardly any change leaves the size as it was.
    """
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        digest.update(f"{size} ".encode())
        last = max(0, size - _SAMPLED_BYTES)
        for place in sorted({last * number // 63 for number in range(64)}):
            file.seek(place)
            digest.update(file.read(_SAMPLED_BYTES))
    return digest.hexdigest()


def fingerprints(paths: Sequence[Path], jobs: int = 1, *, timed: bool = True) -> list[bytes]:
    """`fingerprint` of each file."""
    with ThreadPoolExecutor(max(1, jobs)) as pool:
        return list(pool.map(partial(fingerprint, timed=timed), paths))


def audio_fingerprint(cuts: Iterable[MonoCut]) -> str:
    """Changes when the audio of some cuts, or what of it they are, changes; the files' paths do not count."""
    digest = hashlib.sha256()
    for cut in cuts:
        # A whole recording has the digest that earlier versions have written down.
        place = f"{cut.start} {cut.duration}" if cut.start else f"{cut.duration}"
        digest.update(f"{cut.id} {place} ".encode())
        for source in cut.recording.sources if cut.has_recording else []:
            digest.update(fingerprint(Path(source.source)) if source.type == "file" else b"-")
    return digest.hexdigest()


def folder_size(folder: Path) -> list[int]:
    """Number of files below a folder, and their bytes together; zeros when there is no folder."""
    count = size = 0
    for parent, _, names in os.walk(folder):
        count += len(names)
        size += sum((Path(parent) / name).lstat().st_size for name in names)
    return [count, size]
