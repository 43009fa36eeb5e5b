"""Whether the Triton kernels give the right losses on this GPU, found out before a training begins.

A driver, a GPU or a Triton that nobody has tried may refuse to compile a kernel, or compute something else.
Losses, divergences and gradients of a small lattice are compared with torch's own operations in float64 on
the CPU. Where they differ, everything falls back to torch's operations on the GPU.
"""

# Shapes: B utterances, T frames, S symbols, V classes, D joiner width.

import logging

import torch
from torch import Tensor

from kdasr.losses.lattice import kernels
from kdasr.losses.lattice.joiner import Joint
from kdasr.losses.lattice.joint import joint_losses
from kdasr.losses.lattice.kl import KlForm, PowerKl
from kdasr.losses.lattice.power import PowerRule
from kdasr.losses.pruned_rnnt import get_rnnt_prune_ranges, rnnt_loss_simple

logger = logging.getLogger(__name__)

TOLERANCE = 1e-3
"""Of a value, relative to the largest one of its tensor."""
_SYMBOLS_BS = torch.tensor([[1, 2, 2], [3, 1, 0]])
_BOUNDARY_B4 = torch.tensor([[0, 0, 3, 6], [0, 0, 2, 4]])


def check_kernels(device: torch.device | str) -> bool:
    """Compare the kernels on `device` with torch on the CPU; where they are wrong, they are not used again.

    Returns:
        Whether they are right, or there are none.
    """
    if not kernels.are_used():
        return True
    try:
        fault = _fault(torch.device(device))
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever a compiler or a driver says
        fault = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    if fault is None:
        logger.info("Triton's kernels agree with torch on a small lattice")
        return True
    kernels.disable()
    logger.warning("Triton's kernels are not used, torch's own operations are: %s", fault)
    return False


def _fault(device: torch.device) -> str | None:
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, 6, 4), (2, 4, 4), (5, 4), (5,))
    tensors = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes * 2]
    names = ("simple loss", "pruned loss", "divergence", *(f"gradient {number}" for number in range(4)))
    expected, found = _losses_of(tensors), _losses_of([tensor.float().to(device) for tensor in tensors])
    for name, right, ours in zip(names, expected, found, strict=True):
        error = float((ours.double().cpu() - right).abs().max() / right.abs().max())
        if not error <= TOLERANCE:  # NaN included
            return f"the {name} of a small lattice is off by {error:.1e} of its largest value"
    return None


def _losses_of(tensors: list[Tensor]) -> list[Tensor]:
    """Simple loss, pruned loss, divergence, and the gradients of their weighted sum."""
    student, teacher = (
        Joint(*(tensor.clone().requires_grad_() for tensor in tensors[:4])),
        Joint(*tensors[4:]),
    )
    device = student.am_BTD.device
    symbols_BS, boundary_B4 = _SYMBOLS_BS.to(device), _BOUNDARY_B4.to(device)
    am_BTV, lm_BSV = (hidden @ student.weight_VD.t() for hidden in student[:2])
    simple_B, (px_grad, py_grad) = rnnt_loss_simple(
        lm_BSV, am_BTV, symbols_BS, 0, boundary_B4, reduction="none", return_grad=True
    )
    # All states: a narrower band might be another one where two arcs are nearly alike.
    ranges_BTK = get_rnnt_prune_ranges(px_grad, py_grad, boundary_B4, 4)
    frames_T = torch.arange(6, device=device)
    inside_BTK = (frames_T < boundary_B4[:, 3:4])[:, :, None] & (ranges_BTK <= boundary_B4[:, 2, None, None])
    term = PowerKl(teacher, PowerRule("entropy", entropy_floor=1.0), KlForm(), inside_BTK, by_occupation=True)
    losses = joint_losses(student, symbols_BS, ranges_BTK, 0, _BOUNDARY_B4, nodes=[term])
    divergence_B = losses.nodes[0].value_B
    total = (0.5 * simple_B + losses.rnnt_B + 2 * divergence_B).sum()
    gradients = torch.autograd.grad(total, student)
    return [value.detach() for value in (simple_B, losses.rnnt_B, divergence_B, *gradients)]
