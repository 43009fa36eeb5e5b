"""Word times by a model's own alignment: boundaries by hand, files, and a part with a bad utterance."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from experiment_folder import prepare_part, write_experiment
from lhotse import CutSet

from kdasr.bundle import load_bundle
from kdasr.cli.align import command
from kdasr.common.errors import UserError
from kdasr.corpora.librispeech_alignments import read_alignments
from kdasr.data.features import load_cut_samples, num_feature_frames
from kdasr.data.folder import RECORD, cuts_path, load_cuts
from kdasr.data.usable import cut_text
from kdasr.data.word_times import aligned_words
from kdasr.evaluation.latency import RefWord
from kdasr.recognition.audio import Samples
from kdasr.self_training.word_times import pieces
from kdasr.self_training.word_times.boundaries import (
    Margins,
    Speech,
    find_speech,
    measure_margins,
    place_words,
)
from kdasr.self_training.word_times.error import error_of_times
from kdasr.self_training.word_times.pieces import EmittedWord, NotAlignedError, PieceAligner
from kdasr.self_training.word_times.run import align_part
from kdasr.self_training.word_times.write import fits_text_form, write_into_cuts, write_text_form
from kdasr.testing import write_corpus

PART = "train-clean-100"
WORDS = [EmittedWord("A", 0.5, 0.6), EmittedWord("B", 1.0, 1.1), EmittedWord("C", 2.0, 2.1)]


def test_boundaries_by_hand() -> None:
    margins = Margins(lead=0.1, tail=0.25)
    found = place_words(WORDS, Speech(None, None, 3.0), margins)
    # A lasts until B, since the gap of 50 ms is no pause; after B there is one.
    assert [(word.start, word.end) for word in found] == [(0.4, 0.9), (0.9, 1.35), (1.9, 2.35)]
    near = place_words(WORDS, Speech(0.3, 2.3, 3.0), margins)
    assert (near[0].start, near[-1].end) == (0.3, 2.3)
    far = place_words(WORDS, Speech(0.1, 2.9, 2.2), margins)
    assert (far[0].start, far[-1].end) == (0.4, 2.2)  # of something else; and nothing is beyond the end
    assert measure_margins([(WORDS, Speech(0.3, 2.4, 3.0)), (WORDS, Speech(None, None, 3.0))]) == Margins(
        pytest.approx(0.2), pytest.approx(0.3)
    )
    assert measure_margins([]) == Margins(0.0, 0.0)


def test_speech_is_found_from_both_ends() -> None:
    wave = np.zeros(32007, np.float32)
    wave[8000:24000] = 0.1 * np.random.default_rng(0).normal(size=16000)
    speech = find_speech(wave, 16000)
    assert speech.begin == pytest.approx(0.5, abs=0.011) and speech.end == pytest.approx(1.5, abs=0.011)


def test_the_error_of_times() -> None:
    reference = {"a": [RefWord("X", 0.5, 1.0), RefWord("Y", 1.0, 2.0)], "b": [RefWord("X", 0.0, 1.0)]}
    found = {"a": [RefWord("X", 0.6, 1.1), RefWord("Y", 1.2, 2.0)], "b": [RefWord("Z", 0.0, 1.0)], "c": []}
    error = error_of_times(found, reference)
    assert (error["num_utterances"], error["num_words"], error["num_different"]) == (1, 2, 1)
    assert error["begin"] == pytest.approx({"mean": 150.0, "p90": 190.0, "bias": 150.0})
    assert error["onset"]["mean"] == pytest.approx(100.0) and error["end"]["mean"] == pytest.approx(50.0)


def test_the_text_form_is_read_as_it_was_written(tmp_path: Path) -> None:
    words = [RefWord("A", 0.3, 0.6), RefWord("B'S", 0.6, 1.0), RefWord("C", 1.25, 1.5)]
    (file,) = write_text_form(tmp_path, PART, {"7-8-0001": words})
    assert file == tmp_path / PART / "7" / "8" / "7-8.alignment.txt"
    (items,) = read_alignments(file).values()
    spoken = [(item.symbol, item.start, round(item.end, 4)) for item in items if item.symbol]
    assert spoken == [("A", 0.3, 0.6), ("B'S", 0.6, 1.0), ("C", 1.25, 1.5)]
    assert fits_text_form("7-8-0001", words) and not fits_text_form("7 8", words)
    assert not fits_text_form("7-8-0001", [RefWord("A,B", 0.0, 1.0)])
    for name in (f"{tmp_path}/elsewhere/7-8-0001", "..-..-0001", "a/../../7-8-0001"):
        (file,) = write_text_form(tmp_path / "out", PART, {name: words})
        assert file == tmp_path / "out" / PART / f"{PART}.alignment.txt"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An experiment in `exp`, and a part of six utterances, at three speeds, without word times in `data`."""
    folder = tmp_path_factory.mktemp("word_times")
    write_experiment(folder / "exp")
    write_corpus(folder / "corpus", [PART])
    prepare_part(folder / "corpus", folder / "data", PART)
    return folder


def invoke(root: Path, *options: object) -> str:
    where = [root / "exp", "--data", root / "data", "--parts", PART, *options]
    result = CliRunner().invoke(command, [str(word) for word in where])
    if result.exception:
        raise result.exception
    return result.output


@pytest.mark.parametrize("method", ["transducer", "ctc"])
def test_every_word_of_a_transcript_gets_its_place(root: Path, method: str) -> None:
    aligner = PieceAligner(load_bundle(root / "exp", as_trained=True), method)
    cut = next(iter(load_cuts(root / "data", PART)))
    samples_N = load_cut_samples(cut).numpy()
    single = aligner(samples_N, cut_text(cut))
    assert [word.word for word in single] == cut_text(cut).split()
    assert all(0 <= word.first < word.last <= cut.duration + 0.1 for word in single)
    assert all(one.last <= two.first + 0.1 for one, two in pairwise(single))
    with pytest.raises(NotAlignedError, match="no words"):
        aligner(samples_N, " ")
    if method == "ctc":  # a transducer emits any number of pieces in a frame
        with pytest.raises(NotAlignedError, match="do not fit"):
            aligner(samples_N, " ".join([cut_text(cut)] * 40))


@pytest.mark.parametrize("method", ["transducer", "ctc"])
def test_the_table_of_a_transducer_has_a_limit(
    root: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Above it nothing is computed; the CTC head has no such table."""
    bundle = load_bundle(root / "exp", as_trained=True)
    cut = next(iter(load_cuts(root / "data", PART)))
    samples_N, text = load_cut_samples(cut).numpy(), cut_text(cut)
    nodes = len(bundle.tokenizer.encode(text)) * bundle.model.geometry.num_frames(
        num_feature_frames(len(samples_N))
    )
    monkeypatch.setattr(pieces, "MOST_NODES", nodes)
    found = PieceAligner(bundle, method)(samples_N, text)
    monkeypatch.setattr(pieces, "MOST_NODES", nodes - 1)
    aligner = PieceAligner(bundle, method)
    if method == "transducer":
        monkeypatch.setattr(aligner, "_encode", None)
        with pytest.raises(NotAlignedError, match=r"frames times .*: use --method ctc"):
            aligner(samples_N, text)
    else:
        assert aligner(samples_N, text) == found


def test_an_interrupted_part_goes_on_and_bad_ones_are_named(root: Path, tmp_path: Path) -> None:
    cuts = list(load_cuts(root / "data", PART))
    calls: list[str] = []

    def align(samples_N: Samples, text: str) -> list[EmittedWord]:
        calls.append(text)
        if len(calls) == 4:
            raise KeyboardInterrupt
        if len(calls) == 2:
            raise NotAlignedError("too short")
        if len(calls) == 3:
            raise RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes")
        return [EmittedWord(text, 0.5, 1.0)]

    with pytest.raises(KeyboardInterrupt):
        align_part(cuts, align, tmp_path, {"by": 1})
    found = align_part(cuts, align, tmp_path, {"by": 1})
    assert len(calls) == 4 + len(cuts) - 3
    assert found.failed == {
        cuts[1].id: "too short",
        cuts[2].id: f"out of memory: it lasts {cuts[2].duration:.0f} s",
    }
    assert len(found.times) == len(cuts) - 2
    assert align_part(cuts, align, tmp_path, {"by": 1}) == found and len(calls) == len(cuts) + 1


def test_cuts_are_written_one_by_one_and_others_stay(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = cuts_path(tmp_path, PART)
    path.write_bytes(cuts_path(root / "data", PART).read_bytes())
    before = [cut.to_dict() for cut in CutSet.from_file(path)]
    monkeypatch.setattr(CutSet, "from_dicts", None)  # all of them in memory
    write_into_cuts(tmp_path, PART, {before[1]["id"]: [RefWord("A", 0.1, 0.3)]}, "hand")
    monkeypatch.undo()
    after = [cut.to_dict() for cut in CutSet.from_file(path)]
    (supervision,) = after[1]["supervisions"]
    alignment = supervision.pop("alignment")
    assert [tuple(item)[:3] for item in alignment["word"]] == [("A", 0.1, 0.2)]
    before[1]["supervisions"][0].pop("alignment", None)
    assert after == before


def test_audio_that_could_not_be_read_is_tried_again_when_it_can(root: Path, tmp_path: Path) -> None:
    """As where a disk was not mounted: what an earlier run says of the audio does not count any more."""
    corpus, elsewhere, out = root / "corpus", root / "elsewhere", tmp_path / "out"
    corpus.rename(elsewhere)
    with pytest.raises(UserError, match="none of 18 utterances could be aligned"):
        invoke(root, "--out", out)
    elsewhere.rename(corpus)
    assert f"{PART}: 18 utterances aligned, 0 not" in invoke(root, "--out", out)


def test_times_are_written_compared_and_kept(root: Path, tmp_path: Path) -> None:
    text = invoke(root, "--out", tmp_path / "out")
    assert "18 utterances aligned, 0 not" in text
    again = invoke(root, "--out", tmp_path / "again", "--reference", tmp_path / "out")
    assert "onset of the first word: error 0 ms on average, 90 % within 0 ms" in again
    with pytest.raises(UserError, match="no utterance of"):
        (tmp_path / "other.ctm").write_text("x 1 0 1 word\n")
        invoke(root, "--reference", tmp_path / "other.ctm")
    assert not aligned_words(next(iter(load_cuts(root / "data", PART))))
    assert "have word times" in invoke(root)
    cuts = list(load_cuts(root / "data", PART))
    assert [[word for word, _, _ in aligned_words(cut)] for cut in cuts] == [
        cut_text(cut).split() for cut in cuts
    ]
    record = json.loads((root / "data" / RECORD).read_text())["parts"][PART]
    assert record["word_times"]["cuts"] == 18
    before = cuts_path(root / "data", PART).read_bytes()
    assert "every utterance has word times already" in invoke(root)
    assert cuts_path(root / "data", PART).read_bytes() == before
    # The same command again where one utterance cannot be aligned.
    cuts[0].supervisions[0].text, cuts[0].supervisions[0].alignment = "", None
    CutSet.from_cuts(cuts).to_file(cuts_path(root / "data", PART))
    assert "17 utterances have word times already, none of the others gets any" in invoke(root)
