"""What differs when the trainer trains a language model: the loss, and perplexity instead of word errors."""

from collections.abc import Callable, Iterable
from functools import partial
from math import exp, inf

import torch
from lightning_fabric import Fabric

from kdasr.data.tokenizer import Tokenizer
from kdasr.distillation.step import Denominators, Losses, StepInput, StepObjective, TrainBatch
from kdasr.language_model.loader import TextBatch
from kdasr.language_model.model import TransformerLanguageModel
from kdasr.nn.context import Context
from kdasr.training.module import TrainingModule
from kdasr.training.validation import Validation, sum_over_batches

# Shapes: B sentences.

TERM = "nll"
"""The only term: negative log-likelihood, in nats per prediction (pieces and ends)."""


class LanguageModelObjective(StepObjective):
    """Negative log-likelihood of sentences, in the place of a transducer's `Objective`."""

    def count(self, batch: TextBatch) -> Denominators:
        """Predictions (pieces and ends) and sentences."""
        return Denominators(float(batch.num_predictions), float(len(batch)))

    def forward(self, model: TransformerLanguageModel, inputs: StepInput) -> Losses:
        """The loss of a batch; neither context nor step matters."""
        batch: TextBatch = inputs.batch
        nll_B = -model.log_probs(batch.tokens_BS, batch.token_lens_B)
        mean = nll_B.sum() / (inputs.denominators or self.count(batch)).frames
        return Losses(
            total=inputs.loss_weights[TERM] * mean,
            terms={TERM: mean.detach()},
            per_utterance={TERM: nll_B.detach()},
            per_frame=frozenset({TERM}),
        )


def validate_language_model(
    fabric: Fabric,
    module: TrainingModule,
    batches: Iterable[TrainBatch],
    tokenizer: Tokenizer,
    context: Context,
    loss_weights: dict[str, float],
    should_stop: Callable[[], bool] = lambda: False,
) -> Validation | None:
    """Perplexity of dev sentences, in the place of `validate`.

    `ppl` is per prediction of a piece or an end. `word_ppl` spreads the same sum over words and ends, as
    SRILM's `ppl` does (Stolcke 2002), so that models with other pieces compare.
    """
    measure = partial(_batch_sums, fabric, module)
    sums = sum_over_batches(fabric, module, batches, measure, should_stop)
    if sums is None:
        return None
    nll = sums["nll"] / sums["predictions"]
    return Validation(
        total=loss_weights[TERM] * nll,
        terms={TERM: nll},
        scores={"ppl": _exp(nll), "word_ppl": _exp(sums["nll"] / (sums["words"] + sums["sentences"]))},
    )


def _batch_sums(fabric: Fabric, module: TrainingModule, batch: TrainBatch) -> dict[str, float]:
    assert isinstance(batch, TextBatch) and isinstance(module.model, TransformerLanguageModel)
    with fabric.autocast():
        log_probs_B = module.model.log_probs(batch.tokens_BS, batch.token_lens_B)
    return {
        "nll": -float(log_probs_B.sum(dtype=torch.float64)),
        "predictions": batch.num_predictions,
        "words": batch.num_words,
        "sentences": len(batch),
    }


def _exp(value: float) -> float:
    return exp(value) if value < 700 else inf
