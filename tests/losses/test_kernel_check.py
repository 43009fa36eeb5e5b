"""Kernels that are wrong on some GPU are found out and not used."""

import logging
from types import ModuleType

import pytest
import torch

from kdasr.losses.lattice import kernel_check, kernels
from kdasr.losses.lattice.joint import JointLosses, joint_losses


@pytest.fixture(autouse=True)
def with_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where Triton is installed; the CPU stands for the GPU, and its float32 operations for kernels."""
    monkeypatch.setattr(kernels, "_module", lambda name: ModuleType(name))
    monkeypatch.setattr(kernels, "_disabled", False)


def test_losses_in_float32_agree_with_those_in_float64(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert kernel_check.check_kernels("cpu")
    assert kernels.are_used() and "agree" in caplog.text


@pytest.mark.parametrize("wrong", ["value", "nan", "compiler"])
def test_what_is_wrong_falls_back_with_a_line_in_the_log(
    wrong: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def on_this_gpu(student, *arguments, **options) -> JointLosses:
        found = joint_losses(student, *arguments, **options)
        if student.am_BTD.dtype == torch.float64:
            return found
        if wrong == "compiler":
            raise RuntimeError("ptxas died\nof something")
        return found._replace(rnnt_B=found.rnnt_B * (1.01 if wrong == "value" else torch.nan))

    monkeypatch.setattr(kernel_check, "joint_losses", on_this_gpu)
    assert not kernel_check.check_kernels("cpu")
    assert not kernels.are_used()
    assert ("ptxas died of something" if wrong == "compiler" else "the pruned loss") in caplog.text
    assert kernel_check.check_kernels("cpu")  # nothing is left to check


def test_without_kernels_there_is_nothing_to_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_module", lambda name: None)
    monkeypatch.setattr(kernel_check, "joint_losses", None)
    assert kernel_check.check_kernels("cpu")
