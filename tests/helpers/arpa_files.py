"""Writes an ARPA file for tests."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np


def write_arpa(path: Path, sentences: Sequence[Sequence[str]], every: Sequence[str], order: int = 3) -> Path:
    """All n-grams of some sentences, ends included, and all units of `every`, with random scores."""
    generator = np.random.default_rng(1)
    grams: list[set[tuple[str, ...]]] = [{("<s>",), ("</s>",), ("<unk>",), *((unit,) for unit in every)}]
    grams += [set() for _ in range(order - 1)]
    for sentence in sentences:
        padded = ("<s>", *sentence, "</s>")
        for length in range(1, order + 1):
            grams[length - 1] |= {padded[start : start + length] for start in range(len(padded) - length + 1)}
    lines = ["\\data\\", *(f"ngram {n}={len(found)}" for n, found in enumerate(grams, start=1))]
    for n, found in enumerate(grams, start=1):
        lines += ["", f"\\{n}-grams:"]
        for gram in sorted(found):
            score = -99.0 if gram == ("<s>",) else -generator.uniform(0.1, 3.0)
            backoff = "" if n == order else f"\t{-generator.uniform(0.1, 1.0):.4f}"
            lines.append(f"{score:.4f}\t{' '.join(gram)}{backoff}")
    path.write_text("\n".join([*lines, "", "\\end\\", ""]), encoding="utf-8")
    return path
