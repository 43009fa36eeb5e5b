"""Three utterances with few enough paths to list them, and the divergence between paths on them."""

import torch
from torch import Tensor

from kdasr.losses.lattice.joiner import Joint
from kdasr.losses.lattice.joint import JointLosses, joint_losses
from kdasr.losses.lattice.path_kl import PathForm, PathKl
from kdasr.losses.lattice.teacher_band import teacher_band

SYMBOLS = torch.tensor([[1, 2, 4], [3, 1, 2], [4, 4, 4]])
BOUNDARY = torch.tensor([[0, 0, 3, 4], [0, 0, 2, 3], [0, 0, 0, 4]])
FULL = torch.arange(4).expand(3, 4, 4)
PRUNED = torch.tensor([[0, 0, 1, 1], [0, 0, 0, 1], [0, 0, 0, 0]])[:, :, None] + torch.arange(3)
NARROW = torch.tensor([[0, 1, 2, 2], [0, 0, 1, 1], [0, 0, 0, 0]])[:, :, None] + torch.arange(2)
PLAIN = PathForm()


def random_joint(seed: int = 0, dtype: torch.dtype = torch.float64) -> Joint:
    generator = torch.Generator().manual_seed(seed)
    shapes = ((3, 4, 6), (3, 4, 6), (5, 6), (5,))
    return Joint(
        *(torch.randn(*shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes)
    )


def evaluate(
    student: Joint,
    teacher: Joint,
    form: PathForm = PLAIN,
    ranges: Tensor = FULL,
    rnnt_type: str = "regular",
    **options,
) -> JointLosses:
    path = PathKl(teacher_band(teacher, SYMBOLS, ranges, 0, BOUNDARY, rnnt_type), form)
    return joint_losses(student, SYMBOLS, ranges, 0, BOUNDARY, rnnt_type=rnnt_type, paths=[path], **options)
