"""`kdasr calibrate`: the blank penalty that suits a system, and how far its confidence may be believed."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kdasr.cli.part_options import data_option, max_utterances_option, named_parts, parts_option
from kdasr.cli.paths import CHECKPOINT, ExperimentPath
from kdasr.cli.recognizable import checkpoint_option, device_option, threads_option
from kdasr.common.logging import get_logger, setup_logging

if TYPE_CHECKING:
    from kdasr.data.bad import BadUtterance

log = get_logger(__name__)


@click.command(name="calibrate")
@click.argument("exp", type=ExperimentPath(CHECKPOINT))
@data_option
@parts_option("calibrate on")
@checkpoint_option
@max_utterances_option
@device_option
@threads_option
@click.option("--force", is_flag=True, help="Calibrate again.")
def command(
    exp: Path,
    data: Path,
    parts: str,
    checkpoint: str,
    max_utterances: int | None,
    device: str,
    threads: int,
    force: bool,
) -> None:
    """Choose the blank penalty and calibrate the confidence of words on dev parts.

    EXP is a system's folder or a checkpoint file. Recognizes the parts, each utterance by itself and in a
    stream, under several blank penalties, and takes the one with the fewest errors. Then fits confidences so
    that 0.9 means that nine words in ten are right. Writes EXP/calibration.json, which is used from then on
    whenever the checkpoint is: by stream, decode, export (the penalty becomes part of the exported joiner)
    and from Python; not by training. What was done with the same checkpoint, audio and transcripts is kept.
    """
    import torch

    from kdasr.bundle import calibration_file
    from kdasr.checkpoint import find_checkpoint
    from kdasr.common.files import read_json, sha256, write_json

    setup_logging()
    torch.set_num_threads(threads)
    names = named_parts(parts)
    path = find_checkpoint(exp, checkpoint)
    target = calibration_file(path)
    settings = {
        "checkpoint": path.name,
        "checkpoint_sha256": sha256(path),
        "parts": names,
        "max_utterances": max_utterances,
    }
    loaded = [_load(data, name, max_utterances) for name in names]
    settings["audio_fingerprints"] = [fingerprint for _, fingerprint in loaded]
    settings["transcripts_sha256"] = transcripts = _digest(cut for cuts, _ in loaded for cut in cuts)
    if target.is_file() and not force:
        try:
            found = read_json(target)
        except ValueError:
            found = {}
        # Files of earlier versions do not say of which transcripts they are.
        if (
            isinstance(found, dict)
            and settings.items() <= {"transcripts_sha256": transcripts, **found}.items()
        ):
            log.info("%s: already calibrated, --force to do it again", target)
            return
    measured = _measure(
        path, data, {name: cuts for name, (cuts, _) in zip(names, loaded, strict=True)}, device
    )
    write_json(target, {**settings, **measured})
    click.echo(f"{target}: {_describe(measured)}")


def _load(data: Path, part: str, max_utterances: int | None) -> tuple[list[Any], str]:
    """The utterances of a part, and what tells their audio from other audio."""
    from kdasr.data.fingerprint import audio_fingerprint
    from kdasr.data.folder import load_cuts
    from kdasr.evaluation.joining import in_order

    cuts = list(load_cuts(data, part, max_utterances))
    return in_order(cuts), audio_fingerprint(cuts)


def _digest(cuts: Iterable[Any]) -> str:
    """Of the transcripts of some cuts."""
    from hashlib import sha256

    from kdasr.data.usable import cut_text

    digest = sha256()
    for cut in cuts:
        digest.update(repr((cut.id, cut_text(cut))).encode())
    return digest.hexdigest()


def _measure(checkpoint: Path, data: Path, parts: dict[str, list[Any]], device: str) -> dict[str, Any]:
    from functools import partial

    from rich.progress import track

    from kdasr.bundle import load_bundle
    from kdasr.cli.recognizable import move_to
    from kdasr.common.logging import console
    from kdasr.data.tokens import warn_of_other_text
    from kdasr.data.usable import cut_text
    from kdasr.evaluation.calibrate import calibrate
    from kdasr.evaluation.evaluate import load_recording
    from kdasr.evaluation.part_run import sound_recordings
    from kdasr.recognition.recognizer import StreamingRecognizer

    bundle = load_bundle(checkpoint, as_trained=True)
    for part, of_part in parts.items():
        warn_of_other_text(data, part, map(cut_text, of_part), bundle.tokenizer)
    cuts = [cut for of_part in parts.values() for cut in of_part]
    move_to(bundle.model, device)
    recognizer = StreamingRecognizer(bundle)
    label = f"{bundle.name} (calibration)"
    shown = track(cuts, label, total=len(cuts), console=console, transient=True)
    bad: list[BadUtterance] = []
    load = partial(load_recording, tokenizer=bundle.tokenizer)
    measured = calibrate(recognizer, sound_recordings(shown, load, bad))
    if bad:
        log.warning("%d of %d utterances cannot be heard and do not count", len(bad), len(cuts))
    return measured


def _describe(measured: dict[str, Any]) -> str:
    chosen = measured["blank_penalty"]
    rates = {entry["blank_penalty"]: entry["wer"] for entry in measured["penalties"]}
    facts = [f"blank penalty {chosen:g} (WER {rates[0.0]:.2f} -> {rates[chosen]:.2f} %)"]
    facts += [f"{measured['words']} words, {measured['wrong']} wrong"]
    if measured["auc"] is not None:
        facts.append(f"area under the ROC curve {measured['auc']:.3f}")
    if measured["calibration"] is not None:
        facts.append(
            f"calibration error {100 * measured['ece_raw']:.1f} -> {100 * measured['ece']:.1f} % (in sample)"
        )
    return ", ".join(facts)
