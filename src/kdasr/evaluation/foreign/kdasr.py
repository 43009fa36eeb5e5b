"""Our own `utterances.jsonl`, whose words say when they were shown."""

from pathlib import Path

from kdasr.evaluation.foreign.base import (
    HeardWord,
    Hypothesis,
    json_lines,
    not_in_format,
    register_format,
)
from kdasr.evaluation.latency import first_visible
from kdasr.recognition.result import WordSpan, group_words


@register_format("kdasr")
def read(path: Path) -> list[Hypothesis]:
    """Words with the time at which their first and last piece could be shown.

    Raises:
        UserError: not a file of `kdasr decode`.
    """
    found = []
    for number, entry in json_lines(path, "kdasr"):
        try:
            shown = [float(token["shown"]) for token in entry["tokens"]]
            pieces = [str(token["piece"]) for token in entry["tokens"]]
            spans = group_words(pieces, entry.get("breaks", ()))
            words = [_word(span, pieces, shown) for span in spans]
            found.append(Hypothesis(str(entry["id"]), words))
        except KeyError as error:
            raise not_in_format(path, number, "kdasr", f"no {error}") from None
        except (TypeError, ValueError) as error:
            raise not_in_format(path, number, "kdasr", error) from None
    return found


def _word(span: WordSpan, pieces: list[str], shown: list[float]) -> HeardWord:
    begin, end = span.first_token, span.last_token + 1
    visible = begin + first_visible(pieces[begin:end])
    return HeardWord(span.text, shown[visible], max(shown[begin:end]))
