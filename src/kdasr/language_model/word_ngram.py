"""A word n-gram as language model, from text alone: for rescoring and for the weights of labels.

Interpolated Witten-Bell smoothing (Witten and Bell, *The zero-frequency problem*, IEEE Transactions on
Information Theory 1991) as NLTK computes it. NLTK is the well-kept package of n-grams that installs without
a compiler; KenLM, which estimates and asks far faster, has no wheels. Counts live in Python dictionaries, so
this is for some hundred thousand sentences, not for forty million sentences.
"""

# Shapes: B sentences, S pieces.

import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from kdasr.common.errors import UserError
from kdasr.data.text_normalization import split_words

Decode = Callable[[list[int]], str]
START, END = "<s>", "</s>"
UNIFORM = 1e-3
"""Share of the probability that is spread evenly over all words and one more, which is every unknown word."""


class WordNgram:
    """Scores whole sentences of a recognizer's pieces by their words."""

    def __init__(self, sentences: Iterable[str], decode: Decode, order: int = 3) -> None:
        """
        Args:
            sentences: text to count, normalized as the pieces are, words separated by spaces; empty ones are
                left out.
            decode: the recognizer's tokenizer: from pieces to text.
            order: words of the longest n-gram.

        Raises:
            UserError: no words in the text.
            ValueError: an order below 1.
        """
        from nltk.lm import Vocabulary, WittenBellInterpolated  # a second, which few who decode need

        if order < 1:
            raise ValueError(f"n-grams of order {order}")
        self.order = order
        self._decode = decode
        texts = [text for text in map(split_words, sentences) if text]
        if not texts:
            raise UserError("a word n-gram is made of text, and there are no words in it")
        self._words = {END}.union(*texts)
        # NLTK takes what its vocabulary lacks for one and the same unknown word, in contexts too.
        self._model = WittenBellInterpolated(order, vocabulary=Vocabulary({START, *self._words}))
        self._model.fit([list(self._everygrams(text)) for text in texts])

    def to(self, device: torch.device | str) -> "WordNgram":
        """Itself: it has no tensors."""
        return self

    def log_probs(self, tokens_BS: Tensor, lens_B: Tensor) -> Tensor:
        """Natural log-probabilities (B,), float32, of sentences of pieces, their ends included."""
        rows = zip(tokens_BS.tolist(), lens_B.tolist(), strict=True)
        scores = [self.log_prob(split_words(self._decode(row[:length]))) for row, length in rows]
        return torch.tensor(scores, dtype=torch.float32, device=tokens_BS.device)

    def log_prob(self, words: Sequence[str]) -> float:
        """Natural log-probability of a sentence, its end included."""
        places = self._places(words)
        return sum(math.log(self.prob(before, word)) for before, word in places)

    def prob(self, before: Sequence[str], word: str) -> float:
        """Probability of a word, or of the end, after at most `order - 1` words."""
        known = self._model.score(word, self._seen(before)) if word in self._words else 0.0
        return float((1 - UNIFORM) * known + UNIFORM / (len(self._words) + 1))

    def _seen(self, before: Sequence[str]) -> tuple[str, ...]:
        """As much of a context as is in the text: what is longer gives the same, and NLTK would keep it."""
        context = tuple(before)
        while context and context not in self._model.counts[len(context) + 1]:
            context = context[1:]
        return context

    def _places(self, words: Sequence[str]) -> Iterator[tuple[Sequence[str], str]]:
        """Every word and the end, with what is before it."""
        padded = [START] * (self.order - 1) + [*words, END]
        for place in range(self.order - 1, len(padded)):
            yield padded[place - self.order + 1 : place], padded[place]

    def _everygrams(self, words: Sequence[str]) -> Iterator[tuple[str, ...]]:
        """The n-grams of all orders that end in a word or in the end; none ends in a start."""
        for before, word in self._places(words):
            for length in range(self.order):
                yield (*before[len(before) - length :], word)
