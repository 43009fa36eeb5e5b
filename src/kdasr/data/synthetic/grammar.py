"""Sentences from templates, with words drawn by a Zipf-like law."""

import re
from bisect import bisect
from itertools import accumulate

import numpy as np

from kdasr.data.synthetic.vocabulary import Vocabulary

_SLOT = re.compile(r"\{(\w+)\}")


class Grammar:
    """Draws sentences from a vocabulary.

    The word of rank r in its class has a weight of 1 / (r + offset), as in Mandelbrot's form of Zipf's law.
    """

    def __init__(self, vocabulary: Vocabulary, offset: float = 3.0) -> None:
        self.vocabulary = vocabulary
        self._word_weights = {
            name: list(accumulate(1 / (rank + offset) for rank in range(len(words))))
            for name, words in vocabulary.classes.items()
        }
        self._template_weights = list(accumulate(weight for weight, _ in vocabulary.templates))

    def sentence(self, rng: np.random.Generator) -> str:
        """A sentence in lower case, with commas where a reader would pause; no word of a class twice."""
        _, template = self.vocabulary.templates[_draw(self._template_weights, rng)]
        used: set[str] = set()

        def word(match: re.Match[str]) -> str:
            name = match.group(1)
            chosen = self.vocabulary.classes[name][_draw(self._word_weights[name], rng)]
            while chosen in used:
                chosen = self.vocabulary.classes[name][_draw(self._word_weights[name], rng)]
            used.add(chosen)
            return chosen

        return _SLOT.sub(word, template)


def _draw(cumulative: list[float], rng: np.random.Generator) -> int:
    return bisect(cumulative, rng.random() * cumulative[-1])
