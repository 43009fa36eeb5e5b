"""Distillation without transcripts: the same terms as with them, on what the teacher says."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_system import (
    CHUNKED,
    Letters,
    random_batch,
    small_config,
    small_model,
)
from torch import Tensor

from kdasr.common.errors import UserError
from kdasr.data.batch import Batch
from kdasr.decoding.beam import beam_search
from kdasr.decoding.expansion import BeamOptions
from kdasr.decoding.greedy import greedy_search
from kdasr.distillation.objective import Objective
from kdasr.distillation.objective_config import HypothesisConfig, RnntConfig, UnpairedConfig
from kdasr.distillation.step import Losses, StepInput
from kdasr.distillation.teacher import TransducerTeacher
from kdasr.distillation.terms import ObjectiveConfig
from kdasr.models.transducer.model import Transducer
from kdasr.nn.context import Context
from kdasr.self_training.hypotheses import (
    Hypotheses,
    UnpairedDistillation,
    load_texts,
    with_pieces,
)

ALL_TERMS = {
    "rnnt": 1.0,
    "ctc": 0.5,
    "hidden_mse": 2.0,
    "output_kl": 0.5,
    "path_kl": 0.3,
    "rnnt_full": 0.5,
    "mode_kl": 0.4,
}
PAIRED = random_batch(3)
SAID = [
    row[:count] for row, count in zip(PAIRED.tokens_BS.tolist(), PAIRED.token_lens_B.tolist(), strict=True)
]
UNPAIRED = replace(with_pieces(PAIRED, [[]] * 3), texts=[""] * 3, paired=False)
GREEDY = BeamOptions(beam=1)


class Says(TransducerTeacher):
    """Says what it is told, and remembers what it heard."""

    def __init__(self, pieces: list[list[int]]) -> None:
        super().__init__(small_model(seed=7), Context.full())
        self.pieces = pieces
        self.heard: list[Tensor] = []
        self.encoded: list[Tensor] = []

    def transcribe(self, batch: Batch, search: BeamOptions) -> list[list[int]]:
        self.heard.append(batch.features_BTF)
        return self.pieces

    def encode(self, batch: Batch) -> Any:
        self.encoded.append(batch.features_BTF)
        return super().encode(batch)


def make_objective(
    teacher: TransducerTeacher | None = None, source: str = "search", weight: float = 1.0, **parts: Any
) -> UnpairedDistillation:
    teacher = teacher or Says(SAID)
    config = ObjectiveConfig(rnnt=RnntConfig(backend="native", warmup_steps=0))
    torch.manual_seed(3)
    objective = Objective(config, small_config(), teacher)
    says = Hypotheses(teacher if source == "search" else None, GREEDY, Letters(), **parts)
    options = UnpairedConfig(weight=weight, hypothesis=HypothesisConfig(source=source))
    return UnpairedDistillation(objective, options, says)


def compute(
    objective: UnpairedDistillation, batch: Batch, terms: dict[str, float], **options: Any
) -> tuple[Losses, dict[str, Tensor]]:
    """Losses and the gradients of a fresh student."""
    model = small_model()
    losses = objective(model, StepInput(batch, loss_weights=terms, context=CHUNKED, step=9, **options))
    losses.total.backward()
    found = {**dict(model.named_parameters()), **dict(objective.named_parameters())}
    return losses, {name: p.grad for name, p in found.items() if p.grad is not None}


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


def test_a_hypothesis_that_is_the_transcript_trains_as_the_transcript_does() -> None:
    """Bit for bit, in the loss, in every term and in the gradient."""
    objective = make_objective()
    paired, gradients = compute(objective, PAIRED, ALL_TERMS)
    unpaired, same = compute(make_objective(), UNPAIRED, ALL_TERMS)
    assert torch.equal(paired.total, unpaired.total)
    assert_equal(gradients, same)
    assert {f"unpaired_{name}" for name in paired.terms} == set(unpaired.terms) - {"empty_labels"}
    assert {f"unpaired_{name}" for name in paired.per_frame} == unpaired.per_frame
    for name, value in paired.terms.items():
        assert torch.equal(value, unpaired.terms[f"unpaired_{name}"]), name


def test_terms_without_text_are_the_same_whatever_is_said() -> None:
    terms = {"hidden_mse": 2.0}
    expected = compute(make_objective(), PAIRED, terms)
    teacher = Says([[3], [], [4, 5]])
    for source in ("search", "none"):
        found = compute(make_objective(teacher, source), UNPAIRED, terms)
        assert torch.equal(found[0].total, expected[0].total)
        assert_equal(found[1], expected[1])
    assert not teacher.heard  # nothing was searched that no term asks for


def test_without_text_only_terms_that_need_none_are_left() -> None:
    losses, _ = compute(make_objective(source="none"), UNPAIRED, ALL_TERMS)
    assert set(losses.terms) == {"unpaired_hidden_mse"}
    alone, _ = compute(make_objective(), UNPAIRED, {"hidden_mse": 2.0})
    assert torch.equal(losses.total, alone.total)


def test_another_hypothesis_is_another_loss() -> None:
    said = compute(make_objective(), UNPAIRED, {"output_kl": 1.0})[0].total
    other = compute(make_objective(Says([[3], [], [4, 5]])), UNPAIRED, {"output_kl": 1.0})[0]
    assert not torch.isclose(said, other.total)
    assert float(other.terms["empty_labels"]) == pytest.approx(1 / 3)


def test_the_weight_scales_the_gradient_and_a_stage_may_name_other_terms() -> None:
    _, whole = compute(make_objective(), UNPAIRED, ALL_TERMS, unpaired_weights={"output_kl": 1.0})
    _, half = compute(make_objective(weight=0.5), UNPAIRED, ALL_TERMS, unpaired_weights={"output_kl": 1.0})
    _, alone = compute(make_objective(), UNPAIRED, {"output_kl": 1.0})
    assert_equal(whole, alone)
    for name, value in whole.items():
        torch.testing.assert_close(half[name], 0.5 * value)
    _, paired = compute(make_objective(weight=0.5), PAIRED, ALL_TERMS, unpaired_weights={"output_kl": 1.0})
    assert_equal(paired, compute(make_objective(), PAIRED, ALL_TERMS)[1])


@pytest.mark.parametrize("search_copy", [False, True])
def test_the_search_hears_no_masks(search_copy: bool) -> None:
    """Of a copy for the search alone, terms of the teacher know nothing."""
    teacher, plain = Says(SAID), torch.randn_like(PAIRED.features_BTF)
    batch = replace(UNPAIRED, teacher_features_BTF=plain)
    compute(make_objective(teacher, search_copy=search_copy), batch, ALL_TERMS)
    assert torch.equal(teacher.heard[0], plain)
    assert torch.equal(teacher.encoded[0], UNPAIRED.features_BTF if search_copy else plain)


def talkative() -> Transducer:
    model = small_model(seed=7)
    with torch.no_grad():
        model.joiner.output.weight.mul_(8.0)
    return model


@pytest.mark.parametrize("beam", [1, 3])
def test_a_transducer_says_what_its_search_finds(beam: int) -> None:
    model = talkative()
    found = TransducerTeacher(model, CHUNKED).transcribe(PAIRED, BeamOptions(beam=beam))
    encoded = model.encode(PAIRED.features_BTF, PAIRED.feature_lens_B, CHUNKED)
    if beam == 1:
        expected = [one.tokens for one in greedy_search(model, encoded.encoded_BTD, encoded.lens_B)]
    else:
        listed = beam_search(model, encoded.encoded_BTD, encoded.lens_B, BeamOptions(beam=beam))
        expected = [entries[0].tokens for entries in listed]
    assert found == expected and any(found)
    silent = TransducerTeacher(model, CHUNKED).transcribe(PAIRED, BeamOptions(beam=beam, blank_penalty=-1e3))
    assert silent == [[], [], []]


def test_the_log_compares_with_the_transcripts_that_are_known() -> None:
    """Of three pieces one is wrong and one is missing."""
    letters = Letters()
    teacher = Says([[3, 4], [5], []])
    transcripts = {PAIRED.ids[0]: letters.decode([3, 5, 6])}
    losses, _ = compute(make_objective(teacher, transcripts=transcripts), UNPAIRED, {"rnnt": 1.0})
    found = {name: 3 * float(losses.terms[name]) for name in ("label_errors", "label_words", "empty_labels")}
    assert found == pytest.approx({"label_errors": 2.0, "label_words": 3.0, "empty_labels": 1.0})


def test_texts_of_another_teacher_or_of_other_utterances_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "hypotheses.json"
    path.write_text(
        '{"made_by": "a", "utterances": "b", "audio": "d", "texts": {"one": "A WORD", "two": ""}}'
    )
    assert load_texts(path, "a", "b", "d") == {"one": "A WORD", "two": ""}
    for of_other in (("c", "b", "d"), ("a", "c", "d"), ("a", "b", "c")):
        with pytest.raises(UserError, match=r"hypotheses\.json.* is c now; remove it"):
            load_texts(path, *of_other)
    path.write_text('{"made_by": "a", "utterances": "b", "texts": {"one": 1}}')
    with pytest.raises(UserError, match="damaged"):
        load_texts(path, "a", "b", "d")
    path.write_text('{"made_by": "a", "utterances": "b", "texts": {}}')  # of an earlier version
    assert load_texts(path, "a", "b", "d") == {}
