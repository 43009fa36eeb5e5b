"""How labels are written: as the transcripts of the target's pieces are.

A labeler writes as it was taught: `Well, Mr. Hale paid $5.` Pieces that were made of `WELL MISTER HALE PAID
FIVE DOLLARS` cannot spell that. With a tokenizer its pieces say what may stay: digits,
punctuation and case that they spell; then comes its own normalization. Without one, a rule of
`kdasr.data.text_rules` says it. References are written in the same way before they are compared.
"""

import re
import unicodedata

from kdasr.data.text_normalization import WORD_START, TextNormalizer
from kdasr.data.text_rules import APOSTROPHES, NONE
from kdasr.data.tokenizer import Tokenizer
from kdasr.labeling.spoken import spoken

DEFAULT_RULE = "words"
_DIGITS = frozenset("0123456789")


class LabelWriting:
    """From what a labeler writes to what is trained on. What it has written it leaves as it is."""

    def __init__(self, tokenizer: Tokenizer | None = None, rule: str | None = None) -> None:
        """
        Args:
            tokenizer: the target's.
            rule: one of `kdasr.data.text_rules`, before that of the tokenizer. None: what the pieces of the
                tokenizer need, and `words` without one.

        Raises:
            UserError: no such rule.
        """
        self._tokenizer = tokenizer
        self._alphabet = _alphabet(tokenizer) if tokenizer is not None else frozenset()
        self._numbers = rule != NONE and not self._alphabet >= _DIGITS
        steps = ["numbers"] if self._numbers else []
        self._fit = tokenizer is not None and rule is None
        if rule is None and tokenizer is None:
            rule = DEFAULT_RULE
        self._rule = TextNormalizer(written=rule or NONE)
        if rule not in (None, NONE):
            steps.append(str(rule))
        self._case = _case(self._alphabet) if self._fit else None
        if self._fit:
            kept = "".join(sorted(char for char in self._alphabet if _is_mark(char)))
            steps.append(f"marks {kept}" if kept else "no marks")
            steps += [self._case] if self._case else []
        steps.append(tokenizer.normalization if tokenizer is not None else self._rule.name.split(", ")[-1])
        self.name = ", ".join(steps)
        """Of the whole rule, for the manifest: its steps in their order."""

    def __call__(self, text: str, language: str | None = None) -> str:
        """The words of a label with single spaces between them."""
        if self._numbers:
            text = spoken(text, language)
        text = self._rule(text)
        if self._tokenizer is None:
            return text
        if self._fit:
            text = self._fitted(text)
        return self._tokenizer.normalize(text)

    def _fitted(self, text: str) -> str:
        if self._case is not None:
            text = text.upper() if self._case == "upper" else text.lower()
        for other in APOSTROPHES[1:]:
            if other not in self._alphabet:
                text = text.replace(other, "'")
        last = len(text) - 1
        written = [
            char if not _is_mark(char) or (char in self._alphabet and char != "'")
            else ("'" if "'" in self._alphabet else "")
            if char == "'" and 0 < place < last and text[place - 1].isalnum() and text[place + 1].isalnum()
            else " "
            for place, char in enumerate(text)
        ]  # fmt: skip
        return " ".join("".join(written).split())

    def unknown(self, text: str) -> str:
        """The characters of a written label that the pieces cannot spell, each once; none without pieces."""
        if self._tokenizer is None or self._tokenizer.unk_id not in self._tokenizer.encode(text):
            return ""
        return "".join(dict.fromkeys(char for char in text if char not in self._alphabet)) or text[:1]


def _alphabet(tokenizer: Tokenizer) -> frozenset[str]:
    """The characters of the pieces; a space is none of them that would have to be looked for."""
    pieces = (tokenizer.piece(index) for index in range(tokenizer.unk_id + 1, tokenizer.vocab_size))
    found = {char for piece in pieces if not re.fullmatch(r"<0x[0-9A-F]{2}>", piece) for char in piece}
    return frozenset(found - {WORD_START}) | {" "}


def _case(alphabet: frozenset[str]) -> str | None:
    """`upper` or `lower` where the pieces have letters of that case alone."""
    upper, lower = any(map(str.isupper, alphabet)), any(map(str.islower, alphabet))
    return None if upper == lower else "upper" if upper else "lower"


def _is_mark(char: str) -> bool:
    return unicodedata.category(char)[0] in "PS"
