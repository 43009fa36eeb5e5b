"""Random generators that depend on names, never on the order of the work."""

import hashlib

import numpy as np


def generator(seed: int, *names: str) -> np.random.Generator:
    """The random generator of one named thing (an utterance, a speaker, a text) under a corpus seed.

    The same seed and names give the same stream in every process, whatever ran before.
    """
    digest = hashlib.sha256("\0".join(names).encode()).digest()
    words = np.frombuffer(digest[:16], dtype="<u4")
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, *words.tolist()])))
