"""`lpm`: the transducer loss of weighted labels, on hypotheses that share one encoder forward.

Local prior matching (Hsu, Lee, Synnaeve and Hannun 2020, arXiv 2002.10336) minimizes
`sum_k w_k * -log P(y_k | x)` over the labels `y_k` of an utterance `x`; no gradient reaches the weights.
"""

# Shapes: B utterances, N hypotheses of all of them, T encoder frames, S pieces, D width.

import torch
from torch import Tensor

from kdasr.data.batch import Batch
from kdasr.distillation.lattice import LatticeBuilder
from kdasr.distillation.objective_config import RnntConfig
from kdasr.distillation.terms.rnnt import is_warm, rnnt_term
from kdasr.models.encoders.base import EncoderOutput
from kdasr.models.transducer.model import Transducer, TransducerOutput
from kdasr.self_training.labels import Labels


def tiled_nll(
    model: Transducer,
    encoded: EncoderOutput,
    labels: Labels,
    lattices: LatticeBuilder,
    config: RnntConfig,
    step: int,
) -> Tensor:
    """The transducer loss (N,) in nats of each hypothesis: as `rnnt` is for a transcript.

    Args:
        model: the student.
        encoded: its encoder's output for the utterances; hypotheses take rows of it.
        labels: at least one hypothesis.
        lattices: prunes and evaluates.
        config: the warm-up of `rnnt`.
        step: optimizer steps since the student began from scratch.
    """
    device = encoded.encoded_BTD.device
    owners_N = torch.tensor(labels.owners)
    tokens_NS, token_lens_N = labels.padded()
    tokens_NS = tokens_NS.to(device)
    output = TransducerOutput(
        encoded_BTD=encoded.encoded_BTD[owners_N.to(device)],
        lens_B=encoded.lens_B[owners_N],
        hidden=[],
        predicted_BSD=model.predictor(tokens_NS),
    )
    hypotheses = _as_batch(tokens_NS, token_lens_N)
    warm = is_warm(config, step)
    lattice = lattices.build(model, output, hypotheses, train_simple=True, warm=warm)
    pruned_N = lattices.evaluate(lattice, warm=warm).rnnt_B
    return rnnt_term(config, step, lattice.simple_B, pruned_N)


def weighted_sums(nll_N: Tensor, labels: Labels) -> Tensor:
    """`sum_k w_k * nll_k` (B,) of each utterance; 0 without a label, infinite where no path fits one."""
    sums_B = torch.zeros(labels.num_utterances, dtype=nll_N.dtype, device=nll_N.device)
    owners_N = torch.tensor(labels.owners, device=nll_N.device)
    weighted_N = labels.weights_N.to(nll_N) * nll_N
    return sums_B.index_add(0, owners_N, weighted_N.masked_fill(nll_N.detach() == torch.inf, torch.inf))


def nothing_to_learn(model: Transducer) -> Tensor:
    """A zero that depends on every trained parameter, for a batch without labels.

    Its backward pass takes part in what several processes do together; no gradient changes.
    """
    trained = [parameter.sum() for parameter in model.parameters() if parameter.requires_grad]
    return 0.0 * torch.stack(trained).sum()


def _as_batch(tokens_NS: Tensor, token_lens_N: Tensor) -> Batch:
    """The hypotheses in the form that lattices are built from; their features are encoded already."""
    names = [""] * len(tokens_NS)
    nothing = torch.zeros(len(tokens_NS), 0, 0)
    return Batch(nothing, torch.zeros_like(token_lens_N), tokens_NS, token_lens_N, names, names, 0.0)
