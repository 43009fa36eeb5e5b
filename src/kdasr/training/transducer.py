"""What a transducer is measured by: dev losses by term, and WER and CER by greedy search, offline, under the
context of decoding."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from math import nan

import torch
from lightning_fabric import Fabric

from kdasr.common.logging import get_logger
from kdasr.data.batch import Batch
from kdasr.data.text_normalization import split_words
from kdasr.data.tokenizer import Tokenizer
from kdasr.decoding.greedy import greedy_search
from kdasr.distillation.step import StepInput, StepObjective, TrainBatch
from kdasr.evaluation.measure import Writing
from kdasr.evaluation.wer import character_errors, word_errors
from kdasr.models.joiner import TANH
from kdasr.models.transducer.model import Transducer
from kdasr.nn.context import Context
from kdasr.training.module import TrainingModule
from kdasr.training.resume import gather
from kdasr.training.validation import WARM, Validation, sum_over_batches

logger = get_logger(__name__)


def validate_transducer(
    fabric: Fabric,
    module: TrainingModule,
    batches: Iterable[TrainBatch],
    tokenizer: Tokenizer,
    context: Context,
    loss_weights: dict[str, float],
    should_stop: Callable[[], bool] = lambda: False,
) -> Validation | None:
    """Evaluate on all of `batches`, shared out among the processes. Changes no random state.

    Returns:
        The results, the same on every process; None on all when `should_stop` said so on one of them.
    """
    measure = _Measure(fabric, module, tokenizer, context, loss_weights)
    sums = sum_over_batches(fabric, module, batches, measure, should_stop)
    if sums is None:
        return None
    bad = [name for part in gather(fabric, {"ids": measure.left_out}) for name in part["ids"]]
    if bad:
        logger.warning("dev utterances whose loss is not finite, left out of it: %s", " ".join(bad))
    return _summarize(sums, loss_weights)


def validate_model(
    fabric: Fabric,
    model: Transducer,
    objective: StepObjective,
    batches: Iterable[TrainBatch],
    tokenizer: Tokenizer,
    context: Context,
) -> Validation:
    """`validate_transducer` for a model that is not being trained: the transducer loss, if it could be
    trained, and the scores. It hears its own kind of features.

    The modes of `model` and of `objective` stay as they were.
    """
    modes = model.training, objective.training
    module = TrainingModule(model, objective)
    losses = {"rnnt": 1.0} if model.joiner.activation == TANH else {}
    measured = validate_transducer(fabric, module, batches, tokenizer, context, losses)
    assert measured is not None  # nobody asks it to stop
    model.train(modes[0])
    objective.train(modes[1])
    return measured


@dataclass(frozen=True)
class _Measure:
    """What a batch adds: every term times its denominator, that denominator, errors and words."""

    fabric: Fabric
    module: TrainingModule
    tokenizer: Tokenizer
    context: Context
    loss_weights: dict[str, float]
    left_out: list[str] = field(default_factory=list)
    """Utterances with a term that is not finite. It would make that of the whole dev part so, at every
    validation: they count in no term; nor in the word errors if what is encoded of them is not finite
    either."""

    def __call__(self, batch: TrainBatch) -> dict[str, float]:
        module = self.module
        assert isinstance(batch, Batch) and isinstance(module.model, Transducer)
        if module.model.geometry.features != batch.kind:
            batch = batch.for_teacher()
        if not self.loss_weights:
            return self._scores(batch)
        own = module.count([batch])
        inputs = StepInput(
            batch, loss_weights=self.loss_weights, context=self.context, step=WARM, denominators=own
        )
        with self.fabric.autocast():
            losses = module(inputs)
        finite_B = torch.stack([value_B.isfinite() for value_B in losses.per_utterance.values()]).all(0).cpu()
        self.left_out.extend(
            name for name, good in zip(batch.ids, finite_B.tolist(), strict=True) if not good
        )
        frames_B = module.model.geometry.num_frames(batch.feature_lens_B)
        frames, utterances = float(frames_B[finite_B].sum()), float(finite_B.sum())
        sums = {}
        for name in losses.terms:
            sums[f"count {name}"] = frames if name in losses.per_frame else utterances
            sums[f"term {name}"] = float(losses.per_utterance[name].cpu()[finite_B].double().sum())
        return {**sums, **self._scores(batch)}

    def _scores(self, batch: Batch) -> dict[str, float]:
        """Errors and words."""
        model = self.module.model
        assert isinstance(model, Transducer)
        with self.fabric.autocast():
            encoded = model.encode(batch.features_BTF, batch.feature_lens_B, self.context)
            hypotheses = greedy_search(model, encoded.encoded_BTD, encoded.lens_B)
        sums: dict[str, float] = {}
        heard_B = encoded.encoded_BTD.isfinite().flatten(1).all(dim=1).tolist()
        for text, hypothesis, heard in zip(batch.texts, hypotheses, heard_B, strict=True):
            if not heard:
                continue
            said = self.tokenizer.decode(hypothesis.tokens)
            for name, value in _score(self.tokenizer.normalize(text), said).items():
                sums[name] = sums.get(name, 0.0) + value
        return sums


def _score(ref: str, hyp: str) -> dict[str, int]:
    """Errors and lengths of an utterance in words and in characters, and what tells which of them count."""
    ref_words, hyp_words = split_words(ref), split_words(hyp)
    words, characters = word_errors(ref_words, hyp_words), character_errors(ref_words, hyp_words)
    return {
        "errors": words.total,
        "words": words.words,
        "char_errors": characters.total,
        "chars": characters.words,
        **asdict(Writing.of([ref])),
    }


def _summarize(sums: Mapping[str, float], loss_weights: dict[str, float]) -> Validation:
    terms = {}
    for name in (key.removeprefix("term ") for key in sums if key.startswith("term ")):
        count = sums[f"count {name}"]
        terms[name] = sums[f"term {name}"] / count if count else nan
    total = sum(weight * terms[name] for name, weight in loss_weights.items())
    scores = {
        "wer": 100.0 * sums.get("errors", 0.0) / max(sums.get("words", 0.0), 1.0),
        "cer": 100.0 * sums.get("char_errors", 0.0) / max(sums.get("chars", 0.0), 1.0),
    }
    writing = Writing(**{entry.name: int(sums.get(entry.name, 0)) for entry in fields(Writing)})
    scores = {writing.measure: scores[writing.measure], **scores}
    return Validation(total=total, terms=terms, scores=scores)
