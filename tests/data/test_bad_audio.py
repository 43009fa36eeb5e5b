"""Audio that cannot be used costs its utterance: named, counted, and no trace of it in what is prepared."""

import gzip
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

from kdasr.cli.main import cli
from kdasr.common.errors import UserError
from kdasr.common.files import read_json
from kdasr.corpora.prepare import PrepareOptions, prepare_corpus
from kdasr.data import part_features
from kdasr.data.bad import MaxBad
from kdasr.data.features import store_features
from kdasr.data.folder import load_cuts
from kdasr.testing import tone, write_corpus

TRAIN, DEV = "train-clean-100", "dev-clean"
CHAPTER = Path(TRAIN) / "100" / "1"
NAME = "100-1-0001"


def options(root: Path, **changes: Any) -> PrepareOptions:
    base = PrepareOptions(root / "corpus", root / "data", [TRAIN, DEV], speeds=(0.9, 1.0))
    return replace(base, **changes)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_corpus(tmp_path / "corpus", (TRAIN, DEV))
    return tmp_path


def spoil(folder: Path, kind: str, name: str = NAME) -> Path:
    """Put audio that cannot be used in the place of an utterance's."""
    good = folder / f"{name}.flac"
    samples = soundfile.read(good, dtype="float32")[0]
    content = bytearray(good.read_bytes())
    good.unlink()
    path = folder / f"{name}.wav"
    if kind in ("nan", "inf"):
        samples[len(samples) // 2] = float(kind)
    if kind == "unscaled":
        samples *= 32768
    if kind in ("nan", "inf", "unscaled"):
        soundfile.write(path, samples, 16000, subtype="FLOAT")
    elif kind == "stereo nan":
        samples[5] = np.nan
        soundfile.write(path, np.stack([samples, samples], axis=1), 8000, subtype="FLOAT")
    elif kind == "damaged":
        content[len(content) // 2] ^= 0xFF
        content[len(content) // 2 + 1] ^= 0xFF
        (path := good).write_bytes(bytes(content))
    elif kind == "shortened":  # of the 36 bits of the header that hold the number of samples
        content[24:26] = (int.from_bytes(content[24:26]) // 2).to_bytes(2)
        (path := good).write_bytes(bytes(content))
    elif kind == "truncated":
        (path := good).write_bytes(bytes(content[:-50]))
    else:
        (path := folder / f"{name}.m4a").write_bytes(b"\0\0\0\x20ftypM4A " + bytes(500))
    return path


KINDS = {
    "nan": "holds samples that are not finite (nan or infinity)",
    "inf": "holds samples that are not finite (nan or infinity)",
    "unscaled": "scale float samples to [-1, 1]",
    "stereo nan": "holds samples that are not finite",
    "damaged": "cannot be decoded",
    "truncated": "ends early",
    "shortened": "not those that its MD5 digest is of",
    "m4a": ".m4a is not read here",
}


@pytest.mark.parametrize("on_the_fly", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_one_bad_utterance_costs_that_utterance_alone(root: Path, kind: str, on_the_fly: bool) -> None:
    """All else is what is prepared where the utterance has never been."""
    without = root / "without"
    shutil.copytree(root / "corpus", without / "corpus")
    transcript = without / "corpus" / CHAPTER / "100-1.trans.txt"
    lines = [line for line in transcript.read_text().splitlines() if not line.startswith(NAME)]
    transcript.write_text("\n".join(lines))
    path = spoil(root / "corpus" / CHAPTER, kind)
    for folder in (root, without):
        prepare_corpus(options(folder, on_the_fly=on_the_fly))
    assert content(root) == content(without)
    assert np.isfinite(read_json(root / "data" / "feature_stats.json")["mean"]).all()
    name, audio, reason = (root / "data" / f"bad-{TRAIN}.tsv").read_text().rstrip("\n").split("\t")
    assert (name, audio) == (NAME, str(path)) and KINDS[kind] in reason
    assert len(load_cuts(root / "data", TRAIN)) == 10 and not list((root / "data").rglob(".*"))


def content(root: Path) -> list[Any]:
    """The utterances of both parts with their features, and the statistics but for rounding."""
    stats = read_json(root / "data" / "feature_stats.json")
    found: list[Any] = [np.round(stats["mean"] + stats["std"], 8).tolist(), stats["num_frames"]]
    for part in (TRAIN, DEV):
        for cut in sorted(load_cuts(root / "data", part), key=lambda cut: cut.id):
            stored = cut.load_features().tobytes() if cut.has_features else b""
            found.append((cut.id, cut.duration, cut.supervisions[0].text, stored))
        for kind in ("recordings", "supervisions"):
            with gzip.open(root / "data" / "manifests" / f"{kind}_{part}.jsonl.gz", "rt") as file:
                found.append([json.loads(line)["id"] for line in file])
    return found


def test_too_many_are_all_listed_and_what_is_done_is_kept(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def counting(cuts: Any, *rest: Any) -> Any:
        calls.append(len(cuts))
        return store_features(cuts, *rest)

    monkeypatch.setattr(part_features, "store_features", counting)
    for index, kind in enumerate(("nan", "truncated", "damaged")):
        spoil(root / "corpus" / CHAPTER, kind, f"100-1-000{index}")
    message = (
        r"train-clean-100: 3 of 6 utterances have bad audio, more than --max-bad 30% allows: .*0000\.wav"
    )
    with pytest.raises(UserError, match=message):
        prepare_corpus(options(root, max_bad=MaxBad.parse("30%")))
    listed = (root / "data" / f"bad-{TRAIN}.tsv").read_text().splitlines()
    assert [line.split("\t")[0] for line in listed] == [f"100-1-000{index}" for index in range(3)]
    assert calls == [10]  # the truncated one was known before
    prepare_corpus(options(root, max_bad=MaxBad.parse("3")))
    assert calls == [10, 6]  # nothing again: only the other part
    assert len(load_cuts(root / "data", TRAIN)) == 6
    with pytest.raises(UserError, match="more than --max-bad 2 allows"):
        prepare_corpus(options(root, max_bad=MaxBad.parse("2")))


def test_the_first_one_ends_the_work_if_none_is_allowed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part_features, "RUN_SIZES", replace(part_features.RUN_SIZES, usual=1))
    spoil(root / "corpus" / CHAPTER, "nan")
    with pytest.raises(UserError, match=r"1 of 6 utterances have bad audio so far, more than --max-bad 0"):
        prepare_corpus(options(root, max_bad=MaxBad.parse("0")))


@pytest.mark.parametrize(
    ("text", "total", "most"), [("1%", 1000, 10), ("1%", 14, 1), ("0%", 14, 0), ("0", 9, 0), ("25", 9, 25),
                                ("100%", 7, 7), ("10%", 70, 7), ("0.5%", 201, 2)]
)  # fmt: skip
def test_a_share_is_rounded_up(text: str, total: int, most: int) -> None:
    assert MaxBad.parse(text).of(total) == most
    assert str(MaxBad.parse(text)) == text


@pytest.mark.parametrize("text", ["", "some", "-1", "1.5", "101%", "nan%", "inf%", "%"])
def test_other_limits_are_refused(text: str) -> None:
    with pytest.raises(UserError, match=f"--max-bad '{text}'"):
        MaxBad.parse(text)


def test_the_command_goes_on_and_says_what_it_left_out(root: Path) -> None:
    spoil(root / "corpus" / CHAPTER, "nan")
    arguments = ["prepare", "--corpus-dir", str(root / "corpus"), "--parts", f"{TRAIN} {DEV}"]
    result = CliRunner().invoke(cli, [*arguments, "--out", str(root / "data"), "--speed", "1.0"])
    assert result.exit_code == 0, result.output
    assert "1 of 6 utterances have bad audio, left out: " in result.output
    refused = CliRunner().invoke(cli, [*arguments, "--out", str(root / "other"), "--max-bad", "0"])
    assert refused.exit_code == 1 and isinstance(refused.exception, UserError)


def test_streamed_headers_and_other_formats_are_read(root: Path) -> None:
    folder = root / "corpus" / CHAPTER
    spoken = tone(1.5, seed=3)
    names = [f"100-1-{index:04d}" for index in range(3, 12)]
    with (folder / "100-1.trans.txt").open("a") as file:
        file.writelines(f"{name} ONE TWO\n" for name in names)
    for name, suffix, format, subtype in zip(
        names, ("mp3", "ogg", "opus", "aiff", "sph"), ("MP3", "OGG", "OGG", "AIFF", "NIST"),
        (None, "VORBIS", "OPUS", None, None), strict=False,
    ):  # fmt: skip
        soundfile.write(folder / f"{name}.{suffix}", spoken, 16000, format=format, subtype=subtype)
    soundfile.write(folder / "a.flac", spoken, 16000)
    soundfile.write(folder / "a.wav", spoken, 16000)
    flac, wav = bytearray((folder / "a.flac").read_bytes()), (folder / "a.wav").read_bytes()
    flac[21] &= 0xF0
    flac[22:26] = bytes(4)  # STREAMINFO: no number of samples
    (folder / f"{names[5]}.flac").write_bytes(flac)
    for name, size in zip(names[6:], (0xFFFFFFFF, 0, 0x7FFFFFFF), strict=True):  # ffmpeg, GStreamer, sox
        sizes = min(size + 36, 0xFFFFFFFF) if size else 0, size
        riff, data = (number.to_bytes(4, "little") for number in sizes)
        (folder / f"{name}.wav").write_bytes(wav[:4] + riff + wav[8:40] + data + wav[44:])
    for name in ("a.flac", "a.wav"):
        (folder / name).unlink()
    prepare_corpus(options(root, max_bad=MaxBad(0)))
    cuts = {cut.id: cut for cut in load_cuts(root / "data", TRAIN)}
    for name in names:
        samples = cuts[name].load_audio()[0]
        assert len(samples) == len(spoken) and cuts[name].num_frames == 150, name
        assert np.corrcoef(samples, spoken)[0, 1] > 0.95, name  # those that are not exact are lossy


def test_an_interrupted_part_goes_on_to_the_same_files(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped after each of its tasks in turn; an 8 kHz file is converted once."""
    soundfile.write(root / "corpus" / CHAPTER / f"{NAME}.flac", tone(1.0, sample_rate=8000), 8000)
    monkeypatch.setattr(part_features, "RUN_SIZES", replace(part_features.RUN_SIZES, usual=5))
    prepare_corpus(options(root, out_dir=root / "whole"))
    left = [0]

    def stopping(*arguments: Any) -> Any:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return store_features(*arguments)

    monkeypatch.setattr(part_features, "store_features", stopping)
    stops = 0
    while True:
        try:
            prepare_corpus(options(root))
            break
        except KeyboardInterrupt:
            left[0], stops = 1, stops + 1
            assert stops < 9
    assert stops == 5  # of three tasks of the one part and two of the other; the first stop was before any

    def files(folder: Path) -> dict[str, bytes]:
        return {
            str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()
        }

    assert files(root / "data") == files(root / "whole")


def test_other_settings_begin_anew(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*arguments: Any) -> Any:
        store_features(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(part_features, "store_features", stop)
        with pytest.raises(KeyboardInterrupt):
            prepare_corpus(options(root, speeds=(1.0, 1.1)))
    prepare_corpus(options(root))
    stored = {str(path) for path in (root / "data" / "fbank" / TRAIN).iterdir()}
    assert stored == {cut.features.storage_path for cut in load_cuts(root / "data", TRAIN)}
