"""What an encoded frame depends on, and what encoding costs."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from kdasr.models.transducer.model import Transducer
from kdasr.nn.context import Context
from kdasr.testing import tiny_model


@pytest.fixture(scope="module")
def model() -> Transducer:
    return tiny_model().double().eval()


def encode_one(model: Transducer, features_TF: torch.Tensor, context: Context) -> torch.Tensor:
    with torch.no_grad():
        return model.encode(features_TF[None], torch.tensor([len(features_TF)]), context).encoded_BTD[0]


@pytest.mark.parametrize("context", [Context(6, 3, 0), Context(6, 3, 2), Context(0, 5, 1)], ids=str)
def test_nothing_is_seen_beyond_the_chunk_and_its_lookahead(model, context):
    features_TF = torch.randn(160, 80, dtype=torch.float64)
    encoded_UD = encode_one(model, features_TF, context)
    for num_chunks in (1, 2, 4):
        emitted = num_chunks * context.chunk
        first_unseen = 4 * (emitted + context.right) + 3
        changed_TF = features_TF.clone()
        changed_TF[first_unseen:] += 10.0
        changed_UD = encode_one(model, changed_TF, context)
        assert torch.equal(changed_UD[:emitted], encoded_UD[:emitted])
        changed_TF[first_unseen - 1] += 10.0
        last_chunk = slice(emitted - context.chunk, emitted)
        assert not torch.allclose(
            encode_one(model, changed_TF, context)[last_chunk], encoded_UD[last_chunk], atol=1e-6
        )


def test_nothing_is_seen_before_the_layers_left_context(model):
    context, num_layers, kernel = Context(5, 3, 1), 2, 5
    features_TF = torch.randn(240, 80, dtype=torch.float64)
    chunk_start = 15 * context.chunk
    # Each layer reaches a left context back from the start of the chunk that the convolution reaches.
    reach = num_layers * (context.left + kernel // 2 + context.chunk - 1)
    oldest = 4 * (chunk_start - reach)
    assert oldest > 100
    encoded_UD = encode_one(model, features_TF, context)
    changed_TF = features_TF.clone()
    changed_TF[:oldest] += 10.0
    assert torch.equal(encode_one(model, changed_TF, context)[chunk_start:], encoded_UD[chunk_start:])
    changed_TF[: 4 * (chunk_start - context.left)] += 10.0
    assert not torch.allclose(
        encode_one(model, changed_TF, context)[chunk_start], encoded_UD[chunk_start], atol=1e-6
    )


class TensorSizes(TorchDispatchMode):
    """Records how many elements the largest tensor and all tensors of a computation have."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0
        self.total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        outputs = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(outputs):
            if isinstance(leaf, torch.Tensor):
                self.largest = max(self.largest, leaf.untyped_storage().nbytes() // leaf.element_size())
                self.total += leaf.numel()
        return outputs


def tensor_sizes(model: Transducer, num_frames: int, context: Context) -> TensorSizes:
    features_BTF = torch.randn(1, num_frames, 80, dtype=torch.float64)
    with TensorSizes() as sizes:
        output = model.encode(features_BTF, torch.tensor([num_frames]), context)
        output.encoded_BTD.sum().backward()
    model.zero_grad()
    return sizes


@pytest.mark.parametrize("context", [Context(8, 4, 0), Context(8, 4, 2)], ids=str)
def test_cost_grows_linearly_with_the_utterance(model, context):
    """Twice the utterance, at most twice the elements: no tensor of frames by frames, forward or backward."""
    once, twice = (tensor_sizes(model, 4 * frames + 3, context) for frames in (800, 1600))
    assert twice.largest <= 2.01 * once.largest
    assert twice.total <= 2.01 * once.total
    assert twice.largest < 1600 * 1600


def test_padding_and_neighbors_do_not_matter(model):
    features_BTF = torch.randn(3, 131, 80, dtype=torch.float64)
    lens_B = torch.tensor([131, 90, 20])
    for context in (Context.full(), Context(8, 4, 0), Context(8, 4, 2)):
        with torch.no_grad():
            together = model.encode(features_BTF, lens_B, context)
            for b, length in enumerate(lens_B.tolist()):
                alone = model.encode(features_BTF[b : b + 1, :length], lens_B[b : b + 1], context)
                for ours, expected in zip(together.hidden, alone.hidden, strict=True):
                    valid = int(alone.lens_B[0])
                    assert torch.allclose(ours[b, :valid], expected[0], atol=1e-12, rtol=0)


def test_no_gradient_reaches_padding(model):
    features_BTF = torch.randn(2, 67, 80, dtype=torch.float64, requires_grad=True)
    lens_B = torch.tensor([67, 31])
    for context in (Context.full(), Context(8, 4, 2)):
        output = model.encode(features_BTF, lens_B, context)
        valid_BT = torch.arange(output.encoded_BTD.shape[1]) < output.lens_B[:, None]
        (grad_BTF,) = torch.autograd.grad(output.encoded_BTD[valid_BT].square().sum(), features_BTF)
        assert torch.all(grad_BTF[1, 31:] == 0)
        assert grad_BTF[1, :31].abs().sum() > 0


def test_utterances_without_a_single_frame_give_none(model):
    for context in (Context.full(), Context(8, 4, 2)):
        for num_frames in (0, 3, 6):
            output = model.encode(
                torch.zeros(2, num_frames, 80).double(), torch.tensor([num_frames, 0]), context
            )
            assert output.encoded_BTD.shape == (2, 0, 16)
            assert output.lens_B.tolist() == [0, 0]
            assert len(output.hidden) == 2
        output = model.encode(torch.randn(2, 50, 80).double(), torch.tensor([50, 2]), context)
        assert output.lens_B.tolist() == [11, 0]
        assert output.encoded_BTD.isfinite().all()


def test_hidden_outputs_are_the_layers(model):
    output = model.encode(torch.randn(2, 50, 80).double(), torch.tensor([50, 40]), Context(8, 4, 2))
    assert [hidden.shape for hidden in output.hidden] == [(2, 11, 16)] * 2
    assert output.hidden[-1] is output.encoded_BTD
    assert not torch.allclose(output.hidden[0], output.hidden[1])
