"""Why a student loses words in a stream that goes on: what is set back at the true borders of utterances.

    python tools/explain_long_form.py exp/demo/two-stage --data data/demo --part test-clean

Utterances of a part are joined to one stream with pauses of quiet noise, and decoded by greedy search, chunk
by chunk. In the middle of each pause the predictor's context, the encoder's state, both or neither become
those of a new stream. Beside it each utterance alone, with the share of first words that are right: as it is,
after quiet noise of several lengths, and with the predictor's context of the utterance before it.

Shapes: N samples at 16 kHz, B = 1 stream, T feature frames of a window, F features, C frames of a chunk, K
pieces of context.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from benchmarking import require, run_tool
from lhotse.cut import MonoCut
from numpy.typing import NDArray

from kdasr.bundle import Bundle, load_bundle
from kdasr.data.features import SAMPLE_RATE
from kdasr.data.loader import load_cuts
from kdasr.data.tokenizer import Tokenizer
from kdasr.decoding.greedy import GreedyState, greedy_chunk, initial_state
from kdasr.evaluation.evaluate import Recording, load_recording
from kdasr.evaluation.wer import ErrorCounts, word_errors
from kdasr.models.predictors.base import PredictorState
from kdasr.recognition.features import OnlineFeatures
from kdasr.recognition.flush import flush_seconds

NOISE_DB = -60.0
GAPS = (0.0, 0.3, 1.0, 3.0)
LEADS = (0.04, 0.16, 0.32, 1.0, 3.0)
"""Seconds of quiet noise before an utterance; a chunk of the demo is 0.32 s."""
Samples = NDArray[np.float32]


@dataclass(frozen=True)
class Reset:
    """What is set back at a border."""

    predictor: bool = False
    encoder: bool = False


NOTHING = Reset()


class Decoder:
    """Greedy search of one stream, with borders at which something is forgotten."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self.model, self.context = bundle.model.eval(), bundle.context

    @torch.inference_mode()
    def decode(
        self,
        samples_N: Samples,
        borders: Sequence[float] = (),
        reset: Reset = NOTHING,
        start: PredictorState | None = None,
    ) -> tuple[str, PredictorState]:
        """The words of a recording, and the predictor's state at its end.

        Args:
            samples_N: the recording.
            borders: seconds at which `reset` applies, ascending.
            reset: what becomes that of a new stream.
            start: the predictor's state at the start; None: that of a new stream.
        """
        geometry = self.model.geometry
        features = OnlineFeatures(geometry, flush_seconds(self.context, geometry))
        features.accept(SAMPLE_RATE, samples_N)
        features.finish()
        total, chunk = features.total_encoder_frames or 0, self.context.chunk
        state: Any = self._fresh()
        search = initial_state(self.model, 1)
        if start is not None:
            predicted_BJ = self.model.joiner.project_predictor(self.model.predictor.predict(start))
            search = GreedyState(start, predicted_BJ)
        pending = list(borders)
        pieces: list[int] = []
        for frame in range(0, total, chunk):
            while pending and pending[0] <= frame * geometry.frame_seconds:
                pending.pop(0)
                state = self._fresh() if reset.encoder else state
                search = initial_state(self.model, 1) if reset.predictor else search
            begin = geometry.stride * frame
            end = begin + geometry.window_features(self.context.window_frames)
            window_BTF = torch.from_numpy(features.window(begin, end))[None]
            lens_B = torch.tensor([window_BTF.shape[1]])
            missing = end - begin - window_BTF.shape[1]
            window_BTF = torch.nn.functional.pad(window_BTF, (0, 0, 0, missing))
            encoded_BCD, lens_B, state = self.model.encode_chunk(window_BTF, state, self.context, lens_B)
            (found,), search = greedy_chunk(self.model, encoded_BCD, lens_B, search)
            pieces += found.tokens
        return self.bundle.tokenizer.decode(pieces), search.heard

    def _fresh(self) -> Any:
        return self.model.encoder.init_state(1, self.context)


def load(cut: MonoCut, tokenizer: Tokenizer) -> Recording:
    """A recording whose samples are in memory, however long it is: it is heard again and again."""
    recording = load_recording(cut, tokenizer)
    return replace(recording, samples_N=recording.samples_N[:])


def noise(seconds: float, seed: int) -> Samples:
    """White noise of `NOISE_DB`."""
    count = round(seconds * SAMPLE_RATE)
    level = 10 ** (NOISE_DB / 20)
    return (level * np.random.default_rng(seed).standard_normal(count)).astype(np.float32)


def joined(recordings: list[Recording], gap: float) -> tuple[Samples, list[float]]:
    """One recording of all, and the middle of each pause in seconds."""
    parts: list[Samples] = []
    borders: list[float] = []
    length = 0
    for index, recording in enumerate(recordings):
        if index:
            parts.append(noise(gap, index))
            borders.append((length + len(parts[-1]) / 2) / SAMPLE_RATE)
            length += len(parts[-1])
        parts.append(recording.samples_N)
        length += len(parts[-1])
    return np.concatenate(parts), borders


def show(name: str, errors: ErrorCounts, first_right: float | None = None) -> None:
    """One line of the table."""
    share = "" if first_right is None else f"{100 * first_right:.0f}"
    counts = f"{errors.substitutions} | {errors.deletions} | {errors.insertions}"
    click.echo(f"| {name} | {errors.rate:.1f} | {counts} | {share} |")


def show_single(name: str, refs: Sequence[str], texts: Sequence[str]) -> None:
    """The line of utterances that were recognized one by one."""
    pairs = list(zip(refs, texts, strict=True))
    right = [ref.split()[:1] == text.split()[:1] for ref, text in pairs]
    errors = sum((word_errors(*pair) for pair in pairs), ErrorCounts())
    show(name, errors, sum(right) / max(len(right), 1))


@click.command()
@click.argument("exp", type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), required=True)
@click.option("--part", default="test-clean", show_default=True)
@click.option("--max-utterances", default=60, type=click.IntRange(min=1), show_default=True)
def main(exp: Path, data: Path, part: str, max_utterances: int) -> None:
    """Print the table as Markdown."""
    require(exp, data)
    torch.set_num_threads(1)
    decoder = Decoder(load_bundle(exp))
    cuts = list(load_cuts(data, part, max_utterances))
    recordings = [load(cut, decoder.bundle.tokenizer) for cut in cuts]
    refs = [" ".join(recording.ref) for recording in recordings]
    click.echo("| decoded | WER % | sub | del | ins | first words right, % |\n|---|---|---|---|---|---|")
    alone = [decoder.decode(recording.samples_N) for recording in recordings]
    show_single("each alone", refs, [text for text, _ in alone])
    for lead in LEADS:
        after = [
            decoder.decode(np.concatenate([noise(lead, i), r.samples_N]))[0] for i, r in enumerate(recordings)
        ]
        show_single(f"each alone, after {lead:g} s of quiet noise", refs, after)
    contexts = [alone[-1][1], *(context for _, context in alone[:-1])]
    told = [decoder.decode(r.samples_N, start=k)[0] for r, k in zip(recordings, contexts, strict=True)]
    show_single("each alone, predictor after the utterance before", refs, told)
    for gap in GAPS:
        samples_N, borders = joined(recordings, gap)
        for name, reset in {
            "nothing": NOTHING,
            "the predictor": Reset(predictor=True),
            "the encoder": Reset(encoder=True),
            "both": Reset(predictor=True, encoder=True),
        }.items():
            text, _ = decoder.decode(samples_N, borders, reset)
            show(f"one stream, pauses of {gap:g} s, {name} set back", word_errors(" ".join(refs), text))


if __name__ == "__main__":
    run_tool(main)
