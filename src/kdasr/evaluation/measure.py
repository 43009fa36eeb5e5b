"""Which error rate says more of a text: that of words, or that of characters.

Chinese, Japanese, Thai and others are written without spaces between words. What stands between two spaces is
then a phrase or a sentence, and one wrong character makes all of it an error: there the character error rate
is the measure.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

# Blocks of Unicode.
_UNSPACED = re.compile(
    "["
    "\u0e00-\u0eff"  # Thai, Lao
    "\u0f00-\u0fff"  # Tibetan
    "\u1000-\u109f"  # Myanmar
    "\u1780-\u17ff"  # Khmer
    "\u3040-\u30ff\u31f0-\u31ff"  # Hiragana, Katakana
    "\u3100-\u312f"  # Bopomofo
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Han
    "]"
)
_LEAST_SHARE_OF_LETTERS = 0.5
_MOST_SPACES = 0.2
"""Spaces per character. Chinese whose words are separated has one after every second character."""


@dataclass(frozen=True)
class Writing:
    """Counts of characters that tell whether words are separated."""

    letters: int = 0
    unspaced: int = 0
    """Letters of scripts that are written without spaces."""
    spaces: int = 0

    @classmethod
    def of(cls, texts: Iterable[str]) -> "Writing":
        """The counts of some normalized texts."""
        letters = unspaced = spaces = 0
        for text in texts:
            letters += sum(map(str.isalnum, text))
            unspaced += len(_UNSPACED.findall(text))
            spaces += text.count(" ")
        return cls(letters, unspaced, spaces)

    def __add__(self, other: "Writing") -> "Writing":
        return Writing(
            self.letters + other.letters, self.unspaced + other.unspaced, self.spaces + other.spaces
        )

    @property
    def measure(self) -> str:
        """`cer` where most letters are of such scripts and spaces are rare, else `wer`."""
        if self.unspaced <= _LEAST_SHARE_OF_LETTERS * self.letters:
            return "wer"
        return "cer" if self.spaces <= _MOST_SPACES * self.letters else "wer"
