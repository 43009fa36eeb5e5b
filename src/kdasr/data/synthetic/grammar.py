"""Sentences from a context-free grammar, with words drawn by a Zipf-like law."""

import re
from bisect import bisect
from itertools import accumulate

import numpy as np

from kdasr.data.synthetic.inflection import with_article
from kdasr.data.synthetic.vocabulary import Vocabulary

_SLOT = re.compile(r"\{([\w:]+)\}")
_TRIES = 20  # draws of a word that the sentence does not hold yet


class Grammar:
    """Draws sentences from a vocabulary.

    The word of rank r in its class has a weight of 1 / (r + offset), Mandelbrot's form of Zipf's law.

    Raises:
        ValueError: a template has a slot that is neither a class nor a rule.
    """

    def __init__(self, vocabulary: Vocabulary, offset: float = 3.0) -> None:
        self._rules = {
            name: ([template for _, template in options], list(accumulate(weight for weight, _ in options)))
            for name, options in vocabulary.rules.items()
        }
        self._classes = {
            name: (words, list(accumulate(1 / (rank + offset) for rank in range(len(words)))))
            for name, words in vocabulary.classes.items()
        }
        for template in vocabulary.templates():
            for slot in _SLOT.findall(template):
                if slot not in self._rules and slot not in self._classes:
                    raise ValueError(f"template '{template}': no class or rule is called '{slot}'")

    def sentence(self, rng: np.random.Generator) -> str:
        """A sentence in lower case, with commas where a reader would pause."""
        return with_article(self._expand("sentence", rng, set()))

    def _expand(self, name: str, rng: np.random.Generator, used: set[str]) -> str:
        if name in self._rules:
            templates, weights = self._rules[name]
            template = templates[_draw(weights, rng)]
            return _SLOT.sub(lambda slot: self._expand(slot.group(1), rng, used), template)
        words, weights = self._classes[name]
        for _ in range(_TRIES):
            word = words[_draw(weights, rng)]
            if word not in used:
                break
        used.add(word)
        return word


def _draw(cumulative: list[float], rng: np.random.Generator) -> int:
    return bisect(cumulative, rng.random() * cumulative[-1])
