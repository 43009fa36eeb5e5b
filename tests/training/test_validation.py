"""Dev scores: a recognizer that says what the pieces spell makes no error, in words or in characters."""

from pathlib import Path

import pytest
from lightning_fabric import Fabric
from tiny_system import random_batch, small_model, small_objective

from kdasr.data.tokenizer import train_tokenizer
from kdasr.decoding.hypothesis import Hypothesis
from kdasr.nn.context import Context
from kdasr.training import transducer
from kdasr.training.module import TrainingModule
from kdasr.training.transducer import validate_transducer as validate
from kdasr.training.validation import Validation

ODD = ["CAFE\u0301 \uff11\uff12", "Nº 5\u2026", "a\u200bb\u0085c"]
CHINESE = ["今天天气很好", "我们去公园 好吗", "开灯"]


def measure(texts: list[str], said: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> Validation:
    """What validation says of a recognizer that says `said` where the transcripts are `texts`."""
    tokenizer = train_tokenizer(texts + said, 60, folder, at_most=True)
    batch = random_batch(0)
    batch.texts = texts
    pieces = [tuple(tokenizer.encode(text)) for text in said]
    hypotheses = [Hypothesis(list(row), list(range(len(row)))) for row in pieces]
    monkeypatch.setattr(transducer, "greedy_search", lambda *_: hypotheses)
    fabric = Fabric(accelerator="cpu", devices=1)
    module = TrainingModule(small_model(), small_objective())
    found = validate(fabric, module, [batch], tokenizer, Context.full(), {"rnnt": 1.0})
    assert found is not None
    return found


@pytest.mark.parametrize("texts", [ODD, CHINESE])
def test_a_perfect_recognizer_is_charged_with_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, texts: list[str]
) -> None:
    assert measure(texts, texts, tmp_path, monkeypatch).scores == {"wer": 0.0, "cer": 0.0}


def test_cer_chooses_the_checkpoint_without_word_spaces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = [CHINESE[0].replace("今", "明"), *CHINESE[1:]]
    found = measure(CHINESE, said, tmp_path, monkeypatch)
    # One of 6 + 8 + 2 characters (a space among them), one of 1 + 2 + 1 words.
    assert found.scores == {"wer": pytest.approx(100 / 4), "cer": pytest.approx(100 / 16)}
    assert found.criterion == found.scores["cer"]
    words = measure(["ONE TWO", "SIX", "TEN"], ["ONE TEN", "SIX", "TEN"], tmp_path, monkeypatch)
    assert words.criterion == words.scores["wer"] == pytest.approx(100 / 4)
