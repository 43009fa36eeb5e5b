"""Many ids in little memory: 64 bits of each, sorted, in place of a dictionary of strings."""

# Shapes: N ids.

import hashlib

import numpy as np
from numpy.typing import NDArray


def name_digest(name: str) -> int:
    """64 bits of an id, as a signed number."""
    encoded = name.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(encoded, digest_size=8).digest(), signed=True)


def place_of(digests_N: NDArray[np.int64], name: str) -> int | None:
    """Where an id is among `name_digest`s, which are sorted; None: it is not there."""
    digest = name_digest(name)
    place = int(np.searchsorted(digests_N, digest))
    return place if place < len(digests_N) and int(digests_N[place]) == digest else None
