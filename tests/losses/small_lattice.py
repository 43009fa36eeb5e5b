"""Three utterances of different sizes, the last without a transcript, and random joiners for them."""

import torch
from torch import Tensor

from kdasr.losses import pruned_rnnt
from kdasr.losses.lattice.joiner import Joint

SYMBOLS = torch.tensor([[1, 2, 2, 4], [3, 1, 0, 0], [0, 0, 0, 0]])
BOUNDARY = torch.tensor([[0, 0, 4, 7], [0, 0, 2, 5], [0, 0, 0, 6]])


def random_joint(seed: int = 0, dtype: torch.dtype = torch.float64, width: int = 4, vocab: int = 6) -> Joint:
    generator = torch.Generator().manual_seed(seed)
    shapes = ((3, 7, width), (3, 5, width), (vocab, width), (vocab,))
    return Joint(
        *(torch.randn(*shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes)
    )


def ranges_of(joint: Joint, rnnt_type: str = "regular", s_range: int = 3) -> Tensor:
    """A band by the simple loss."""
    am, lm = (torch.nn.functional.linear(x.detach(), joint.weight_VD.detach()) for x in joint[:2])
    _, grads = pruned_rnnt.rnnt_loss_simple(lm, am, SYMBOLS, 0, BOUNDARY, rnnt_type, return_grad=True)
    return pruned_rnnt.get_rnnt_prune_ranges(*grads, BOUNDARY, s_range)


def valid_nodes(ranges: Tensor) -> Tensor:
    inside = torch.arange(ranges.shape[1]) < BOUNDARY[:, 3:4]
    return inside[:, :, None] & (ranges <= BOUNDARY[:, 2, None, None])
