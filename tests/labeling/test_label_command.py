"""`kdasr label` as a user meets it, with a stand-in for Whisper; and with the real one where it is given."""

import gc
import gzip
import json
import os
import sys
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import whisper_stand_in
from command_line import kdasr, well
from experiment_folder import write_experiment
from lhotse import CutSet, Recording, SupervisionSegment
from lhotse.cut import MonoCut
from tone_spotter import make_spotter, spoken
from whisper_stand_in import HALLUCINATION, State, heard_words, speech

from kdasr.cli.label_progress import LabelProgress
from kdasr.common.ranks import Ranks
from kdasr.corpora.prepare import PrepareOptions, prepare_corpus
from kdasr.data.folder import load_cuts
from kdasr.data.tokenizer import Tokenizer, train_tokenizer
from kdasr.labeling.base import (
    Label,
    LabelerOptions,
    Speech,
    open_labeler,
    register_labeler,
    unregister_labeler,
)
from kdasr.labeling.run import LabelWork
from kdasr.nn.context import Context
from kdasr.testing import WORDS

SECONDS = [2.0, 3.5, 2.5, 4.0, 3.0]
REAL = "KDASR_WHISPER"


@pytest.fixture
def whisper(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> State:
    """The stand-in in the place of faster-whisper; its model is in `tmp_path / "whisper"`."""
    monkeypatch.setitem(sys.modules, "faster_whisper", whisper_stand_in)
    state = State()
    monkeypatch.setattr(whisper_stand_in, "STATE", state)
    (tmp_path / "whisper").mkdir()
    (tmp_path / "whisper" / "model.bin").write_bytes(b"weights")
    return state


def write_cuts(root: Path, waves: dict[str, np.ndarray], texts: dict[str, str] | None = None) -> Path:
    """A manifest of some recordings; those without a text have no supervision."""
    (root / "wav").mkdir(exist_ok=True)
    cuts = []
    for name, wave in waves.items():
        soundfile.write(root / "wav" / f"{name}.flac", wave, 16000)
        recording = Recording.from_file(root / "wav" / f"{name}.flac", recording_id=name)
        cut = recording.to_cut().with_id(name)
        if texts and name in texts:
            cut.supervisions = [SupervisionSegment(name, name, 0.0, cut.duration, text=texts[name])]
        cuts.append(cut)
    CutSet.from_cuts(cuts).to_file(root / "cuts.jsonl.gz")
    return root / "cuts.jsonl.gz"


def utterances() -> dict[str, np.ndarray]:
    return {f"utt-{place}": speech(seconds, 10 * place) for place, seconds in enumerate(SECONDS)}


def label(root: Path, cuts: Path, out: str, *options: object, labeler: str = "") -> str:
    chosen = labeler or f"whisper:{root / 'whisper'}"
    return well("label", "--labeller", chosen, "--cuts", cuts, "--out", root / out, *options)


def manifests(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The cuts of all shards, kept and dropped, without where their audio lies."""
    found = {}
    for path in sorted(folder.rglob("cuts.*.jsonl.gz")):
        with gzip.open(path, "rt") as file:
            found[str(path.relative_to(folder))] = [json.loads(line) for line in file]
    return found


def cuts_of(folder: Path) -> dict[str, dict[str, Any]]:
    """The supervision of each cut, by id."""
    return {cut["id"]: cut["supervisions"][0] for cuts in manifests(folder).values() for cut in cuts}


def test_labels_are_written_filtered_and_prepared_as_they_are(whisper: State, tmp_path: Path) -> None:
    waves = utterances() | {"silent": np.zeros(48000, np.float32)}
    texts = {name: " ".join(heard_words(wave)).upper() for name, wave in waves.items() if name != "silent"}
    texts["utt-1"] += " MORE"
    output = label(
        tmp_path, write_cuts(tmp_path, waves, texts), "out", "--normalize", "upper-words", "--words"
    )
    summary = json.loads((tmp_path / "out" / "filters.json").read_text())
    assert "5 of 6 labels are kept" in output and (tmp_path / "out" / "filters.png").stat().st_size > 1000
    by_name = {entry["name"]: entry for entry in summary["filters"]}
    assert by_name["activity"]["dropped"]["labels"] == 1 and by_name["score"]["dropped"]["labels"] == 0
    num_words = sum(len(texts[name].split()) for name in texts)
    assert summary["all"]["compared"] == 5 and summary["all"]["wrong_percent"] == 20.0
    assert summary["kept"]["wer"] == pytest.approx(100 / num_words, abs=1e-3)
    dropped = cuts_of(tmp_path / "out" / "dropped")
    assert list(dropped) == ["silent"] and "activity" in dropped["silent"]["custom"]["dropped_by"]
    assert dropped["silent"]["text"] == HALLUCINATION.upper().strip(".")

    prepare_corpus(PrepareOptions(None, tmp_path / "data", cuts={"train": [tmp_path / "out"]}, speeds=[1.0]))
    prepared = {cut.id: cut.supervisions[0] for cut in load_cuts(tmp_path / "data", "train")}
    assert {name: item.text for name, item in prepared.items()} == {
        name: " ".join(heard_words(wave)).upper() for name, wave in waves.items() if name != "silent"
    }
    one = prepared["utt-3"]
    assert one.custom["score"] == -0.3 and one.custom["normalization"] == "numbers, upper-words, nmt_nfkc"
    assert [(word.start, word.symbol) for word in one.alignment["word"]] == [
        (0.5 * place, word) for place, word in enumerate(one.text.split())
    ]
    # Other thresholds cost no labeling.
    calls = len(whisper.calls)
    output = label(
        tmp_path, tmp_path / "cuts.jsonl.gz", "out", "--normalize", "upper-words", "--words",
        "--filter", "activity=off", "--filter", "rate=off",
    )  # fmt: skip
    assert "6 of 6 labels are kept" in output and len(whisper.calls) == calls
    assert not manifests(tmp_path / "out" / "dropped")


def test_a_stopped_labeling_goes_on_to_the_same_labels(whisper: State, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("kdasr.labeling.run.BATCH_SECONDS", 1.0)
    monkeypatch.setattr("kdasr.labeling.run._WINDOW", 1.0)
    cuts = write_cuts(tmp_path, utterances())
    label(tmp_path, cuts, "whole", "--shard-size", 3)
    assert len(manifests(tmp_path / "whole")) == 2 and len(whisper.calls) == 5
    whisper.calls.clear()
    whisper.fail_at = 5
    result = kdasr(
        "label", "--labeler", f"whisper:{tmp_path / 'whisper'}", "--cuts", cuts, "--out", tmp_path / "out",
        "--shard-size", 3,
    )  # fmt: skip
    assert result.exception is not None and len(whisper.calls) == 5
    # A line that a kill has cut is not there.
    journal = next((tmp_path / "out" / "labels" / "0-whisper").glob("*.partial-0"))
    journal.write_bytes(journal.read_bytes() + b'[1, {"items"')
    label(tmp_path, cuts, "out", "--shard-size", 3)
    assert len(whisper.calls) == 6
    assert manifests(tmp_path / "out") == manifests(tmp_path / "whole")
    # Labels of other settings are not mixed with these.
    result = kdasr(
        "label", "--labeler", f"whisper:{tmp_path / 'whisper'}", "--cuts", cuts, "--out", tmp_path / "out",
        "--shard-size", 3, "--beam", 1,
    )  # fmt: skip
    assert "another beam" in str(result.exception)


def test_a_shard_whose_audio_was_replaced_is_labeled_again(whisper: State, tmp_path: Path) -> None:
    """Of the same length, so that nothing else tells it; a copy, or another time, is the same audio."""
    waves = utterances()
    cuts = write_cuts(tmp_path, waves)
    label(tmp_path, cuts, "out", "--shard-size", 3)
    whisper.calls.clear()
    for name in waves:
        os.utime(tmp_path / "wav" / f"{name}.flac", (1, 1))
    label(tmp_path, cuts, "out", "--shard-size", 3)
    assert len(whisper.calls) == 0
    waves["utt-1"] = speech(SECONDS[1], 77)
    soundfile.write(tmp_path / "wav" / "utt-1.flac", waves["utt-1"], 16000)
    label(tmp_path, cuts, "out", "--shard-size", 3)
    assert len(whisper.calls) == 3
    # As labels of an earlier version, which noted no audio.
    (tmp_path / "out" / "labels" / "0-whisper" / "audio.json").unlink()
    (tmp_path / "out" / "input" / "input-audio.npy").unlink()
    label(tmp_path, cuts, "out", "--shard-size", 3)
    assert len(whisper.calls) == 3
    label(tmp_path, cuts, "anew", "--shard-size", 3)
    assert manifests(tmp_path / "out") == manifests(tmp_path / "anew")


def test_no_more_utterances_than_those_of_a_shard_are_in_memory(tmp_path: Path) -> None:
    """And they come in the order of their ids, whatever that of the manifest."""
    alive, heard = [], []

    def num_cuts() -> int:
        return sum(type(item) is MonoCut for item in gc.get_objects())

    @register_labeler("counting")
    class Counting:
        def __init__(self, place: str, options: LabelerOptions) -> None:
            pass

        def settings(self) -> dict[str, Any]:
            return {}

        def label(self, batch: Sequence[Speech]) -> list[Label]:
            alive.append(num_cuts() - before)
            heard.extend(item.id for item in batch)
            return [Label("one two three") for _ in batch]

    names = [f"utt-{7 * place % 40:02d}" for place in range(40)]
    cuts = write_cuts(tmp_path, {name: speech(2.0, 0) for name in names})
    gc.collect()
    before = num_cuts()
    try:
        label(tmp_path, cuts, "out", "--shard-size", 4, labeler="counting:x")
        assert len(heard) == 40 and max(alive) <= 2 * 4
        found = manifests(tmp_path / "out")
        assert [cut["id"] for shard in found.values() for cut in shard] == sorted(names)
        # A folder of an earlier version has no order of its utterances, and its labels are kept.
        record = tmp_path / "out" / "input" / "input.json"
        known = json.loads(record.read_text())
        record.write_text(json.dumps({name: known[name] for name in ("fingerprint", "bad")}))
        for path in record.parent.glob("*.npy"):
            path.unlink()
        label(tmp_path, cuts, "out", "--shard-size", 4, labeler="counting:x")
        assert len(heard) == 40 and manifests(tmp_path / "out") == found
        assert json.loads(record.read_text()) == known
    finally:
        unregister_labeler("counting")


def test_finished_shards_are_found_without_a_search_for_each(tmp_path: Path, monkeypatch) -> None:
    cuts: Any = range(7)
    work = LabelWork("x", None, cuts, tmp_path, {}, 2, 1, Ranks())  # type: ignore[arg-type]
    for number in (0, 2, 3):
        work.labels_path(number).touch()
        work.pace_path(number).touch()
    for name in ("shard.000001.partial-0", "shard.000002.partial-12"):  # of 2 it has what may be read by now
        (tmp_path / name).touch()
    assert [work.is_finished(number) for number in range(4)] == [True, False, False, True]
    monkeypatch.setattr(Path, "glob", lambda folder, pattern: pytest.fail("another search"))
    assert work.finished() == [True, False, False, True]


def test_the_pace_is_that_of_this_run(monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    """What an earlier run has labeled is done, and was not labeled in this hour."""
    hours = iter([0.0, 0.0, 1.0, 1.0, 1.0])
    monkeypatch.setattr("kdasr.cli.label_progress.time.monotonic", lambda: 3600.0 * next(hours))
    progress = LabelProgress("whisper", 0.0, 3 * 3600.0, Ranks(0, 1))
    progress.advance(2 * 3600.0, by_earlier_run=True)
    with caplog.at_level("INFO", logger="kdasr"):
        progress.advance(1800.0)
    assert "2.50 of 3.00 h of audio, 0.5 hours per hour" in caplog.text


def test_processes_share_the_utterances(whisper: State, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("kdasr.labeling.run.BATCH_SECONDS", 1.0)
    monkeypatch.setattr("kdasr.labeling.run._WINDOW", 1.0)
    cuts = write_cuts(tmp_path, utterances())
    label(tmp_path, cuts, "alone")
    whisper.calls.clear()
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, calls in ((0, 3), (1, 5)):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("LOCAL_RANK", "0")
        label(tmp_path, cuts, "shared")
        assert len(whisper.calls) == calls
        assert bool(manifests(tmp_path / "shared")) == (rank == 1)
    assert manifests(tmp_path / "shared") == manifests(tmp_path / "alone")


@pytest.mark.parametrize("batch", [1, 3])
def test_long_audio_is_heard_to_its_end(whisper: State, tmp_path: Path, batch: int) -> None:
    waves = [speech(seconds, seed) for seed, seconds in enumerate((2.0, 71.5, 30.0, 0.0, 3.0))]
    options = LabelerOptions(batch_size=batch, language="en", words=True)
    labeler = open_labeler(f"whisper:{tmp_path / 'whisper'}", options)
    labels = labeler.label([Speech(f"{place}", wave) for place, wave in enumerate(waves)])
    for found, wave in zip(labels, waves, strict=True):
        said = found.text.lower().replace(".", "").split()
        assert said == heard_words(wave)
        assert [word.text for word in found.words] == said
        assert [word.start for word in found.words] == pytest.approx(
            [0.5 * place for place in range(len(said))]
        )
    assert whisper.batches == ([] if batch == 1 else [3])
    with pytest.raises(Exception, match="--batch-size 2: whisper labels several"):
        open_labeler(f"whisper:{tmp_path / 'whisper'}", LabelerOptions(batch_size=2))


@pytest.mark.parametrize(("language", "text"), [("zh", "你好世界"), ("en", "Hello world.")])
def test_segments_are_joined_as_their_language_is_written(
    whisper: State, tmp_path: Path, language: str, text: str
) -> None:
    whisper.text = text
    labeler = open_labeler(f"whisper:{tmp_path / 'whisper'}", LabelerOptions(language=language))
    (label,) = labeler.label([Speech("long", speech(45.0))])
    assert label.text == (text + text if language == "zh" else f"{text} {text}")


@pytest.mark.parametrize("words", [False, True])
def test_utterances_of_any_length_share_a_batch(whisper: State, tmp_path: Path, words: bool) -> None:
    waves = [speech(1.0 + count / 16000, seed) for seed, count in enumerate((7, 159, 3, 8007, 15999))]
    options = LabelerOptions(batch_size=5, language="en", words=words)
    labeler = open_labeler(f"whisper:{tmp_path / 'whisper'}", options)
    labels = labeler.label([Speech(f"{place}", wave) for place, wave in enumerate(waves)])
    said = [label.text.lower().replace(".", "").split() for label in labels]
    assert whisper.batches == [5] and said == [heard_words(wave) for wave in waves]
    if words:
        assert [word.start for word in labels[3].words] == pytest.approx([0.0, 0.5, 1.0])


def test_a_language_that_the_pieces_cannot_spell_is_refused_by_name(whisper: State, tmp_path: Path) -> None:
    train_tokenizer([" ".join(WORDS)] * 3, 24, tmp_path / "tokens", at_most=True)
    cuts = write_cuts(tmp_path, utterances())
    whisper.text, whisper.language = "Привет, мир.", "ru"
    arguments = (
        "--cuts",
        cuts,
        "--tokens",
        tmp_path / "tokens",
        "--labeler",
        f"whisper:{tmp_path / 'whisper'}",
    )
    result = kdasr("label", *arguments, "--out", tmp_path / "out")
    assert "language 'ru': 5 of 5 labels have characters" in str(result.exception)
    assert "ПРИВЕТ МИР" in str(result.exception)
    summary = json.loads((tmp_path / "out" / "filters.json").read_text())
    assert summary["languages"]["ru"]["unspelled"] == 5
    # Labels that they spell are written as they spell, and come back as they are.
    whisper.text, whisper.language = "", "en"
    well("label", *arguments, "--out", tmp_path / "english")
    tokenizer = Tokenizer.load(tmp_path / "tokens")
    texts = [item["text"] for item in cuts_of(tmp_path / "english").values()]
    assert len(texts) == 5 and all(tokenizer.decode(tokenizer.encode(text)) == text for text in texts)


def test_labels_from_elsewhere_and_agreement(whisper: State, tmp_path: Path) -> None:
    waves = utterances()
    cuts = write_cuts(tmp_path, waves)
    lines = [{"id": name, "text": " ".join(heard_words(wave)), "score": -0.1} for name, wave in waves.items()]
    lines[0]["text"] = "something else is said here"
    lines[2]["text"] = ""
    path = tmp_path / "labels.jsonl"
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines[:-1]))
    both = ("--labeler", f"whisper:{tmp_path / 'whisper'}")
    output = label(tmp_path, cuts, "out", *both, labeler=f"jsonl:{path}")
    assert "1 utterances have no label in the file" in output
    dropped = {
        name: item["custom"]["dropped_by"] for name, item in cuts_of(tmp_path / "out" / "dropped").items()
    }
    assert dropped == {
        "utt-0": ["agreement"], "utt-2": ["empty", "agreement"], "utt-4": ["empty", "agreement"]
    }  # fmt: skip
    assert sorted(cuts_of(tmp_path / "out")) == sorted(waves)
    # A second labeler that does not know an utterance says nothing against its label.
    label(tmp_path, cuts, "judged", "--labeler", f"jsonl:{path}")
    assert sorted(cuts_of(tmp_path / "judged" / "dropped")) == ["utt-0", "utt-2"]


def test_labels_from_elsewhere_are_read_when_they_are_asked_for(tmp_path: Path) -> None:
    count, path = 2000, tmp_path / "labels.jsonl"
    words = [["wörd", 0.1, 0.4]] * 30
    lines = [
        json.dumps({"id": f"é{n}", "text": f"ä {n}", "words": words}, ensure_ascii=False)
        for n in range(count)
    ]
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n\n".join(lines).encode())
    tracemalloc.start()
    labeler = open_labeler(f"jsonl:{path}", LabelerOptions(language="de"))
    in_memory, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert in_memory < 200 * count
    names = [f"é{number}" for number in (0, count - 1, 700, 701, count)]
    found = labeler.label([Speech(name, np.zeros(0, np.float32)) for name in names])
    assert [label.text for label in found] == ["ä 0", f"ä {count - 1}", "ä 700", "ä 701", ""]
    assert [label.is_there for label in found] == [True] * 4 + [False]
    assert found[2].language == "de" and found[2].words[29].text == "wörd"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (['{"id": "a", "text": "x"}', '{"id": "a", "text": "y"}'], "line 2: 'a' is there twice"),
        (
            ['{"id": "b", "text": "x"}', "", '{"id": "a", "text": "y"}', '{"id": "b", "text": ""}'],
            "line 4: 'b' is",
        ),
        (['{"id": "a"}'], "line 1: no 'text'"),
        (["{"], "line 1: not a label"),
        (['{"id": "a", "text": 3}'], "line 1: not a label: id and text are strings"),
        (['{"id": "a", "text": "x", "score": NaN}'], "line 1: not a label: score nan"),
        (['{"id": "a", "text": "x", "words": [["x", NaN, 1]]}'], "line 1: not a label: 'x' at nan to 1.0"),
    ],
)
def test_bad_labels_from_elsewhere_are_named(tmp_path: Path, lines: list[str], message: str) -> None:
    (tmp_path / "labels.jsonl").write_text("\n".join(lines))
    with pytest.raises(Exception, match=message):
        open_labeler(f"jsonl:{tmp_path / 'labels.jsonl'}", LabelerOptions())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--labeler", "moon:base"), "kinds: bundle, jsonl, sherpa, whisper"),
        (("--labeler", "whisper:/nowhere"), "no model.bin there"),
        (("--labeler", "sherpa:/nowhere"), "sherpa:/nowhere: no such folder"),
        (("--filter", "rate=1"), "expected two numbers"),
        (("--filter", "speed=1"), "filters: empty, spelling"),
        (("--cuts", "/nowhere"), "--cuts /nowhere: no such file or folder"),
        (("--normalize", "title"), "--normalize: no rule 'title'"),
    ],
)
def test_wrong_options_name_the_culprit(
    whisper: State, tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    given = dict(zip(options[::2], options[1::2], strict=True))
    labeler, out = f"whisper:{tmp_path / 'whisper'}", str(tmp_path / "o")
    arguments = {"--labeler": labeler, "--cuts": str(tmp_path), "--out": out} | given
    result = kdasr("label", *(part for pair in arguments.items() for part in pair))
    assert message in str(result.exception)


def test_a_bundle_labels_a_folder_of_audio_files(tmp_path: Path) -> None:
    write_experiment(tmp_path / "exp")
    (tmp_path / "audio" / "deep").mkdir(parents=True)
    soundfile.write(tmp_path / "audio" / "deep" / "a.wav", speech(6.0, 1), 16000)
    soundfile.write(tmp_path / "audio" / "b.wav", np.stack([speech(2.0, 2)] * 2, axis=1), 16000)
    (tmp_path / "none").mkdir()
    names = ("activity", "rate", "repeats", "score", "compression", "empty")
    off = [part for name in names for part in ("--filter", f"{name}=off")]
    labeler = f"bundle:{tmp_path / 'exp'}"
    label(tmp_path, tmp_path / "audio", "out", "--beam", 1, "--longest", 2, *off, labeler=labeler)
    found = cuts_of(tmp_path / "out")
    assert sorted(found) == ["b", "deep-a"] and found["deep-a"]["custom"]["score"] <= 0
    result = kdasr("label", "--labeler", labeler, "--cuts", tmp_path / "none", "--out", tmp_path / "other")
    assert "neither a Shar folder" in str(result.exception)


def test_words_of_a_bundle_end_with_their_audio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "best.pt").write_bytes(b"weights")
    engine = make_spotter(Context(left=8, chunk=4, right=2))
    monkeypatch.setattr("kdasr.labeling.labelers.bundle._recognizer", lambda path, _: (engine, path))
    labeler = open_labeler(f"bundle:{tmp_path / 'best.pt'}", LabelerOptions(beam=1, words=True))
    wave = spoken([0, 1], [8000, 8000])
    (found,) = labeler.label([Speech("one", wave)])
    assert len(found.words) == 2 and found.words[-1].end == len(wave) / 16000 >= found.words[-1].start


@pytest.mark.parametrize("kind", ["jsonl", "bundle"])
def test_labels_in_another_language_are_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """What decides how they are written is among the settings, so that they are not mixed."""
    place = tmp_path / "labels"
    place.write_text('{"id": "a", "text": "5"}\n')
    engine = make_spotter(Context(left=8, chunk=4, right=2))
    monkeypatch.setattr("kdasr.labeling.labelers.bundle._recognizer", lambda path, _: (engine, path))
    told = [
        open_labeler(f"{kind}:{place}", LabelerOptions(language=language)).settings()
        for language in (None, "en", "de")
    ]
    assert told[0] != told[1] != told[2] != told[0]


@pytest.mark.skipif(REAL not in os.environ, reason=f"{REAL} names no folder of a Whisper model")
def test_the_real_whisper_hallucinates_and_is_filtered(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    noise = (0.1 * generator.standard_normal(160000)).astype(np.float32)
    cuts = write_cuts(tmp_path, {"silence": np.zeros(160000, np.float32), "noise": noise})
    labeler, out = f"whisper:{os.environ[REAL]}", tmp_path / "out"
    arguments = ("--labeler", labeler, "--cuts", cuts, "--out", out, "--language", "en")
    result = kdasr("label", *arguments)
    assert "no label is kept" in str(result.exception)
    assert sorted(cuts_of(tmp_path / "out")) == ["noise", "silence"]
