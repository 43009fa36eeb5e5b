"""One spelling for all text that is compared with what a recognizer says.

A SentencePiece model normalizes text before it cuts it into pieces. By its usual rule `nmt_nfkc`, `CAFE` and
a combining accent become `CAFÉ`, full-width digits become digits, `Nº` becomes `No`, and a zero-width space
becomes a space. A model can only say what its pieces spell, so a reference that is not normalized charges a
perfect recognizer with errors. References, aligned words and text for language models therefore go through
the normalizer of the tokenizer. Letters keep their case, unless a rule of `kdasr.data.text_rules` was chosen,
which comes before that of SentencePiece.
"""

import re

import sentencepiece

from kdasr.data.text_rules import NONE, rule_named

WORD_START = "\u2581"
"""SentencePiece's mark at the start of a word."""
DEFAULT_RULE = "nmt_nfkc"
"""SentencePiece's own default, which `kdasr tokens` uses (NFKC of Unicode, with some of Moses's rules)."""


RULES = (DEFAULT_RULE, "nfkc", "nmt_nfkc_cf", "nfkc_cf", "identity")
"""Those that SentencePiece has under a name."""
OWN_RULE = "custom"
"""Of a model with a rule of its own, or that does not say which it has."""


class TextNormalizer:
    """What a tokenizer does to text before it cuts it into pieces. Picklable."""

    def __init__(self, model: bytes | None = None, rule: str = DEFAULT_RULE, written: str = NONE) -> None:
        """
        Args:
            model: a serialized SentencePiece model, whose rule it is.
            rule: without a model, one of SentencePiece's rules by name; `identity` changes no character.
            written: the rule by which text is written first, of `kdasr.data.text_rules`.

        Raises:
            RuntimeError: no model, or no such rule of SentencePiece.
            UserError: no such rule of ours.
        """
        self.write = rule_named(written)
        """That rule."""
        if model is not None:
            self._normalizer = sentencepiece.SentencePieceNormalizer(model_proto=model)
        else:
            self._normalizer = sentencepiece.SentencePieceNormalizer(rule_name=rule)
        self.name = _rule_name(self._normalizer.serialized_normalizer_spec())
        """Of the rule, for messages and results: one of `RULES`, or `OWN_RULE`; after that of `written`."""
        if written != NONE:
            self.name = f"{written}, {self.name}"

    def __call__(self, text: str) -> str:
        """The words that pieces of `text` would spell, with single spaces between them."""
        normalized = self._normalizer.Normalize(one_space(self.write(text)))
        return " ".join(split_words(normalized.replace(WORD_START, " ")))


def one_space(text: str) -> str:
    """A space for every run of white space.

    SentencePiece's rules keep some white space as a letter (U+0085) and join the words around another (a
    vertical tab).
    """
    return re.sub(r"\s+", " ", text)


def split_words(text: str) -> list[str]:
    """The words of a normalized text: what stands between spaces, and nothing else is one.

    `str.split` would also split at white space that is part of a piece.
    """
    return [word for word in text.split(" ") if word]


def _rule_name(spec: bytes) -> str:
    """The first field (a string, number 1) of a serialized `NormalizerSpec`."""
    if len(spec) < 2 or spec[0] != 0x0A or spec[1] >= 0x80:
        return OWN_RULE
    name = spec[2 : 2 + spec[1]].decode(errors="replace")
    return name if name in RULES else OWN_RULE
