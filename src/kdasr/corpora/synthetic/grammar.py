"""Sentences from a context-free grammar, with words drawn by a Zipf-like law."""

import re
from bisect import bisect
from itertools import accumulate

import numpy as np

from kdasr.corpora.synthetic.inflection import with_article
from kdasr.corpora.synthetic.seeds import generator
from kdasr.corpora.synthetic.vocabulary import Vocabulary

_SLOT = re.compile(r"\{([\w:]+)\}")
_TRIES = 20  # draws of a word that the sentence does not hold yet


class Grammar:
    """Draws sentences from a vocabulary.

    The word of rank r in its class has a weight of 1 / (r + offset), Mandelbrot's form of Zipf's law. Where
    words keep company, those that may follow a given one are drawn once, all alike and the same for every
    seed: the language stays one.

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
        self._company = vocabulary.company
        self._companions: dict[tuple[str, str], tuple[tuple[str, ...], list[float]]] = {}
        for template in vocabulary.templates():
            for slot in _SLOT.findall(template):
                if slot not in self._rules and slot not in self._classes:
                    raise ValueError(f"template '{template}': no class or rule is called '{slot}'")

    def sentence(self, rng: np.random.Generator) -> str:
        """A sentence in lower case, with commas where a reader would pause."""
        return with_article(self._expand("sentence", rng, []))

    def _expand(self, name: str, rng: np.random.Generator, used: list[str]) -> str:
        """`used`: the words that classes have given the sentence so far, extended by this."""
        if name in self._rules:
            templates, weights = self._rules[name]
            template = templates[_draw(weights, rng)]
            return _SLOT.sub(lambda slot: self._expand(slot.group(1), rng, used), template)
        words, weights = self._offer(name, used[-1] if used else None)
        for _ in range(_TRIES):
            word = words[_draw(weights, rng)]
            if word not in used:
                break
        used.append(word)
        return word

    def _offer(self, name: str, last: str | None) -> tuple[tuple[str, ...], list[float]]:
        """The words of a class that may come after `last`, with cumulative weights."""
        words, weights = self._classes[name]
        if last is None or self._company is None or self._company >= len(words):
            return words, weights
        if (name, last) not in self._companions:
            single = np.diff(weights, prepend=0.0)
            rng = generator(0, "company", name, last)
            chosen = sorted(rng.choice(len(words), self._company, replace=False).tolist())
            offer = tuple(words[index] for index in chosen), list(accumulate(single[chosen].tolist()))
            self._companions[name, last] = offer
        return self._companions[name, last]


def _draw(cumulative: list[float], rng: np.random.Generator) -> int:
    return bisect(cumulative, rng.random() * cumulative[-1])
