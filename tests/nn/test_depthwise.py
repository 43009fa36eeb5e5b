"""The depthwise convolution with its own backward pass against torch's."""

import torch
from torch.nn import functional

from kdasr.nn.depthwise import depthwise_conv


def random_case(dtype: torch.dtype):
    generator = torch.Generator().manual_seed(0)
    shapes = ((3, 11, 4), (4, 5), (4,))
    return [torch.randn(*shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes]


def test_values_and_gradients_equal_torch():
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        x_BPD, weight_DJ, bias_D = inputs = random_case(dtype)
        ours = depthwise_conv(x_BPD, weight_DJ, bias_D)
        expected = functional.conv1d(x_BPD.transpose(1, 2), weight_DJ[:, None], bias_D, groups=4).transpose(
            1, 2
        )
        assert torch.allclose(ours, expected, atol=tolerance)
        grad_BWD = torch.randn(ours.shape, dtype=dtype)
        for got, wanted in zip(
            torch.autograd.grad(ours, inputs, grad_BWD),
            torch.autograd.grad(expected, inputs, grad_BWD),
            strict=True,
        ):
            assert torch.allclose(got, wanted, atol=tolerance)


def test_gradients_by_finite_differences():
    assert torch.autograd.gradcheck(depthwise_conv, random_case(torch.float64))


def test_without_gradients_the_values_are_the_same():
    inputs = random_case(torch.float32)
    with torch.no_grad():
        without = depthwise_conv(*inputs)
    assert torch.allclose(without, depthwise_conv(*inputs), atol=1e-6)
