"""`lookahead: mask`: what an encoded frame waits for grows with every layer, and is counted."""

from dataclasses import replace

import pytest
import torch
from streaming_helpers import bursts, make_recognizer
from torch import Tensor

from kdasr.common.errors import UserError
from kdasr.decoding.search import BeamOptions
from kdasr.export.build import check_exportable
from kdasr.models.encoders.base import COPY, MASK, Encoder
from kdasr.models.encoders.conformer import ConformerConfig, ConformerEncoder
from kdasr.models.transducer.transducer_config import TransducerConfig
from kdasr.nn.context import Context
from kdasr.recognition.endpoint import EndpointRules
from kdasr.recognition.features import samples_for_frame
from kdasr.recognition.offline import recognize_offline
from kdasr.recognition.simulate import simulate, simulate_together
from kdasr.testing import tiny_config
from zipformer2_models import small_encoder

ENCODERS = pytest.mark.parametrize("kind", ["conformer", "zipformer2"])


def encoder_of(kind: str, lookahead: str) -> Encoder:
    """Three layers or more, the same weights for both values."""
    if kind == "zipformer2":
        return small_encoder(lookahead=lookahead)
    torch.manual_seed(1)
    config = ConformerConfig(
        num_layers=3, dim=16, num_heads=2, ffn_dim=24, conv_kernel=5, dropout=0.0, lookahead=lookahead
    )
    return ConformerEncoder(config, 80).double().eval()


@torch.no_grad()
def encode(encoder: Encoder, features_BTF: Tensor, context: Context, *lengths: int) -> Tensor:
    lens_B = torch.tensor(lengths or [features_BTF.shape[1]] * len(features_BTF))
    return encoder(features_BTF, lens_B, context).encoded_BTD


@ENCODERS
@pytest.mark.parametrize(("chunk", "right", "chunks_more"), [(4, 4, 1), (8, 4, 1), (4, 8, 2)])
def test_a_frame_waits_for_so_much_and_for_no_more(
    kind: str, chunk: int, right: int, chunks_more: int
) -> None:
    """So much: the chunk, its look-ahead, and for each layer above the first what holds the look-ahead."""
    encoder, context = encoder_of(kind, MASK), Context(8, chunk, right)
    num_layers = len(encoder.geometry.hidden) - (kind == "zipformer2")  # that of the output too
    waits = encoder.geometry.wait_frames(context)
    assert waits == chunk + right + (num_layers - 1) * chunks_more * chunk
    features_BTF = torch.randn(1, 4 * (waits + 3 * chunk) + 13, 80, dtype=torch.float64)
    first = slice(chunk, 2 * chunk)
    before = encode(encoder, features_BTF, context)[:, first]
    end = encoder.geometry.window_features(chunk + waits)
    features_BTF[:, end:] += 5.0
    assert torch.equal(encode(encoder, features_BTF, context)[:, first], before)
    features_BTF[:, end - 4 : end] += 5.0
    assert not torch.equal(encode(encoder, features_BTF, context)[:, first], before)


@ENCODERS
def test_without_a_lookahead_nothing_grows(kind: str) -> None:
    features_BTF = torch.randn(2, 113, 80, dtype=torch.float64)
    copied, masked = (encoder_of(kind, lookahead) for lookahead in (COPY, MASK))
    for context in (Context(8, 4), Context.full(), Context(8, 32, 4)):
        assert torch.equal(encode(copied, features_BTF, context), encode(masked, features_BTF, context))
    context = Context(8, 4, 4)
    assert not torch.allclose(encode(copied, features_BTF, context), encode(masked, features_BTF, context))
    assert masked.geometry.wait_frames(Context(8, 4)) == 4
    assert copied.geometry.wait_frames(context) == 8


@ENCODERS
def test_no_utterance_sees_another_one(kind: str) -> None:
    encoder, context, lengths = encoder_of(kind, MASK), Context(8, 4, 4), (133, 90, 41)
    features_BTF = torch.randn(3, 133, 80, dtype=torch.float64)
    together = encode(encoder, features_BTF, context, *lengths)
    for row, length in enumerate(lengths):
        alone = encode(encoder, features_BTF[row : row + 1, :length], context)[0]
        assert torch.allclose(together[row, : len(alone)], alone, atol=1e-12, rtol=0)


@pytest.mark.parametrize("search", [None, BeamOptions(beam=3)], ids=["greedy", "beam"])
def test_a_piece_is_shown_when_all_is_there_that_it_waits_for(search: BeamOptions | None) -> None:
    context = Context(8, 4, 2)
    recognizer = make_recognizer(context, lookahead=MASK, search=search)
    waves = [bursts(seconds, seed) for seed, seconds in enumerate((0.0, 0.7, 2.9))]
    whole = recognize_offline(recognizer, waves)
    for samples, alone, together, expected in zip(
        waves,
        [simulate(recognizer, samples) for samples in waves],
        simulate_together(recognizer, waves),
        whole,
        strict=True,
    ):
        found = [(token.id, token.frame) for token in expected.tokens]
        assert [(token.id, token.frame) for token in alone.result.tokens] == found
        assert alone.result == together.result
        for token in alone.result.tokens:
            # Two layers: a chunk, its look-ahead, and one chunk more.
            last = token.frame // 4 * 4 + 4 + 2 + 4 - 1
            heard = samples_for_frame(4 * last + 6) / 16000
            seconds = len(samples) / 16000
            assert token.shown == pytest.approx(min(seconds, heard) if search is None else seconds)
    assert len(whole[2].tokens) > 3
    # The silence after the input is long enough for its last frame to have all that it waits for.
    more = make_recognizer(context, lookahead=MASK, tail_seconds=None).tail_seconds
    assert more - make_recognizer(context, tail_seconds=None).tail_seconds == pytest.approx(4 * 0.04)


def test_there_are_no_streams_chunk_by_chunk() -> None:
    context = Context(8, 4, 2)
    for refused in (
        lambda: make_recognizer(context, lookahead=MASK, endpoints=EndpointRules()),
        lambda: encoder_of("conformer", MASK).init_state(1, context),
        lambda: check_exportable(with_mask(), context),
    ):
        with pytest.raises(UserError, match="left=8 chunk=4 right=2"):
            refused()
    check_exportable(with_mask(), Context(8, 4))
    assert not make_recognizer(Context(8, 4), lookahead=MASK, endpoints=EndpointRules()).needs_end


def with_mask() -> TransducerConfig:
    config = tiny_config()
    return replace(config, encoder=replace(config.encoder, lookahead=MASK))  # type: ignore[call-arg]
