"""In which frames a model emits the pieces of a known transcript.

Shapes: T encoder frames, F mel bins, S pieces.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kdasr.bundle import Bundle
from kdasr.data.features import SAMPLE_RATE, num_feature_frames
from kdasr.data.text_normalization import split_words
from kdasr.data.tokenizer import WORD_START
from kdasr.losses.best_path import ctc_spans, transducer_frames, transducer_log_probs
from kdasr.models.transducer.model import Transducer
from kdasr.recognition.audio import Samples
from kdasr.recognition.features import whole_features

_BLOCK = 50
"""Encoder frames whose lattice nodes are in memory at a time."""
MOST_NODES = 100_000_000
"""Frames times pieces of the longest utterance that a transducer aligns: tables of 2.4 GB. At 25 frames and 3
pieces a second that is 19 minutes."""


@dataclass(frozen=True)
class EmittedWord:
    """A word, and when its pieces are emitted, in seconds."""

    word: str
    first: float
    """Begin of the frame of its first piece that has a letter; when a bare boundary comes says little."""
    last: float
    """End of the frame of its last piece."""


class NotAlignedError(Exception):
    """Why an utterance cannot be aligned."""


class PieceAligner:
    """Aligns transcripts with audio by the best path of a system's transducer, or of its CTC head."""

    def __init__(self, bundle: Bundle, method: str = "transducer") -> None:
        """
        Args:
            bundle: the system, under the context that it was trained under; a full one knows most.
            method: one of `METHODS`.
        """
        self._model, self._tokenizer, self._context = bundle.model, bundle.tokenizer, bundle.context
        self._spans = METHODS[method]
        self._most_nodes = MOST_NODES if method == "transducer" else None
        self._device = next(self._model.parameters()).device

    @torch.inference_mode()
    def __call__(self, samples_N: Samples, text: str) -> list[EmittedWord]:
        """The words of a transcript, normalized as the pieces are.

        Args:
            samples_N: at 16 kHz.
            text: what is said.

        Raises:
            NotAlignedError: no words, a word that pieces do not spell, more pieces than the frames have room
                for, or more frames and pieces than a transducer aligns (`MOST_NODES`).
        """
        tokenizer = self._tokenizer
        words = split_words(tokenizer.normalize(text))
        ids = tokenizer.encode(text)
        pieces = [tokenizer.piece(index) for index in ids]
        if not words:
            raise NotAlignedError("no words")
        begins = [piece.startswith(WORD_START) for piece in pieces]
        if sum(begins) != len(words) or not begins[0]:
            raise NotAlignedError("its pieces do not spell its words")
        frames = self._model.geometry.num_frames(num_feature_frames(len(samples_N)))
        if self._most_nodes is not None and frames * len(ids) > self._most_nodes:
            raise NotAlignedError(
                f"{frames} frames times {len(ids)} pieces are more than {self._most_nodes:,}, which is the "
                "most for --method transducer: use --method ctc, or cut it"
            )
        spans = self._spans(self._model, self._encode(samples_N), torch.tensor(ids, device=self._device))
        if spans is None:
            raise NotAlignedError(f"{len(ids)} pieces do not fit into its frames")
        visible = [bool(piece.strip(WORD_START)) for piece in pieces]
        return _words(words, begins, visible, spans, self._model.geometry.frame_seconds)

    def _encode(self, samples_N: Samples) -> Tensor:
        features_TF = whole_features(SAMPLE_RATE, samples_N, self._model.geometry, 0.0)
        features_1TF = torch.from_numpy(np.asarray(features_TF, dtype=np.float32))[None].to(self._device)
        encoded = self._model.encode(features_1TF, torch.tensor([features_1TF.shape[1]]), self._context)
        return encoded.encoded_BTD[0, : int(encoded.lens_B[0])]


def _words(
    words: Sequence[str],
    begins: Sequence[bool],
    visible: Sequence[bool],
    spans: Sequence[tuple[int, int]],
    frame: float,
) -> list[EmittedWord]:
    firsts = [place for place, begin in enumerate(begins) if begin]
    found = []
    for word, first, following in zip(words, firsts, [*firsts[1:], len(begins)], strict=True):
        shown = next((place for place in range(first, following) if visible[place]), first)
        begin, end = frame * spans[shown][0], frame * spans[following - 1][1]
        found.append(EmittedWord(word, round(begin, 4), round(end, 4)))
    return found


Spans = list[tuple[int, int]]
"""First frame of each piece, and the frame after its last one."""


def _by_ctc(model: Transducer, encoded_TD: Tensor, tokens_S: Tensor) -> Spans | None:
    return ctc_spans(torch.log_softmax(model.ctc_head(encoded_TD), dim=-1), tokens_S)


def _by_transducer(model: Transducer, encoded_TD: Tensor, tokens_S: Tensor) -> Spans | None:
    joiner = model.joiner
    frames_TD = joiner.project_encoder(encoded_TD)
    states_SD = joiner.project_predictor(model.predictor(tokens_S[None])[0])
    symbols, blanks = [], []
    for block_TD in frames_TD.split(_BLOCK):
        arcs = transducer_log_probs(joiner(block_TD[:, None], states_SD[None]), tokens_S)
        symbols.append(arcs[0].double().cpu())
        blanks.append(arcs[1].double().cpu())
    found = (
        transducer_frames(torch.cat(symbols, 1).numpy(), torch.cat(blanks, 1).numpy()) if symbols else None
    )
    return None if found is None else [(int(frame), int(frame) + 1) for frame in found]


METHODS: dict[str, Callable[[Transducer, Tensor, Tensor], Spans | None]] = {
    "transducer": _by_transducer,
    "ctc": _by_ctc,
}
