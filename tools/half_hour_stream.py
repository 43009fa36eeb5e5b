"""Does a recognizer hear as well after half an hour as at the start of a stream?

    python tools/half_hour_stream.py exp/demo/two-stage --data data/demo --parts "test-clean test-other"

The utterances of a part, with pauses of quiet noise, are said again and again in one stream until it lasts so
many minutes, so that the same words are heard early and late. The word errors of the last round are compared
with those of the first, paired by utterance, with a 95 % bootstrap interval.
"""

from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import torch
from benchmarking import require, run_tool

from kdasr.bundle import load_bundle
from kdasr.data.features import SAMPLE_RATE
from kdasr.data.folder import load_cuts
from kdasr.evaluation.evaluate import Recording, load_recording
from kdasr.evaluation.joining import Pause, in_order
from kdasr.evaluation.long_form import Placed, placed, score_stream
from kdasr.evaluation.statistics import paired_bootstrap_wer
from kdasr.recognition.endpoint import EndpointRules
from kdasr.recognition.recognizer import StreamingRecognizer
from kdasr.recognition.simulate import simulate_together

# Shapes: N samples at 16 kHz, R rounds, U utterances of a round.


@dataclass(frozen=True)
class Rounds:
    """A stream of several rounds."""

    samples_N: np.ndarray
    utterances: list[Placed]
    number: int


def repeat(recordings: list[Recording], pause: Pause, minutes: float) -> Rounds:
    """As many whole rounds as fit into `minutes`, at least two."""
    gap = pause.num_samples / SAMPLE_RATE
    seconds = sum(recording.duration + gap for recording in recordings)
    number = max(2, int(60 * minutes / seconds))
    parts, utterances, position = [], [], 0
    for turn in range(number):
        for index, recording in enumerate(recordings):
            parts += [recording.samples_N[:], pause.samples((turn, index))]
            utterances.append(placed(recording).moved(position / SAMPLE_RATE))
            position += sum(len(part) for part in parts[-2:])
    return Rounds(np.concatenate(parts), utterances, number)


@click.command()
@click.argument("exp", type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), required=True)
@click.option("--parts", default="test-clean test-other", show_default=True)
@click.option("--minutes", default=30.0, show_default=True)
@click.option("--gap", default=1.0, show_default=True, help="Seconds of quiet noise between utterances.")
def main(exp: Path, data: Path, parts: str, minutes: float, gap: float) -> None:
    """Print a row for each part, without and with endpoints."""
    require(exp, data)
    torch.set_num_threads(1)
    bundle = load_bundle(exp)
    click.echo(
        "| part | endpoints | minutes | rounds | first round, WER % | last round, WER % | later less first |"
    )
    click.echo("|---|---|---|---|---|---|---|")
    for part in parts.split():
        recordings = [load_recording(cut, bundle.tokenizer) for cut in in_order(list(load_cuts(data, part)))]
        stream = repeat(recordings, Pause(gap, "quiet"), minutes)
        for endpoints in (None, EndpointRules()):
            recognizer = StreamingRecognizer(bundle, endpoints=endpoints)
            (simulation,) = simulate_together(recognizer, [stream.samples_N])
            scored = score_stream(stream.utterances, simulation.result)["utterances"]
            counts = [item["errors"] for item in scored]
            errors_RU = np.array([c["sub"] + c["ins"] + c["del"] for c in counts]).reshape(stream.number, -1)
            words_U = np.array([c["words"] for c in counts]).reshape(stream.number, -1)[0]
            first, last = (100 * errors_RU[turn].sum() / words_U.sum() for turn in (0, -1))
            change = paired_bootstrap_wer(errors_RU[-1], errors_RU[0], words_U)
            length = len(stream.samples_N) / SAMPLE_RATE / 60
            click.echo(
                f"| {part} | {'yes' if endpoints else 'no'} | {length:.1f} | "
                f"{stream.number} | {first:.2f} | {last:.2f} | "
                f"{change.estimate:+.2f} ({change.low:+.2f} to {change.high:+.2f}) |"
            )


if __name__ == "__main__":
    run_tool(main)
