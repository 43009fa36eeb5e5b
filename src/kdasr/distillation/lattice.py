"""The student's pruned lattice: what `rnnt` is computed on, and `output_kl` too.

Kuang et al. 2022 (arXiv 2206.13236): the simple loss tells which states of each frame matter, and the full
joiner runs on those only.

Shapes: B utterances, T encoder frames, S pieces, K states kept per frame, V pieces, D widths.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from kdasr.data.batch import Batch
from kdasr.distillation.config import RnntConfig
from kdasr.losses.pruned_rnnt import Backend, rnnt_loss_pruned_with_occupation, select_backend
from kdasr.losses.pruned_rnnt.backend import NATIVE
from kdasr.models.transducer.model import Transducer, TransducerOutput

BLANK = 0


@dataclass(frozen=True)
class PrunedLattice:
    """A band of states around each utterance's alignment, and the student's logits on it."""

    simple_B: Tensor
    """The simple loss in nats, with gradient when asked for."""
    ranges_BTK: Tensor
    """States (pieces emitted so far) of each frame."""
    boundary_B4: Tensor
    """`[0, 0, pieces, frames]` on the device of the logits."""
    tokens_BS: Tensor
    logits_BTKV: Tensor

    @property
    def valid(self) -> Tensor:
        """`(B, T, K)`: whether a node is inside its utterance."""
        frames = torch.arange(self.ranges_BTK.shape[1], device=self.ranges_BTK.device)
        inside_time_BT = frames < self.boundary_B4[:, 3:4]
        return inside_time_BT[:, :, None] & (self.ranges_BTK <= self.boundary_B4[:, 2, None, None])


class LatticeBuilder:
    """Builds pruned lattices and evaluates the transducer loss on them."""

    def __init__(self, config: RnntConfig) -> None:
        self.config = config
        self._chosen = select_backend(config.backend)
        self._native = NATIVE

    def build(
        self, model: Transducer, output: TransducerOutput, batch: Batch, *, train_simple: bool, warm: bool
    ) -> PrunedLattice:
        """Prune by the simple loss and run the joiner on what is left.

        `train_simple`: the simple loss is part of the total; otherwise no gradient is kept for it. `warm`:
        the delay penalty applies (Kang et al. 2022, arXiv 2211.00490, turn it on once the model can align).
        """
        functions = self._functions(batch)
        device = output.encoded_BTD.device
        boundary_B4 = _boundary(batch.token_lens_B, output.lens_B).to(device)
        with torch.set_grad_enabled(train_simple and torch.is_grad_enabled()):
            simple_B, (px_grad, py_grad) = functions.rnnt_loss_smoothed(
                lm=model.simple_lm(output.predicted_BSD).float(),
                am=model.simple_am(output.encoded_BTD).float(),
                symbols=batch.tokens_BS,
                termination_symbol=BLANK,
                lm_only_scale=self.config.lm_scale,
                am_only_scale=self.config.am_scale,
                boundary=boundary_B4,
                rnnt_type=self.config.rnnt_type,
                delay_penalty=self._delay_penalty(warm),
                reduction="none",
                return_grad=True,
            )
        ranges_BTK = functions.get_rnnt_prune_ranges(
            px_grad=px_grad, py_grad=py_grad, boundary=boundary_B4, s_range=self.config.prune_range
        )
        joiner = model.joiner
        am, lm = functions.do_rnnt_pruning(
            am=joiner.project_encoder(output.encoded_BTD),
            lm=joiner.project_predictor(output.predicted_BSD),
            ranges=ranges_BTK,
        )
        return PrunedLattice(simple_B, ranges_BTK, boundary_B4, batch.tokens_BS, joiner(am, lm))

    def pruned_loss(self, lattice: PrunedLattice, *, warm: bool) -> tuple[Tensor, Tensor | None]:
        """The pruned loss `(B,)` in nats, and the nodes' occupations where the backend gives them."""
        penalty = self._delay_penalty(warm)
        if self._chosen.name == "native" or not lattice.tokens_BS.shape[1]:
            return rnnt_loss_pruned_with_occupation(
                lattice.logits_BTKV,
                lattice.tokens_BS,
                lattice.ranges_BTK,
                BLANK,
                lattice.boundary_B4,
                self.config.rnnt_type,
                penalty,
            )
        loss_B = self._chosen.rnnt_loss_pruned(
            logits=lattice.logits_BTKV.float(),
            symbols=lattice.tokens_BS,
            ranges=lattice.ranges_BTK,
            termination_symbol=BLANK,
            boundary=lattice.boundary_B4,
            rnnt_type=self.config.rnnt_type,
            delay_penalty=penalty,
            reduction="none",
        )
        return loss_B, None

    @torch.no_grad()
    def occupation(self, lattice: PrunedLattice) -> Tensor:
        """How likely the student's paths are to pass through each node, `(B, T, K)`."""
        _, occupation_BTK = rnnt_loss_pruned_with_occupation(
            lattice.logits_BTKV.detach(),
            lattice.tokens_BS,
            lattice.ranges_BTK,
            BLANK,
            lattice.boundary_B4,
            self.config.rnnt_type,
        )
        return occupation_BTK

    def _functions(self, batch: Batch) -> Backend:
        # k2 asserts on a batch whose transcripts are all empty.
        return self._chosen if batch.tokens_BS.shape[1] else self._native

    def _delay_penalty(self, warm: bool) -> float:
        return self.config.delay_penalty if warm else 0.0


def _boundary(token_lens_B: Tensor, lens_B: Tensor) -> Tensor:
    zeros_B = torch.zeros_like(lens_B)
    return torch.stack((zeros_B, zeros_B, token_lens_B, lens_B), dim=1)
