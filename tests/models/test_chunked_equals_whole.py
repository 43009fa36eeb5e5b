"""The law of the encoder: chunk by chunk equals the whole utterance under the same context."""

import pytest
import torch
from chunked_encoding import encode_by_chunks, windows

from kdasr.common.errors import UserError
from kdasr.models.transducer.model import Transducer
from kdasr.nn.context import Context
from kdasr.nn.streaming import split_state, stack_states
from kdasr.testing import tiny_model

LENGTHS = (203, 150, 91, 9)


@pytest.fixture(scope="module")
def model() -> Transducer:
    return tiny_model().double().eval()


@pytest.fixture(scope="module")
def utterances() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(length, 80, generator=generator, dtype=torch.float64) for length in LENGTHS]


def padded(utterances: list[torch.Tensor], padding: float = -5.0) -> tuple[torch.Tensor, torch.Tensor]:
    lens_B = torch.tensor([len(features_TF) for features_TF in utterances])
    return torch.nn.utils.rnn.pad_sequence(utterances, batch_first=True, padding_value=padding), lens_B


@pytest.mark.parametrize("right", [0, 1, 3, 9])
@pytest.mark.parametrize("chunk", [1, 4, 7, 60])
@pytest.mark.parametrize("left", [0, 5, 32])
def test_chunks_equal_the_whole(model, utterances, left, chunk, right):
    context = Context(left, chunk, right)
    with torch.no_grad():
        whole = model.encode(*padded(utterances), context)
        for features_TF, encoded_UD, length in zip(
            utterances, whole.encoded_BTD, whole.lens_B.tolist(), strict=True
        ):
            streamed_UD = encode_by_chunks(model, features_TF, context)
            assert streamed_UD.shape == (length, 16)
            assert torch.allclose(streamed_UD, encoded_UD[:length], atol=1e-12, rtol=0)


@pytest.mark.parametrize("context", [Context(6, 3, 0), Context(6, 3, 2)], ids=str)
def test_streams_of_different_lengths_and_ages_share_batches(model, utterances, context):
    """Streams start at different rounds, so that a batch mixes first, middle and last windows."""
    starts = (0, 3, 1, 4)
    pending = [windows(features_TF, context) for features_TF in utterances]
    states = split_state(model.encoder.init_state(len(utterances), context))
    streamed: list[list[torch.Tensor]] = [[] for _ in utterances]
    batch_sizes = set()
    with torch.no_grad():
        for turn in range(max(start + len(parts) for start, parts in zip(starts, pending, strict=True))):
            active = [i for i, start in enumerate(starts) if 0 <= turn - start < len(pending[i])]
            batch = [pending[i][turn - starts[i]] for i in active]
            encoded_BCD, lens_B, state = model.encode_chunk(
                torch.cat([window for window, _ in batch]),
                stack_states([states[i] for i in active]),
                context,
                torch.tensor([valid for _, valid in batch]),
            )
            batch_sizes.add(len(active))
            for b, (i, new_state) in enumerate(zip(active, split_state(state), strict=True)):
                states[i] = new_state
                streamed[i].append(encoded_BCD[b, : int(lens_B[b])])
        assert {1, 2, 3} <= batch_sizes
        for features_TF, parts in zip(utterances, streamed, strict=True):
            alone_UD = encode_by_chunks(model, features_TF, context)
            assert torch.allclose(torch.cat(parts), alone_UD, atol=1e-12, rtol=0)


def test_full_windows_need_no_lengths(model, utterances):
    context = Context(8, 5, 1)
    state = model.encoder.init_state(1, context)
    window_BWF = utterances[0][None, :27]
    with torch.no_grad():
        without = model.encode_chunk(window_BWF, state, context)
        given = model.encode_chunk(window_BWF, state, context, torch.tensor([27]))
    assert torch.equal(without[0], given[0])
    assert without[1].tolist() == given[1].tolist() == [5]


def test_one_chunk_that_holds_the_utterance_is_the_full_context(model, utterances):
    with torch.no_grad():
        full = model.encode(*padded(utterances), Context.full())
        for context in (Context(9, 50, 4), Context(0, 1000, 0)):
            chunked = model.encode(*padded(utterances), context)
            assert torch.equal(chunked.lens_B, full.lens_B)
            for b, length in enumerate(full.lens_B.tolist()):
                for ours, expected in zip(chunked.hidden, full.hidden, strict=True):
                    assert torch.allclose(ours[b, :length], expected[b, :length], atol=1e-12, rtol=0)


def test_the_context_matters(model, utterances):
    with torch.no_grad():
        outputs = [
            model.encode(*padded(utterances), context).encoded_BTD[0]
            for context in (
                Context.full(),
                Context(8, 4, 0),
                Context(16, 4, 0),
                Context(8, 4, 1),
                Context(8, 5, 0),
            )
        ]
    for i, first in enumerate(outputs):
        for second in outputs[:i]:
            assert not torch.allclose(first, second, atol=1e-4)


def test_a_stream_of_any_age_goes_on_alike(model, utterances):
    """Only what the caches hold counts once they are full: nothing drifts in a stream of days."""
    context = Context(4, 3, 1)
    state = model.encoder.init_state(1, context)
    window_BWF = utterances[0][None, :19]
    with torch.no_grad():
        for _ in range(3):
            *_, state = model.encode_chunk(window_BWF, state, context)
        young, *_ = model.encode_chunk(window_BWF, state, context)
        old, *_ = model.encode_chunk(
            window_BWF, state._replace(processed_B=state.processed_B + 10**8), context
        )
        new, *_ = model.encode_chunk(window_BWF, state._replace(processed_B=state.processed_B * 0), context)
    assert torch.equal(young, old)
    assert not torch.allclose(young, new, atol=1e-4)


def test_float32_streams_stay_close(utterances):
    model = tiny_model().eval()
    features_TF = utterances[0].float()
    context = Context(8, 4, 2)
    with torch.no_grad():
        whole = model.encode(features_TF[None], torch.tensor([len(features_TF)]), context)
        streamed_UD = encode_by_chunks(model, features_TF, context)
    assert torch.allclose(streamed_UD, whole.encoded_BTD[0], atol=1e-4, rtol=0)


def test_streaming_refuses_full_context_and_other_windows(model):
    with pytest.raises(UserError, match="chunked context"):
        model.encoder.init_state(1, Context.full())
    context = Context(4, 3, 0)
    state = model.encoder.init_state(1, context)
    with pytest.raises(UserError, match="has 15 feature frames, not 14"):
        model.encode_chunk(torch.zeros(1, 14, 80, dtype=torch.float64), state, context)
