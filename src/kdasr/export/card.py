"""The model card of a bundle: what a student is, how good, how late, from what, and where it ends."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kdasr import __version__
from kdasr.bundle import Bundle
from kdasr.export.bundle import MANIFEST, graph_name
from kdasr.export.facts import Facts
from kdasr.export.front_matter import front_matter
from kdasr.export.parity import TOLERANCE, Parity
from kdasr.export.reproduction import exp_of
from kdasr.models.encoders.base import FIRST_TYPE
from kdasr.nn.context import Context


@dataclass(frozen=True)
class Content:
    """What a card is written from."""

    facts: Facts
    """Of `collect_facts` and of the publication."""
    parity: Mapping[str, Parity]
    """Of each kind of graphs."""
    extras: Sequence[str] = ()
    """Files beside the graphs, for a publication."""


def write_card(path: Path, system: Bundle, content: Content) -> None:
    """Write the card as Markdown, for a publication with a YAML header."""
    facts, parity = content.facts, content.parity
    checkpoint, way = facts["checkpoint"], "whole-utterance" if system.context.is_full else "streaming"
    kind = system.model.encoder.config.type
    unit = "utterances" if system.context.is_full else "chunks"
    features = ", normalized in the graph" if kind == FIRST_TYPE else ""
    lines = [
        *(front_matter(facts) if facts["hub_layout"] else []),
        f"# {facts['system']}",
        "",
        f"A {way} transducer exported by kdasr {__version__} for [sherpa-onnx]"
        f"(https://github.com/k2-fsa/sherpa-onnx) (model type `{kind}`).",
        "",
        "| | |",
        "|---|---|",
        f"| context | {system.context} (frames of {1000 * system.model.geometry.frame_seconds:g} ms) |",
        *_latency_lines(facts["latency_ms"]),
        f"| size | {facts['params'] / 1e6:.2f} M parameters, {system.tokenizer.vocab_size} pieces |",
        f"| text | as in the training transcripts, normalized by `{facts['normalization']}` |",
        *_penalty_lines(facts["blank_penalty"]),
        f"| input | 16 kHz; 80 log-mel energies as sherpa-onnx computes them{features} |",
        f"| training data | {facts['training_data'] or 'not known'} |",
        f"| training | {_training(facts)} |",
        f"| checkpoint | {checkpoint['file']}, sha256 {checkpoint['sha256'][:16]} |",
        f"| language | {facts['language'] or 'not stated; that of the training data'} |",
        f"| license | {facts['license'] or 'not stated: ask whoever trained it'} |",
        "",
        *_result_lines(facts["results"]),
        *_long_form_lines(facts["long_form"]),
        *_limit_lines(facts, parity),
        "## Exactness",
        "",
        *(_parity_line(kind, measured, unit) for kind, measured in parity.items()),
        "",
        *_usage_lines(parity, system.context),
        *_extra_lines(content.extras),
        *_reproduction_lines(facts, parity),
    ]
    path.write_text("\n".join(lines), encoding="utf-8")


def _training(facts: Facts) -> str:
    """How long, and by what; a checkpoint that was imported, or has left its home, does not say."""
    steps = f"{facts['train_steps']} steps"
    if facts["commit"] or facts["training_commands"]:
        return f"{steps}, by kdasr at commit {facts['commit'] or 'not known'}"
    return f"{steps}; by what is not known" if facts["train_steps"] else "not known"


def _penalty_lines(penalty: float) -> list[str]:
    if not penalty:
        return []
    return [f"| blank penalty | {penalty:g}, chosen on dev, is part of the joiner: give clients none |"]


def _result_lines(results: Sequence[Facts]) -> list[str]:
    lines = ["## Results", ""]
    if not results:
        return [*lines, "Not decoded before the export.", ""]
    lines += [
        "| part | mode | search | WER % | CER % | first word, ms | first token, ms | utterances | words |"
    ]
    lines += ["|---|---|---|---|---|---|---|---|---|"]
    for row in results:
        figures = [_number(row.get(key), digits) for key, digits in _FIGURES.items()]
        figures[0] += _range(row.get("wer_ci"))
        cells = (row["part"], row["mode"], row["search"], *figures, row["num_utterances"], row["num_words"])
        lines.append(f"| {' | '.join(map(str, cells))} |")
    note = (
        "By kdasr's PyTorch recognizer, float32. In brackets: 95 % intervals, bootstrapped over speakers "
        "where known, else over utterances. First word and first token: from the onset of the first word "
        "until it is shown, by the audio that has to arrive; means, without computing."
    )
    return [*lines, "", note, ""]


_FIGURES = {"wer": 2, "cer": 2, "first_word_ms": 0, "first_token_ms": 0}
"""Columns, and their digits."""


def _long_form_lines(rows: Sequence[Facts]) -> list[str]:
    if not rows:
        return ["## Long streams", "", "Not measured.", ""]
    lines = ["## Long streams", "", "Utterances joined into one stream:", ""]
    lines += ["| part | search | pauses | segments end | WER % | one by one, WER % | longest, s | words |"]
    lines += ["|---|---|---|---|---|---|---|---|"]
    for row in rows:
        pause = f"{row['gap_s']:g} s, {row['noise']}" if row["gap_s"] else "none"
        end = "at endpoints" if row["endpoints"] else "never"
        wer = _number(row["wer"], 2) + _range(row.get("wer_ci"))
        cells = (row["part"], row["search"], pause, end, wer, _number(row["single_wer"], 2))
        lines.append(f"| {' | '.join(cells)} | {row['longest_seconds']:.0f} | {row['words']} |")
    return [*lines, ""]


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _range(limits: Sequence[float | None] | None) -> str:
    return "" if limits is None or None in limits else f" ({limits[0]:.2f} to {limits[1]:.2f})"


def _limit_lines(facts: Facts, parity: Mapping[str, Parity]) -> list[str]:
    """What a user must not expect, as far as the facts say."""
    data, seconds = facts["training_data"] or "speech that is not known", facts["training_seconds"]
    measured = "measured on the parts above alone" if facts["results"] else "not measured before the export"
    limits = [
        f"Trained on {data}, and {measured}: expect more errors where speakers, rooms, microphones, noise or "
        "words are others."
    ]
    if seconds is not None:
        longer = "for longer ones, see *Long streams*"
        limits += [f"Training utterances have {seconds[0]:g} to {seconds[1]:g} s; {longer}."]
    limits += [
        "It writes the words of its training transcripts, in their case; punctuation and digits only if they "
        "have them. It does not say who speaks, or in which language."
    ]
    if facts["calibration"] is None:
        limits += ["The confidence of words is not calibrated."]
    if "int8" in parity:
        limits += ["The word error rates are those of float32 graphs. Measure the int8 ones on your speech."]
    return ["## Limits", "", *(f"- {limit}" for limit in limits), ""]


def _extra_lines(extras: Sequence[str]) -> list[str]:
    if not extras:
        return []
    lines = ["## Files", ""]
    if "bpe.vocab" in extras:
        lines += ['For hotwords in sherpa-onnx: `modeling_unit="bpe"`, `bpe_vocab="bpe.vocab"`.', ""]
    if any(name.startswith("test_wavs/") for name in extras):
        lines += ["`test_wavs/` has recordings, and in `test_wavs/trans.txt` what was said in them.", ""]
    return lines


def _reproduction_lines(facts: Facts, parity: Mapping[str, Parity]) -> list[str]:
    """How to make it again."""
    training = facts["training_commands"]
    if not training:
        return []
    exp = exp_of(training[-1])
    parts = list(dict.fromkeys(row["part"] for row in facts["results"]))
    chosen = ["--context", facts["chosen_context"]] if facts["chosen_context"] else []
    decode = ["kdasr", "decode", exp, "--data", "DATA", "--parts", " ".join(parts), *chosen]
    commands = list(training)
    if facts["calibration"] is not None or facts["blank_penalty"]:
        commands += [["kdasr", "calibrate", exp, "--data", "DATA", "--parts", "DEV_PARTS"]]
    if parts:
        commands += [decode] + ([[*decode, "--long-form"]] if facts["long_form"] else [])
    int8 = ["--int8"] if "int8" in parity else []
    commands += [["kdasr", "export", exp, "--out", "DIR", *chosen, *int8]]
    heading = f"With kdasr at commit {facts['commit'] or 'not known'}; paths are relative to one folder:"
    return ["## Reproduce", "", heading, "", "```bash", *map(shlex.join, commands), "```", ""]


def _parity_line(kind: str, measured: Parity, unit: str) -> str:
    names = ("encoder", "decoder", "joiner", "encoder_relative")
    encoder, decoder, joiner, relative = (f"{getattr(measured, name):.2g}" for name in names)
    limit = f" (allowed: {TOLERANCE:g})" if kind == "float32" else ""
    return (
        f"- {kind}: largest difference from PyTorch over {measured.chunks} {unit}: encoder {encoder}, "
        f"decoder {decoder}, joiner {joiner}{limit}; encoder, relative: {relative}"
    )


def _latency_lines(latency: Mapping[str, float] | None) -> list[str]:
    if latency is None:
        return ["| latency | hears an utterance at its end |"]
    return [
        f"| latency | chunks of {latency['chunk']} ms, look-ahead {latency['lookahead']} ms; pieces of the "
        f"first chunk need {latency['first_output']:.1f} ms of audio, in sherpa-onnx "
        f"{latency['first_output_sherpa_onnx']:.1f} ms |"
    ]


def _usage_lines(kinds: Mapping[str, Parity], context: Context) -> list[str]:
    lines = ["## Use", "", "```python", "import sherpa_onnx", ""]
    recognizer = "OfflineRecognizer" if context.is_full else "OnlineRecognizer"
    lines += [f"recognizer = sherpa_onnx.{recognizer}.from_transducer("]
    lines += ['    tokens="tokens.txt",']
    lines += [f'    {name}="{graph_name(name)}",' for name in ("encoder", "decoder", "joiner")]
    lines += [")", "```", ""]
    if "int8" in kinds:
        lines += ["`encoder.int8.onnx` and so on: MatMul (decoder: and Gather) with int8 weights.", ""]
    if context.is_full:
        return [*lines, f"`{MANIFEST}` has the digest of each file and these figures for programs.", ""]
    lines += [
        "With endpoint detection leave `reset_encoder` off: what the encoder has heard when an endpoint is "
        "noticed may be the beginning of a word. Give a large `rule3_min_utterance_length`, such as 1000: at "
        "rule 3 a word may be cut in two, and modified beam search begins anew in the middle of speech.",
        "",
        "At the end of a recording append zero samples, more than a window of them: sherpa-onnx decodes "
        "whole windows only.",
        "",
        f"`{MANIFEST}` has the digest of each file and these figures for programs.",
        "",
    ]
    return lines
