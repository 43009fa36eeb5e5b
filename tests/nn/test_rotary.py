"""Rotary embeddings: rotations, of which only differences count."""

import pytest
import torch

from kdasr.nn.rotary import Rotation, rotary_tables, rotate


def rotated(x_PHE: torch.Tensor, start: int) -> torch.Tensor:
    tables = rotary_tables(start + x_PHE.shape[0], x_PHE.shape[-1], like=x_PHE)
    return rotate(x_PHE, Rotation(*(table_PA[start:] for table_PA in tables)))


def test_scores_depend_on_distance_alone():
    queries_PHE = torch.randn(6, 2, 8, dtype=torch.float64)
    keys_PHE = torch.randn(6, 2, 8, dtype=torch.float64)
    near, far = (
        torch.einsum("phe,qhe->hpq", rotated(queries_PHE, start), rotated(keys_PHE, start))
        for start in (0, 1000)
    )
    assert torch.allclose(near, far, atol=1e-9, rtol=0)
    plain = torch.einsum("phe,qhe->hpq", queries_PHE, keys_PHE)
    assert not torch.allclose(near, plain, atol=1e-3)


def test_lengths_are_kept():
    x_PHE = torch.randn(9, 3, 4, dtype=torch.float64)
    assert torch.allclose(rotated(x_PHE, 5).norm(dim=-1), x_PHE.norm(dim=-1), atol=1e-12)


def test_known_values():
    x_PHE = torch.tensor([[[1.0, 0.0]], [[1.0, 0.0]]], dtype=torch.float64)
    one = torch.tensor(1.0, dtype=torch.float64)
    assert rotated(x_PHE, 0)[1, 0].tolist() == pytest.approx([one.cos().item(), one.sin().item()])
