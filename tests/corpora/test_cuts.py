"""Lhotse cuts of any recipe, prepared: the same as a folder would give, and bad ones named."""

# Shapes: N samples, C channels.

import gzip
import json
import logging
import pickle
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import torchaudio
from lhotse import CutSet, Recording, RecordingSet, SupervisionSegment
from lhotse.cut import MonoCut, MultiCut
from lhotse.recipes import prepare_librispeech
from lhotse.supervision import AlignmentItem
from lhotse.utils import fastcopy

from kdasr.common.errors import UserError
from kdasr.common.files import read_json
from kdasr.corpora.audio_part import AudioPart, AudioUtterance
from kdasr.corpora.cut_manifest import iter_cuts
from kdasr.corpora.cut_utterances import utterances_of
from kdasr.corpora.prepare import PrepareOptions, _warn_of_shared, prepare_corpus
from kdasr.corpora.shar import check_shard, find_shards
from kdasr.data.audio_reading import AudioHeader
from kdasr.data.bad import MaxBad
from kdasr.data.features import SAMPLE_RATE, compute_features, load_cut_samples
from kdasr.data.folder import load_cuts
from kdasr.evaluation.joining import in_order
from kdasr.testing import tone, write_corpus

TRAIN, DEV = "train-clean-100", "dev-clean"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two parts with alignments; one recording is stereo at 8 kHz, as wav. With Lhotse's own cuts of it."""
    root = tmp_path_factory.mktemp("corpus")
    write_corpus(root / "LibriSpeech", (TRAIN, DEV), alignments_dir=root / "alignments")
    chapter = root / "LibriSpeech" / DEV / "200" / "1"
    left_N = tone(soundfile.info(chapter / "200-1-0001.flac").duration, seed=5, sample_rate=8000)
    soundfile.write(chapter / "200-1-0001.flac", np.stack([left_N, 0.5 * left_N], axis=1), 8000)
    theirs = prepare_librispeech(root / "LibriSpeech", root / "alignments", [TRAIN, DEV])
    for part, manifests in theirs.items():
        cuts = CutSet.from_manifests(manifests["recordings"], manifests["supervisions"])
        # Of the stereo recording Lhotse makes a cut of its first channel; ours are of all channels.
        cuts = CutSet.from_cuts(_all_channels(cut) for cut in cuts)
        cuts.shuffle().to_file(root / f"cuts_{part}.jsonl.gz")
    return root


def _all_channels(cut: MonoCut) -> MonoCut | MultiCut:
    if cut.recording.num_channels == 1:
        return cut
    supervisions = [replace(item, channel=[0, 1]) for item in cut.supervisions]
    return MultiCut(cut.id, cut.start, cut.duration, [0, 1], supervisions, recording=cut.recording)


@pytest.fixture(scope="module")
def from_folder(corpus: Path) -> Path:
    """The data folder of the layout, with speed copies."""
    options = PrepareOptions(corpus / "LibriSpeech", corpus / "data", [TRAIN, DEV], corpus / "alignments")
    prepare_corpus(options)
    return corpus / "data"


def content(data: Path) -> dict[str, Any]:
    """What training sees of a data folder: cuts without the language and the paths, features, statistics."""
    found: dict[str, Any] = {"stats": read_json(data / "feature_stats.json")}
    for part in (TRAIN, DEV):
        for cut in load_cuts(data, part):
            supervision = cut.supervisions[0]
            words = [(word.symbol, word.start, word.duration) for word in supervision.alignment["word"]]
            told = (supervision.id, supervision.text, supervision.speaker, supervision.start, words)
            sizes = (cut.start, cut.duration, cut.num_samples, cut.sampling_rate, cut.custom["speed"])
            found[f"{part} {cut.id}"] = (told, supervision.duration, sizes, cut.load_features().tobytes())
    return found


def shar_of(manifest: Path, folder: Path, shard_size: int = 2) -> Path:
    folder.mkdir(parents=True)
    CutSet.from_file(manifest).to_shar(folder, fields={"recording": "flac"}, shard_size=shard_size)
    return folder


@pytest.mark.parametrize("as_shar", [False, True])
def test_the_layout_and_lhotses_own_manifests_of_it_give_the_same(
    corpus: Path, from_folder: Path, tmp_path: Path, as_shar: bool
) -> None:
    places = {part: [corpus / f"cuts_{part}.jsonl.gz"] for part in (TRAIN, DEV)}
    if as_shar:
        places = {part: [shar_of(place, tmp_path / part)] for part, (place,) in places.items()}
    prepare_corpus(PrepareOptions(None, tmp_path / "data", cuts=places))
    assert content(tmp_path / "data") == content(from_folder)
    first = next(iter(load_cuts(tmp_path / "data", TRAIN)))
    assert Path(first.recording.sources[0].source).is_relative_to(tmp_path / "data") == as_shar
    assert not list((tmp_path / "data").rglob(".*"))


def recording(
    path: Path, seconds: float, seed: int = 0, rate: int = SAMPLE_RATE, name: str = ""
) -> Recording:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, tone(seconds, seed, rate), rate)
    return Recording.from_file(path, recording_id=name or path.stem)


def said(name: str, recording_id: str, start: float, duration: float, text: str | None) -> SupervisionSegment:
    words = (text or "").split()
    step = duration / max(1, len(words))
    items = [AlignmentItem(word, start + step * place, step) for place, word in enumerate(words)]
    return SupervisionSegment(
        name,
        recording_id,
        start,
        duration,
        text=text,
        speaker="s",
        language="English",
        alignment={"word": items},
    )


def cut_of(audio: Recording, *supervisions: SupervisionSegment) -> MonoCut:
    return MonoCut(f"{audio.id}-cut", 0.0, audio.duration, 0, list(supervisions), recording=audio)


def write(path: Path, *cuts: Any) -> Path:
    CutSet.from_cuts(cuts).to_file(path)
    return path


def prepare(root: Path, *places: Path, part: str = "dev", **changes: Any) -> CutSet:
    options = PrepareOptions(None, root / "data", cuts={part: list(places)}, **changes)
    prepare_corpus(options)
    return load_cuts(root / "data", part)


@pytest.mark.parametrize("rate", [SAMPLE_RATE, 8000])
def test_a_long_recording_becomes_its_utterances(
    tmp_path: Path, rate: int, caplog: pytest.LogCaptureFixture
) -> None:
    audio = recording(tmp_path / "talk.wav", 6.0, rate=rate)
    cut = cut_of(
        audio, said("b", "talk", 0.5, 1.5, "one two"), said("a", "talk", 3.0, 2.0, "three"),
        said("c", "talk", 4.5, 1.25, "four"),
    )  # fmt: skip
    with caplog.at_level(logging.INFO, logger="kdasr"):
        cuts = prepare(tmp_path, write(tmp_path / "c.jsonl.gz", cut))
    assert "dev: 1 cut(s) with several supervisions are trimmed to each: 3 utterances" in caplog.text
    assert "dev: 1 supervision(s) overlap another one of their cut" in caplog.text
    assert [cut.id for cut in cuts] == ["a", "b", "c"]
    assert [cut.id for cut in in_order(list(cuts))] == ["b", "a", "c"]
    by_id = {cut.id: cut for cut in cuts}
    assert [by_id[name].duration for name in "abc"] == [2.0, 1.5, 1.25]
    assert [(word.symbol, word.start) for word in by_id["b"].supervisions[0].alignment["word"]] == [
        ("one", 0.0), ("two", 0.75),
    ]  # fmt: skip
    assert by_id["b"].supervisions[0].language == "English"
    # Trimmed by Lhotse before, its word times count from the begin of the recording.
    pieces = cut.trim_to_supervisions(keep_overlapping=False)
    again = prepare(tmp_path / "again", write(tmp_path / "pieces.jsonl.gz", *pieces))
    for one, other in zip(cuts, again, strict=True):
        assert one.supervisions[0].alignment == other.supervisions[0].alignment
        assert (one.id, one.duration) == (other.id, other.duration)
    whole_N = soundfile.read(tmp_path / "talk.wav", dtype="float32")[0]
    heard_N = by_id["a"].load_audio()[0]
    step = SAMPLE_RATE // rate
    expected_N = whole_N[3 * rate : 5 * rate]
    np.testing.assert_allclose(heard_N[::step][100:-100], expected_N[100:-100], atol=0.02 * step)
    assert all(cut.num_frames == round(100 * cut.duration) for cut in cuts)
    for one in cuts:  # by Lhotse's own rule, which counts from the begin of the recording
        expected_TF = compute_features(load_cut_samples(one)).numpy()
        np.testing.assert_allclose(one.load_features(), expected_TF, atol=0.01)


def test_other_cuts_of_lhotse_are_converted(tmp_path: Path) -> None:
    """A mixture, a padded cut, one channel of two, and audio within a manifest's folder under a relative
    path."""
    first, second = (recording(tmp_path / f"{name}.wav", 1.0, seed) for seed, name in enumerate("xy"))
    mixed = cut_of(first, said("mixed", "x", 0.0, 1.0, "one")).mix(cut_of(second), snr=0)
    stereo_NC = np.stack([tone(1.0, 3), tone(1.0, 4)], axis=1)
    soundfile.write(tmp_path / "stereo.wav", stereo_NC, SAMPLE_RATE)
    stereo = Recording.from_file(tmp_path / "stereo.wav")
    right = MonoCut(
        "right", 0.0, 1.0, 1, [replace(said("r", "stereo", 0, 1.0, "two"), channel=1)], recording=stereo
    )
    near = recording(tmp_path / "near.flac", 1.2)
    near.sources[0].source = "near.flac"
    inside = {"word": [AlignmentItem("one", 0.625, 0.125)]}  # in the supervision also without the padding
    one = replace(said("padded", "x", 0.0, 1.0, "one"), alignment=inside)
    padded = cut_of(first, one).pad(1.5, direction="left")
    said_near = cut_of(near, said("near", "near", 0, 1.2, "SIX"))
    manifest = write(tmp_path / "c.jsonl", mixed, padded, right, said_near)
    cuts = {cut.id: cut for cut in prepare(tmp_path, manifest)}
    assert sorted(cuts) == ["mixed", "near", "padded", "r"]
    assert cuts["padded"].duration == 1.5
    assert [word.start for word in cuts["padded"].supervisions[0].alignment["word"]] == [1.125]
    np.testing.assert_allclose(cuts["r"].load_audio()[0], stereo_NC[:, 1], atol=1e-3)
    assert np.abs(cuts["mixed"].load_audio()[0] - tone(1.0, 0)).max() > 0.1
    assert Path(cuts["near"].recording.sources[0].source) == tmp_path / "near.flac"
    assert all(cut.recording.num_channels == 1 and cut.sampling_rate == SAMPLE_RATE for cut in cuts.values())


@pytest.mark.parametrize("padding", [0.0, 0.5])
@pytest.mark.parametrize("channel", [0, 1, [0, 1]])
def test_of_several_channels_those_of_the_supervision_are_heard(
    tmp_path: Path, channel: int | list[int], padding: float, caplog: pytest.LogCaptureFixture
) -> None:
    samples_NC = np.stack([tone(1.0, 3), tone(1.0, 4)], axis=1)
    soundfile.write(tmp_path / "call.wav", samples_NC, SAMPLE_RATE)
    call = Recording.from_file(tmp_path / "call.wav")
    told = replace(said("a", "call", 0.0, 1.0, "one"), channel=channel)
    cut = MultiCut("call", 0.0, 1.0, [0, 1], [told], recording=call).pad(1.0 + padding)
    with caplog.at_level(logging.INFO, logger="kdasr"):
        (one,) = prepare(tmp_path, write(tmp_path / "c.jsonl", cut))
    assert ("1 utterance(s) of cuts of several channels" in caplog.text) == isinstance(channel, int)
    expected_N = samples_NC[:, channel] if isinstance(channel, int) else samples_NC.mean(axis=1)
    assert (one.id, [word.symbol for word in one.supervisions[0].alignment["word"]]) == ("a", ["one"])
    heard_N = one.load_audio()[0]
    np.testing.assert_allclose(heard_N[:SAMPLE_RATE], expected_N, atol=1e-3)
    assert len(heard_N) == (1.0 + padding) * SAMPLE_RATE and not heard_N[SAMPLE_RATE:].any()


def test_words_of_trimmed_cuts_in_a_shar_folder_are_not_trusted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Their times count from the begin of the recording, and where the cut began there is not kept."""
    talk = recording(tmp_path / "talk.wav", 6.0)
    cut = cut_of(talk, said("a", "talk", 0.0, 1.0, "one"), said("b", "talk", 3.0, 2.0, "two"))
    manifest = write(tmp_path / "c.jsonl.gz", *cut.trim_to_supervisions(keep_overlapping=False))
    cuts = prepare(tmp_path, shar_of(manifest, tmp_path / "shar"))
    assert [bool(one.supervisions[0].alignment) for one in cuts] == [True, False]
    assert "1 utterance(s) of a Shar folder have words outside of their cut" in caplog.text
    caplog.clear()
    cuts = prepare(tmp_path / "again", manifest)
    assert all(one.supervisions[0].alignment for one in cuts) and "Shar" not in caplog.text


@pytest.mark.parametrize("padding", [0.0, 0.5])
@pytest.mark.parametrize("channel", [0, 1])
def test_a_cut_of_one_channel_is_heard_in_it_whatever_its_supervisions_say(
    tmp_path: Path, channel: int, padding: float
) -> None:
    """By default Lhotse's supervisions are of channel 0."""
    samples_NC = np.stack([tone(2.0, 3), tone(2.0, 4)], axis=1)
    soundfile.write(tmp_path / "call.wav", samples_NC, SAMPLE_RATE)
    call = Recording.from_file(tmp_path / "call.wav")
    told = [said("a", "call", 0.0, 1.0, "one"), said("b", "call", 1.0, 1.0, "two")]
    told = [replace(item, channel=1 - channel) for item in told]
    cut = MonoCut("call", 0.0, 2.0, channel, told, recording=call).pad(2.0 + padding)
    cuts = list(prepare(tmp_path, write(tmp_path / "c.jsonl", cut)))
    heard_N = np.concatenate([one.load_audio()[0] for one in cuts])
    np.testing.assert_allclose(heard_N, samples_NC[:, channel], atol=1e-3)


@pytest.mark.parametrize(("begin", "seconds", "is_named"), [(1.0, 1.0, True), (0.0, 2.5, False)])
def test_a_cut_that_is_mostly_outside_its_only_supervision_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, begin: float, seconds: float, is_named: bool
) -> None:
    audio = recording(tmp_path / "talk.wav", 5.0)
    cut = cut_of(audio, said("a", "talk", begin, seconds, "one two"))
    (found,) = prepare(tmp_path, write(tmp_path / "c.jsonl", cut))
    assert found.duration == 5.0
    assert ("dev: 1 supervision(s) cover less than half of their cut" in caplog.text) == is_named


def test_supervisions_that_go_a_little_beyond_their_cut_end_with_it(tmp_path: Path) -> None:
    audio = recording(tmp_path / "talk.wav", 3.0)
    cut = cut_of(
        audio, said("a", "talk", -0.01, 1.01, "one"), said("b", "talk", 2.0, 1.02, "two"),
        said("c", "talk", 3.005, 0.01, "three"),
    )  # fmt: skip
    manifest = write(tmp_path / "c.jsonl", cut)
    cuts = list(prepare(tmp_path, manifest, max_bad=MaxBad(1, False)))
    assert [(cut.id, cut.start, cut.duration) for cut in cuts] == [("a", 0.0, 1.0), ("b", 2.0, 1.0)]
    assert [cut.supervisions[0].alignment["word"][0].start for cut in cuts] == [-0.01, 0.0]


def test_recordings_in_a_row_become_their_utterances(tmp_path: Path) -> None:
    """The supervisions of a track count from its own begin."""
    first, second = (recording(tmp_path / f"{name}.wav", 1.0, seed) for seed, name in enumerate("xy"))
    cuts = (
        cut_of(first, said("a", "x", 0.0, 0.5, "one"), said("outside", "x", 2.0, 2.0, "four")),
        cut_of(second, said("b", "y", 0.25, 0.5, "two"), said("c", "y", 0.5, 0.5, "three")),
    )
    joined = cuts[0].append(cuts[1].pad(1.5, direction="left"))
    manifest = write(tmp_path / "c.jsonl", joined)
    found = {cut.id: cut for cut in prepare(tmp_path, manifest, max_bad=MaxBad(1, False))}
    assert sorted(found) == ["a", "b", "c"]
    whole_N = soundfile.read(tmp_path / "y.wav", dtype="float32")[0]
    np.testing.assert_allclose(found["b"].load_audio()[0], whole_N[4000:12000], atol=1e-3)
    assert [cut.supervisions[0].alignment["word"][0].start for cut in found.values()] == [0.0, 0.0, 0.0]


def test_a_filter_of_a_rate_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of an odd rate takes long; what comes out is what torchaudio's function makes of each file."""
    audios = [recording(tmp_path / f"{name}.wav", 0.5, seed, rate=11200) for seed, name in enumerate("abc")]
    expected = {
        audio.id: torchaudio.functional.resample(torch.from_numpy(audio.load_audio()[0]), 11200, SAMPLE_RATE)
        for audio in audios
    }
    made: list[int] = []
    real = torchaudio.transforms.Resample

    def counted(rate: int, *rest: Any, **more: Any) -> Any:
        made.append(rate)
        return real(rate, *rest, **more)

    monkeypatch.setattr(torchaudio.transforms, "Resample", counted)
    cuts = [cut_of(audio, said(audio.id, audio.id, 0, 0.5, "one")) for audio in audios]
    for cut in prepare(tmp_path, write(tmp_path / "c.jsonl.gz", *cuts), jobs=2):
        np.testing.assert_allclose(cut.load_audio()[0], expected[cut.id], atol=2**-15)
    assert made == [11200]


def test_stored_features_and_odd_fields_of_others_are_not_kept(tmp_path: Path) -> None:
    cut = cut_of(recording(tmp_path / "a/b.wav", 1.0), said("x/../y z", "b", 0, 1.0, " eins "))
    cut = cut.with_custom("speed", 7).with_custom("topic", {"name": "weather"})
    cut.supervisions[0].speaker = 1089  # type: ignore[assignment]
    (ours,) = prepare(tmp_path, write(tmp_path / "c.jsonl.gz", cut), part="train", speeds=(1.0,))
    assert (ours.id, ours.custom) == ("x/../y z", {"topic": {"name": "weather"}, "speed": 1.0})
    assert (ours.supervisions[0].text, ours.supervisions[0].speaker) == ("eins", "1089")
    assert ours.load_features().shape == (100, 80)


def test_what_is_left_out_is_counted_and_may_be_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    audio = [recording(tmp_path / f"{name}.wav", 1.0, rate=rate) for name, rate in
             (("a", 16000), ("b", 16000), ("c", 16000), ("d", 8000))]  # fmt: skip
    good, empty, odd = (
        cut_of(item, said(item.id, item.id, 0, 1.0, text))
        for item, text in zip(audio[1:], ("x", " ", "y"), strict=True)
    )
    manifest = write(tmp_path / "c.jsonl.gz", cut_of(audio[0]), good, empty, odd)
    cuts = prepare(tmp_path, manifest)
    assert [cut.id for cut in cuts] == ["b", "d"]
    assert "dev: several sampling rates (8000 Hz: 1, 16000 Hz: 1); all become 16 kHz" in caplog.text
    assert "dev: 1 cut(s) without supervision, left out: a-cut" in caplog.text
    assert "dev: 1 empty transcript(s), left out: c" in caplog.text
    entry = read_json(tmp_path / "data" / "prepare.json")["parts"]["dev"]
    assert (entry["without_supervision"], entry["empty_transcripts"]) == (["a-cut"], ["a-cut", "c"])
    kept = prepare(tmp_path, manifest, keep_empty=True)  # noticed as another way to prepare it
    assert [cut.supervisions[0].text for cut in kept] == ["", "x", "", "y"]


def bad_audio(tmp_path: Path) -> dict[str, tuple[MonoCut, str]]:
    """Cuts whose audio cannot be used, and why."""
    lost, wrong, short, url, shell, beyond = (
        recording(tmp_path / f"{name}.wav", 1.0)
        for name in ("lost", "wrong", "short", "url", "shell", "beyond")
    )
    Path(lost.sources[0].source).unlink()
    soundfile.write(wrong.sources[0].source, tone(1.0, 0, 8000), 8000)
    soundfile.write(short.sources[0].source, tone(0.5), SAMPLE_RATE)
    url.sources[0].type, url.sources[0].source = "url", "https://example.org/a.wav"
    shell.sources[0].type, shell.sources[0].source = "command", "touch ran"
    reasons = {
        "lost": "no such audio file",
        "wrong": "the manifest says 16000 Hz, the file has 8000",
        "short": "the manifest says 16000 samples, the file has 8000",
        "url": "its audio is at a URL",
        "shell": "its audio is what a shell command prints",
    }
    cuts = {
        item.id: cut_of(item, said(item.id, item.id, 0, 1.0, "x"))
        for item in (lost, wrong, short, url, shell)
    }
    found = {name: (cut, reasons[name]) for name, cut in cuts.items()}
    bare = fastcopy(cuts["lost"], id="bare", recording=None, supervisions=[said("bare", "bare", 0, 1.0, "x")])
    found["bare"] = (bare, "has no recording")
    pair = [said("ok", "beyond", 0, 0.5, "x"), said("late", "beyond", 0.5, 9.0, "y")]
    found["late"] = (cut_of(beyond, *pair), "its supervision is at 0.50 to 9.50 s, the cut has 1.00 s")
    return found


def test_audio_that_cannot_be_used_costs_its_utterance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    bad = bad_audio(tmp_path)
    manifest = write(tmp_path / "c.jsonl.gz", *(cut for cut, _ in bad.values()))
    with pytest.raises(UserError, match=r"dev: 7 of 8 utterances have bad audio, more than --max-bad 1%"):
        prepare(tmp_path, manifest)
    assert not list((tmp_path / "data").rglob("*.lca"))
    assert [cut.id for cut in prepare(tmp_path, manifest, max_bad=MaxBad(7, is_share=False))] == ["ok"]
    lines = [line.split("\t") for line in (tmp_path / "data" / "bad-dev.tsv").read_text().splitlines()]
    told = {("shell" if name == "shell-cut" else name): reason for name, _, reason in lines}
    assert told.keys() == bad.keys()
    assert all(reason in told[name] for name, (_, reason) in bad.items())
    assert not (tmp_path / "ran").exists()


def one_cut(tmp_path: Path, name: str = "a") -> MonoCut:
    return cut_of(recording(tmp_path / f"{name}.wav", 1.0), said(name, name, 0, 1.0, "x"))


def twice(tmp_path: Path) -> list[Path]:
    return [write(tmp_path / f"{name}.jsonl.gz", one_cut(tmp_path)) for name in ("one", "two")]


def test_ids_that_two_parts_have_are_named_with_their_number(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cuts = [one_cut(tmp_path, name) for name in "abc"]
    places = {
        part: [write(tmp_path / f"{part}.jsonl.gz", *some)]
        for part, some in (("train", cuts[:2]), ("train-more", cuts[:1]), ("dev", cuts))
    }
    prepare_corpus(PrepareOptions(None, tmp_path / "data", cuts=places, speeds=[1.0], on_the_fly=True))
    heard = ", so that perhaps the same speech is trained on and scored"
    assert [record.getMessage() for record in caplog.records if "are in both" in record.getMessage()] == [
        "train and train-more: 1 id(s) are in both: a",
        f"train and dev: 2 id(s) are in both{heard}: a, b",
        f"train-more and dev: 1 id(s) are in both{heard}: a",
    ]
    assert len(load_cuts(tmp_path / "data", "dev")) == 3


def test_many_shared_ids_are_counted_in_seconds(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Not by comparing each with each, which takes a minute here, and hours for a large corpus."""
    names = [f"utt-{number:05d}" for number in range(20_000)]
    header = AudioHeader(SAMPLE_RATE, 1, SAMPLE_RATE, True)
    parts = [
        AudioPart(name, [AudioUtterance(item, "x", tmp_path, header) for item in some])
        for name, some in (("train", names), ("dev", names[::-1][:-1]))
    ]
    started = process_time()
    _warn_of_shared(parts, PrepareOptions(None, tmp_path))
    assert process_time() - started < 10
    assert "19999 id(s) are in both" in caplog.text and "utt-00001, utt-00002" in caplog.text


def written(name: str, content: bytes) -> Callable[[Path], list[Path]]:
    def make(tmp_path: Path) -> list[Path]:
        (tmp_path / name).write_bytes(content)
        return [tmp_path / name]

    return make


def recordings_alone(tmp_path: Path) -> list[Path]:
    RecordingSet.from_recordings([one_cut(tmp_path).recording]).to_file(tmp_path / "r.jsonl.gz")
    return [tmp_path / "r.jsonl.gz"]


def shards(change: Callable[[Path], None]) -> Callable[[Path], list[Path]]:
    """Two shards of a cut each, changed."""

    def make(tmp_path: Path) -> list[Path]:
        manifest = write(tmp_path / "c.jsonl.gz", one_cut(tmp_path, "a"), one_cut(tmp_path, "b"))
        change(shar_of(manifest, tmp_path / "shar", shard_size=1))
        return [tmp_path / "shar"]

    return make


def twice_packed(folder: Path) -> None:
    packed = folder / "cuts.000001.jsonl.gz"
    packed.with_suffix("").write_bytes(gzip.decompress(packed.read_bytes()))


def at(cut: MonoCut, position: Any) -> MonoCut:
    cut.custom = {"chapter": "x", "position": position}
    return cut


def keep_all(folder: Path) -> None:
    assert len(list(folder.iterdir())) == 4


def drop_a_shard(folder: Path) -> None:
    (folder / "recording.000001.tar").unlink()


def empty_cuts(folder: Path) -> None:
    gzip.open(folder / "cuts.000001.jsonl.gz", "wt").close()


def empty_both(folder: Path) -> None:
    for number in range(2):
        gzip.open(folder / f"cuts.{number:06d}.jsonl.gz", "wt").close()


def empty_audio(folder: Path) -> None:
    tarfile.open(folder / "recording.000001.tar", "w").close()


def other_audio(folder: Path) -> None:
    (folder / "recording.000000.tar").replace(folder / "recording.000001.tar")
    tarfile_of_b = folder / "recording.000001.tar"
    (folder / "recording.000000.tar").write_bytes(tarfile_of_b.read_bytes())


def only_the_manifest(tmp_path: Path) -> list[Path]:
    (folder,) = shards(keep_all)(tmp_path)
    return [folder / "cuts.000000.jsonl.gz"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (twice, r"dev: 1 id\(s\) are there more than once: 'a' in .*one\.jsonl\.gz and .*two\.jsonl\.gz"),
        (lambda path: [write(path / "c.jsonl.gz", one_cut(path), one_cut(path))], "more than once: 'a' in"),
        (written("c.jsonl.gz", pickle.dumps([1])), r"c\.jsonl\.gz: a pickle, .* not opened"),
        (written("c.pkl", b"anything"), r"c\.pkl: a pickle"),
        (written("c.jsonl", b"PK\3\4 a checkpoint"), r"a pickle"),
        (written("c.jsonl", b"one two\n"), r"c\.jsonl: not a manifest \(.*expected Lhotse cuts"),
        (written("c.jsonl", b"\xff\xfe\x00"), r"c\.jsonl: not a manifest"),
        (written("c.jsonl", b'{"a": 1}\n'), r"c\.jsonl, item 1: a manifest of something else, not of cuts"),
        (written("c.jsonl.gz", gzip.compress(b"")), r"c\.jsonl\.gz: an empty manifest: 0 cuts"),
        (written("c.jsonl.gz", gzip.compress(b"{}" * 99)[:20]), r"c\.jsonl\.gz: cannot be read"),
        (written("c.jsonl", b'{"id": "a", "type": "MonoCut", "start": 0}\n'), "item 1: not a cut that"),
        (recordings_alone, r"r\.jsonl\.gz, item 1: a manifest of recordings, not of cuts: make cuts of"),
        (lambda path: [write(path / "c.jsonl.gz", cut_of(one_cut(path).recording))],
         "dev: no utterance with a transcript: 1 cuts without supervision, 0 with an empty text"),
        (lambda path: [path / "nowhere"], "--cuts dev=.*nowhere: no such file or folder"),
        (lambda path: [path], "not a Shar folder .*there: nothing"),
        (shards(drop_a_shard), r"2 shards of cuts and 1 of recordings; .*cuts\.000001\.jsonl\.gz"),
        (shards(twice_packed), r"the same shard twice: cuts\.000001\.jsonl and cuts\.000001\.jsonl\.gz"),
        (shards(empty_cuts), r"cuts\.000001\.jsonl\.gz: an empty shard: 0 cuts"),
        (shards(empty_both), r"dev: 2 of 2 manifests or shards cannot be used: .*000000\.jsonl\.gz: an"),
        (shards(empty_audio), r"recording\.000001\.tar: an empty shard: 0 recordings, 1 cuts"),
        (shards(other_audio), r"recording\.000001\.tar: has 'a' in the place of 'b'|in the place of"),
        (lambda path: [write(path / "c.jsonl.gz", at(one_cut(path), "00:10"))],
         "cut 'a': its custom field 'position' is '00:10': expected a number"),
        (only_the_manifest, r"dev: 1 of 1 .*its audio is in a Shar archive: name the folder"),
    ],
)  # fmt: skip
def test_bad_input_is_named_before_anything_is_computed(
    tmp_path: Path, make: Callable[[Path], list[Path]], message: str
) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(UserError, match=message) as caught:
        prepare(tmp_path, *make(tmp_path / "in"))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "data" / "prepare.json").exists()


def test_a_part_is_prepared_again_when_its_cuts_change(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Also from several places, and with a name that begins with `train` or is said to be one."""
    first, second = (write(tmp_path / f"{name}.jsonl", one_cut(tmp_path, name)) for name in "ab")

    def run() -> bool:
        caplog.clear()
        with caplog.at_level(logging.INFO, logger="kdasr"):
            prepare(tmp_path, first, second, part="mine", train_parts=["mine"], speeds=(1.0, 1.1))
        return "already prepared" not in caplog.text

    assert run() and not run()
    assert len(load_cuts(tmp_path / "data", "mine")) == 4
    second.write_text(second.read_text().replace('"text": "x"', '"text": "y"'))
    assert run() and not run()
    soundfile.write(tmp_path / "a.wav", tone(1.0, 77), SAMPLE_RATE)
    assert run() and not run()
    with pytest.raises(UserError, match="--train-parts: not among the parts: train"):
        prepare(tmp_path, first, part="dev", train_parts=["train"])
    with pytest.raises(UserError, match=r"part '\.\./x': a name has letters"):
        prepare(tmp_path, first, part="../x")


def test_copies_at_another_speed_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cut = one_cut(tmp_path)
    cuts = prepare(
        tmp_path, write(tmp_path / "c.jsonl.gz", cut, cut.perturb_speed(0.8)), part="train", speeds=(1.0,)
    )
    assert sorted((item.id, item.duration) for item in cuts) == [("a", 1.0), ("a_sp0.8", 1.25)]
    assert "train: 1 utterance(s) are copies at another speed already: give --speed 1" in caplog.text
    assert json.loads((tmp_path / "data" / "prepare.json").read_text())["parts"]["train"]["cuts"] == 2


@pytest.mark.parametrize(
    "place", ["audio/dev/a.wav", "fbank/dev/x.lca", "cuts_dev.jsonl.gz", "manifests/recordings_dev.jsonl.gz"]
)
def test_files_that_others_wrote_are_never_replaced(tmp_path: Path, place: str) -> None:
    """They may be all that there is of the audio."""
    theirs = tmp_path / "data" / place
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(b"theirs")
    manifest = write(tmp_path / "c.jsonl.gz", one_cut(tmp_path))
    with pytest.raises(UserError, match="there already, and `kdasr prepare` would replace"):
        prepare(tmp_path, manifest)
    assert theirs.read_bytes() == b"theirs"
    assert len(prepare(tmp_path, manifest, part="test")) == 1


def test_what_a_part_is_made_of_is_not_replaced_by_it(tmp_path: Path) -> None:
    """Its own cuts, and its converted audio, given as cuts of the same part."""
    audio = recording(tmp_path / "a.wav", 1.0, rate=8000)
    first = prepare(tmp_path, write(tmp_path / "c.jsonl.gz", cut_of(audio, said("a", "a", 0.0, 1.0, "x"))))
    converted = Path(next(iter(first)).recording.sources[0].source)
    own = tmp_path / "data" / "cuts_dev.jsonl.gz"
    copy = tmp_path / "data" / "mine.jsonl.gz"
    copy.write_bytes(own.read_bytes())
    for manifest in (own, copy):
        with pytest.raises(UserError, match="would be lost, as `kdasr prepare` replaces"):
            prepare(tmp_path, manifest)
        assert converted.is_file() and own.read_bytes() == copy.read_bytes()
    assert len(prepare(tmp_path, own, part="test")) == 1


def test_manifests_of_lhotses_recipes_stay(tmp_path: Path) -> None:
    """They have the names that earlier versions gave to theirs."""
    theirs = tmp_path / "data" / "manifests" / "librispeech_recordings_dev.jsonl.gz"
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(b"theirs")
    for speaker in ("one", "other"):
        prepare(tmp_path, write(tmp_path / "c.jsonl.gz", one_cut(tmp_path, speaker)))
        assert theirs.read_bytes() == b"theirs"


def test_a_shar_folder_of_one_shard_without_a_number_is_read(tmp_path: Path) -> None:
    """`to_shar(shard_size=None)` writes `cuts.jsonl.gz` and `recording.tar`."""
    (tmp_path / "shar").mkdir()
    cuts = CutSet.from_cuts([one_cut(tmp_path, "a"), one_cut(tmp_path, "b")])
    cuts.to_shar(tmp_path / "shar", fields={"recording": "flac"}, shard_size=None)
    assert {path.name for path in (tmp_path / "shar").iterdir()} == {"cuts.jsonl.gz", "recording.tar"}
    (one,) = find_shards(tmp_path / "shar")
    assert [cut.id for cut in check_shard(one)] == [cut.id for cut in cuts]


def test_a_cut_whose_id_is_a_number_is_left_out_and_named(tmp_path: Path) -> None:
    """Also a mixture, whose parts have names."""
    cut = one_cut(tmp_path)
    mixed = cut.pad(2.0).to_dict() | {"id": 7}
    for wrong in (cut.to_dict() | {"id": 5}, mixed):
        (tmp_path / "c.jsonl").write_text(f"{json.dumps(wrong)}\n")
        (read,) = iter_cuts(tmp_path / "c.jsonl")
        (found,) = utterances_of(read)
        assert found.cut.id == str(wrong["id"])
        assert found.fault is not None and "expected a text" in found.fault
