"""`kdasr prepare`: from a corpus folder to a data folder, once, and again."""

import gzip
import json
import logging
import re
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from lhotse import NumpyFilesWriter
from lhotse.recipes import prepare_librispeech

from kdasr.common.errors import UserError
from kdasr.common.files import read_json
from kdasr.corpora.part_manifests import PartManifests
from kdasr.corpora.prepare import PrepareOptions, prepare_corpus
from kdasr.data import part_features
from kdasr.data.bad import MaxBad
from kdasr.data.features import compute_features, store_features
from kdasr.data.folder import cuts_path, load_cuts, train_parts, write_manifest
from kdasr.data.runs import RunSizes
from kdasr.data.tokens import prepare_tokens
from kdasr.testing import tone, write_corpus

TRAIN, DEV = "train-clean-100", "dev-clean"


def options(root: Path, **changes: object) -> PrepareOptions:
    """Both parts of the corpus below `root` into `root/data`."""
    base = PrepareOptions(
        root / "LibriSpeech", root / "data", [TRAIN, DEV], alignments_dir=root / "alignments"
    )
    return replace(base, **changes)  # type: ignore[arg-type]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A corpus of two parts with alignments."""
    write_corpus(tmp_path / "LibriSpeech", (TRAIN, DEV), alignments_dir=tmp_path / "alignments")
    return tmp_path


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus that has been prepared; not to be changed."""
    root = tmp_path_factory.mktemp("prepared")
    write_corpus(root / "LibriSpeech", (TRAIN, DEV), alignments_dir=root / "alignments")
    prepare_corpus(options(root))
    return root


def test_the_folder_holds_what_was_promised(prepared: Path) -> None:
    data = prepared / "data"
    for part in (TRAIN, DEV):
        assert (data / f"cuts_{part}.jsonl.gz").is_file()
        for kind in ("recordings", "supervisions"):
            assert (data / "manifests" / f"{kind}_{part}.jsonl.gz").is_file()
    stats = read_json(data / "feature_stats.json")
    assert [len(stats[key]) for key in ("mean", "std")] == [80, 80]
    assert not list(data.rglob("*partial*"))
    assert train_parts(data) == [TRAIN]


def test_the_manifests_are_those_of_lhotses_own_recipe(prepared: Path) -> None:
    corpus, alignments = prepared / "LibriSpeech", prepared / "alignments"
    (theirs,) = prepare_librispeech(corpus, alignments, [DEV]).values()
    ours = load_cuts(prepared / "data", DEV)
    supervisions = {item.id: item for item in theirs["supervisions"]}
    assert sorted(supervisions) == [cut.id for cut in ours]
    for cut in ours:
        assert cut.recording.to_dict() == theirs["recordings"][cut.id].to_dict()
        words = [item for item in supervisions[cut.id].alignment["word"] if item.symbol]
        expected = replace(supervisions[cut.id], language=None, alignment={"word": words})
        assert cut.supervisions[0].to_dict() == expected.to_dict()


def test_training_parts_have_speed_copies_and_others_have_none(prepared: Path) -> None:
    train, dev = load_cuts(prepared / "data", TRAIN), load_cuts(prepared / "data", DEV)
    assert len(train) == 6 * 3
    assert len(dev) == 6
    by_id = {cut.id: cut for cut in train}
    plain, slow, fast = (by_id[f"100-1-0000{suffix}"] for suffix in ("", "_sp0.9", "_sp1.1"))
    assert slow.duration == pytest.approx(plain.duration / 0.9, abs=1e-3)
    assert fast.duration == pytest.approx(plain.duration / 1.1, abs=1e-3)
    assert [cut.custom["speed"] for cut in (plain, slow, fast)] == [1.0, 0.9, 1.1]
    slow_end = slow.supervisions[0].alignment["word"][0].end
    assert slow_end == pytest.approx(plain.supervisions[0].alignment["word"][0].end / 0.9, abs=1e-3)


def test_stored_features_are_those_of_the_cut_audio(prepared: Path) -> None:
    for cut in load_cuts(prepared / "data", TRAIN):
        expected = compute_features(torch.from_numpy(cut.load_audio()[0])).numpy()
        stored = cut.load_features()
        assert stored.shape == expected.shape == (cut.num_frames, 80)
        np.testing.assert_allclose(stored, expected, atol=2**-9 + 1e-4)


def test_features_are_stored_in_one_file_for_each_task(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part_features, "RUN_SIZES", RunSizes(usual=7, longest=50, most_runs=10))
    prepare_corpus(options(root))
    by_file = Counter(cut.features.storage_path for cut in load_cuts(root / "data", TRAIN))
    assert sorted(by_file.values()) == [4, 7, 7]
    assert set(by_file) == {str(path) for path in (root / "data" / "fbank" / TRAIN).iterdir()}
    # A large part has no more than `most_runs` files, until one holds the `longest` run.
    numbers = [len(part_features.RUN_SIZES.runs(count)) for count in (0, 7, 8, 70, 400, 500, 501)]
    assert numbers == [0, 1, 2, 10, 10, 10, 11]


def test_a_file_of_features_for_each_cut_as_earlier_versions_had_is_read(root: Path) -> None:
    prepare_corpus(options(root))
    data = root / "data"
    cuts = list(load_cuts(data, DEV))
    expected = [cut.load_features() for cut in cuts]
    writer = NumpyFilesWriter(data / "old")
    for cut, features_TF in zip(cuts, expected, strict=True):
        key = writer.write(cut.id, features_TF.astype(np.float16))
        cut.features.storage_type, cut.features.storage_path = "numpy_files", "old"
        cut.features.storage_key = key
    write_manifest(cuts_path(data, DEV), cuts)
    for cut, features_TF in zip(load_cuts(data, DEV), expected, strict=True):
        np.testing.assert_array_equal(cut.load_features(), features_TF.astype(np.float16))


def test_feature_stats_are_those_of_the_training_frames(prepared: Path) -> None:
    frames = np.concatenate([cut.load_features() for cut in load_cuts(prepared / "data", TRAIN)])
    stats = read_json(prepared / "data" / "feature_stats.json")
    assert stats["num_frames"] == len(frames)
    np.testing.assert_allclose(stats["mean"], frames.mean(axis=0, dtype=np.float64), atol=1e-2)
    np.testing.assert_allclose(stats["std"], frames.std(axis=0, dtype=np.float64), atol=1e-2)


def test_alignments_hold_the_words_without_the_silences(prepared: Path) -> None:
    for cut in load_cuts(prepared / "data", DEV):
        words = cut.supervisions[0].alignment["word"]
        assert " ".join(word.symbol for word in words) == cut.supervisions[0].text
        assert words[0].start == 0.25
        assert words[0].duration == 0.5


def test_finished_parts_are_skipped(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare_corpus(options(root))
    monkeypatch.setattr(part_features, "store_features", None)
    prepare_corpus(options(root))
    with pytest.raises(TypeError):
        prepare_corpus(options(root, speeds=(1.0,)))


def test_a_changed_part_is_prepared_again(root: Path) -> None:
    prepare_corpus(options(root))
    before = {part: (root / "data" / f"cuts_{part}.jsonl.gz").stat().st_mtime_ns for part in (TRAIN, DEV)}
    soundfile.write(root / "LibriSpeech" / DEV / "200" / "1" / "200-1-0000.flac", tone(1.7), 16000)
    prepare_corpus(options(root))
    after = {part: (root / "data" / f"cuts_{part}.jsonl.gz").stat().st_mtime_ns for part in (TRAIN, DEV)}
    assert before[TRAIN] == after[TRAIN]
    assert before[DEV] != after[DEV]
    assert {cut.id: cut for cut in load_cuts(root / "data", DEV)}["200-1-0000"].duration == 1.7


def test_replaced_audio_of_equal_size_gives_new_features(root: Path) -> None:
    flac = root / "LibriSpeech" / DEV / "200" / "1" / "200-1-0000.flac"
    file = flac.with_suffix(".wav")
    soundfile.write(file, soundfile.read(flac)[0], 16000)
    flac.unlink()
    prepare_corpus(options(root))
    size, other = file.stat().st_size, tone(soundfile.info(file).duration, seed=77)
    soundfile.write(file, other, 16000)
    assert file.stat().st_size == size
    prepare_corpus(options(root))
    (cut,) = (cut for cut in load_cuts(root / "data", DEV) if cut.id == "200-1-0000")
    expected = compute_features(torch.from_numpy(other)).numpy()
    np.testing.assert_allclose(cut.load_features(), expected, atol=0.05)


@pytest.mark.parametrize("lost", [f"fbank/{DEV}/*.lca", f"audio/{DEV}/*.flac", f"cuts_{DEV}.jsonl.gz"])
def test_a_part_that_has_lost_something_is_prepared_again(
    root: Path, lost: str, caplog: pytest.LogCaptureFixture
) -> None:
    soundfile.write(root / "LibriSpeech" / DEV / "200" / "1" / "200-1-0001.flac", tone(1.5, 1, 8000), 8000)
    prepare_corpus(options(root))
    file = next((root / "data").glob(lost))
    content = file.read_bytes()
    file.write_bytes(content[:100])
    prepare_corpus(options(root))
    assert file.read_bytes() == content
    assert f"{DEV}: its files are not as `kdasr prepare` left them" in caplog.text


def test_a_failure_leaves_the_published_part_alone(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare_corpus(options(root))
    calls = []

    def fail_on_second(*args: object, **kwargs: object) -> object:
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return store_features(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(part_features, "RUN_SIZES", replace(part_features.RUN_SIZES, usual=4))
    monkeypatch.setattr(part_features, "store_features", fail_on_second)
    with pytest.raises(KeyboardInterrupt):
        prepare_corpus(options(root, speeds=(1.0, 1.2)))
    assert len(load_cuts(root / "data", TRAIN)) == 18
    assert all(np.isfinite(cut.load_features()).all() for cut in load_cuts(root / "data", TRAIN))
    prepare_corpus(options(root, speeds=(1.0, 1.2)))
    assert len(load_cuts(root / "data", TRAIN)) == 12
    # Of three tasks the first was done before.
    assert len(calls) - 2 == 2
    assert not list((root / "data").rglob(".*"))


def test_a_part_interrupted_while_it_is_published_counts_as_missing(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare_corpus(options(root))

    def interrupt(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(PartManifests, "move", interrupt)
        with pytest.raises(KeyboardInterrupt):
            prepare_corpus(options(root, speeds=(1.0,)))
    with pytest.raises(UserError, match=f"'{TRAIN}' is not prepared"):
        load_cuts(root / "data", TRAIN)
    prepare_corpus(options(root, speeds=(1.0,)))
    assert len(load_cuts(root / "data", TRAIN)) == 6


def test_an_empty_manifest_is_named_and_made_again(root: Path) -> None:
    prepare_corpus(options(root))
    manifest = root / "data" / f"cuts_{DEV}.jsonl.gz"
    gzip.open(manifest, "wt").close()
    with pytest.raises(UserError, match=r"dev-clean\.jsonl\.gz: no utterances"):
        load_cuts(root / "data", DEV)
    manifest.unlink()
    prepare_corpus(options(root))
    assert len(load_cuts(root / "data", DEV)) > 0


def test_nothing_is_computed_when_any_part_is_broken(root: Path) -> None:
    (root / "LibriSpeech" / DEV / "200" / "1" / "200-1-0000.flac").write_bytes(b"fLaC")
    with pytest.raises(UserError, match=r"dev-clean: 1 of 6 .*200-1-0000\.flac"):
        prepare_corpus(options(root, max_bad=MaxBad(0)))
    assert not list((root / "data").rglob("*.lca"))


def test_other_rates_and_stereo_are_converted(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = root / "LibriSpeech" / DEV / "200" / "1"
    left = tone(2.0, seed=5, sample_rate=8000)
    soundfile.write(folder / "200-1-0000.flac", np.stack([left, 0.5 * left], axis=1), 8000)
    soundfile.write(folder / "200-1-0001.flac", tone(1.5, sample_rate=44100)[:-10], 44100)
    with caplog.at_level(logging.INFO, logger="kdasr"):
        prepare_corpus(options(root))
    assert "2 file(s) converted to 16 kHz mono: 200-1-0000, 200-1-0001" in caplog.text
    assert "1 file(s) are sampled below 16 kHz, so nothing is in their upper band: 200-1-0000" in caplog.text
    cuts = {cut.id: cut for cut in load_cuts(root / "data", DEV)}
    mixed = cuts["200-1-0000"]
    assert (mixed.sampling_rate, mixed.recording.num_channels, mixed.duration) == (16000, 1, 2.0)
    # Tones below 3 kHz survive: every other sample is the mean of the two channels.
    np.testing.assert_allclose(mixed.load_audio()[0][::2][50:-50], 0.75 * left[50:-50], atol=0.02)
    other = cuts["200-1-0001"]
    assert other.duration == other.supervisions[0].duration == other.recording.num_samples / 16000
    assert (other.sampling_rate, other.num_frames) == (16000, 150)


def test_stereo_that_cancels_keeps_its_speech(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    speech = tone(2.0, seed=5)
    file = root / "LibriSpeech" / DEV / "200" / "1" / "200-1-0000.flac"
    soundfile.write(file, np.stack([speech, -0.98 * speech], axis=1), 16000)
    prepare_corpus(options(root, parts=[DEV]))
    cuts = {cut.id: cut for cut in load_cuts(root / "data", DEV)}
    np.testing.assert_allclose(cuts["200-1-0000"].load_audio()[0], speech, atol=1e-3)
    assert "1 file(s) are not mixed: 200-1-0000 (channels cancel when they are mixed" in caplog.text


def test_wav_files_and_blank_lines_are_fine_and_letters_stay(root: Path) -> None:
    folder = root / "LibriSpeech" / DEV / "200" / "1"
    samples, rate = soundfile.read(folder / "200-1-0002.flac", dtype="float32")
    (folder / "200-1-0002.flac").unlink()
    soundfile.write(folder / "200-1-0002.wav", samples, rate)
    transcript = folder / "200-1.trans.txt"
    lines = [line.lower() for line in transcript.read_text().splitlines()]
    lines[0] = "200-1-0000 Straße ılık İ  CAFE\u0301"
    transcript.write_text("\n".join([*lines, "", ""]), encoding="utf-8")
    prepare_corpus(options(root))
    cuts = {cut.id: cut for cut in load_cuts(root / "data", DEV)}
    assert len(cuts) == 6
    np.testing.assert_allclose(cuts["200-1-0002"].load_audio()[0], samples, atol=1e-4)
    assert cuts["200-1-0000"].supervisions[0].text == "Straße ılık İ  CAFE\u0301"
    for line in lines[1:]:
        assert cuts[line[:10]].supervisions[0].text == line[11:]
        assert len(cuts[line[:10]].supervisions[0].alignment["word"]) == len(line.split()) - 1
    assert all(cut.supervisions[0].speaker == cut.id[:3] for cut in cuts.values())


def test_alignments_are_optional_part_by_part(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    shutil.rmtree(root / "alignments" / DEV)
    with caplog.at_level(logging.INFO, logger="kdasr"):
        prepare_corpus(options(root))
    assert "dev-clean: 6 of 6 utterances have no word alignment" in caplog.text
    assert all(cut.supervisions[0].alignment is None for cut in load_cuts(root / "data", DEV))
    assert all(cut.supervisions[0].alignment for cut in load_cuts(root / "data", TRAIN))


def test_a_malformed_alignment_is_named(root: Path) -> None:
    file = root / "alignments" / DEV / "200" / "1" / "200-1.alignment.txt"
    for line in ("200-1-0000 ONE 0.5 0.7\n", '200-1-0000 ",ONE" "0.5,late"\n'):
        file.write_text(line)
        with pytest.raises(UserError, match=r"200-1\.alignment\.txt, line 1: not in the LibriSpeech-Align"):
            prepare_corpus(options(root))


@pytest.mark.parametrize(
    ("words", "times", "fault"),
    [
        (",ONE,TWO", "0.1,0.5,99.0", r"'TWO' at 0\.50 to 99\.00 s: the recording has \d\.\d\d s"),
        (",ONE,TWO", "-9.0,0.5,0.7", r"'' at 0\.00 to -9\.00 s: ends before it begins"),
        (",ONE,TWO", "0.1,0.5,0.3", r"'TWO' at 0\.50 to 0\.30 s: ends before it begins"),
        (",ONE,TWO", "0.1,nan,0.7", r"'ONE' at 0\.10 to nan s"),
        (",ONE,TWO", "0.1,0.5,inf", r"'TWO' at 0\.50 to inf s"),
        (",ONE,TWO", "0.1,0.5", "words and times are not equally many"),
    ],
)
def test_word_times_that_cannot_be_true_are_left_out(
    root: Path, words: str, times: str, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = root / "alignments" / DEV / "200" / "1"
    lines = (folder / "200-1.alignment.txt").read_text().splitlines()
    lines[1] = f'200-1-0001 "{words}" "{times}"'
    (folder / "200-1.alignment.txt").write_text("\n".join(lines))
    prepare_corpus(options(root, parts=[DEV]))
    cuts = load_cuts(root / "data", DEV)
    assert [cut.id for cut in cuts if not cut.supervisions[0].alignment] == ["200-1-0001"]
    assert len(cuts) == 6
    message = rf"{DEV}: 1 alignment\(s\) left out, with times that cannot be true: 200-1-0001 \({fault}\)"
    assert re.search(message, caplog.text)


def test_on_the_fly_stores_no_features_and_still_has_stats(root: Path, prepared: Path) -> None:
    prepare_corpus(options(root, on_the_fly=True))
    assert not (root / "data" / "fbank" / TRAIN).exists()
    assert not any(cut.has_features for cut in load_cuts(root / "data", TRAIN))
    mine, full = (read_json(folder / "data" / "feature_stats.json") for folder in (root, prepared))
    np.testing.assert_allclose(mine["mean"], full["mean"], atol=1e-3)


def test_two_jobs_give_what_one_gives(root: Path) -> None:
    def content(folder: Path) -> list[dict]:
        with gzip.open(folder / f"cuts_{TRAIN}.jsonl.gz", "rt") as file:
            return [json.loads(line) for line in file]

    write_corpus(root / "LibriSpeech", ("train-other-500",), speakers=8, utterances=4)
    parts = [TRAIN, "train-other-500"]
    for jobs in (1, 2):
        prepare_corpus(options(root, parts=parts, out_dir=root / f"data{jobs}", jobs=jobs))
    assert content(root / "data1") == content(root / "data2")
    first, second = (load_cuts(root / f"data{jobs}", "train-other-500") for jobs in (1, 2))
    for one, two in zip(first, second, strict=True):
        assert one.id == two.id
        np.testing.assert_array_equal(one.load_features(), two.load_features())


def test_a_data_folder_can_be_moved(root: Path) -> None:
    shutil.move(root / "LibriSpeech", root / "data" / "corpus")
    prepare_corpus(options(root, corpus_dir=root / "data" / "corpus"))
    shutil.move(root / "data", root / "elsewhere")
    for cut in load_cuts(root / "elsewhere", TRAIN):
        assert cut.load_features().shape[0] == cut.num_frames
        assert cut.load_audio().shape[1] == cut.num_samples


def test_unprepared_folders_and_parts_are_named(prepared: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a prepared data folder"):
        load_cuts(tmp_path, TRAIN)
    with pytest.raises(UserError, match=f"'test-clean' is not prepared; there are: {TRAIN}, {DEV}"):
        load_cuts(prepared / "data", "test-clean")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"parts": []}, "--parts"),
        ({"train_parts": ["train-other-500"]}, "--train-parts"),
        ({"speeds": (1.0, 9.0)}, "--speed"),
        ({"jobs": 0}, "--jobs"),
    ],
)
def test_impossible_options_are_named(tmp_path: Path, change: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        prepare_corpus(options(tmp_path, **change))


def test_tokens_are_trained_once_on_the_training_transcripts(root: Path) -> None:
    with pytest.raises(UserError, match="no training part is prepared"):
        prepare_tokens(root / "data", 18)
    prepare_corpus(options(root))
    tokenizer = prepare_tokens(root / "data", 18)
    written = (root / "data" / "tokens" / "bpe.model").stat().st_mtime_ns
    assert tokenizer.vocab_size == 18
    assert prepare_tokens(root / "data", 18).fingerprint == tokenizer.fingerprint
    assert (root / "data" / "tokens" / "bpe.model").stat().st_mtime_ns == written
    with pytest.raises(UserError, match="vocabulary of 5000 pieces"):
        prepare_tokens(root / "data", 5000)
    assert prepare_tokens(root / "data", 18).fingerprint == tokenizer.fingerprint
    assert prepare_tokens(root / "data", 19).vocab_size == 19


def test_a_folder_of_an_earlier_version_is_read_as_it_is(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its manifests have the name of a corpus before theirs."""
    prepare_corpus(options(root))
    tokens = prepare_tokens(root / "data", 18).model_path.read_bytes()
    shutil.rmtree(root / "data" / "tokens")
    manifests = root / "data" / "manifests"
    for path in list(manifests.iterdir()):
        path.rename(path.with_name(f"librispeech_{path.name}"))
    old = sorted(path.name for path in manifests.iterdir())
    with caplog.at_level(logging.INFO, logger="kdasr"):
        prepare_corpus(options(root))
    assert caplog.text.count("already prepared") == 2
    assert sorted(path.name for path in manifests.iterdir()) == old
    assert prepare_tokens(root / "data", 18).model_path.read_bytes() == tokens
    prepare_corpus(options(root, parts=[TRAIN], speeds=(1.0,)))
    names = [f"{kind}_{part}.jsonl.gz" for kind in ("recordings", "supervisions") for part in (DEV, TRAIN)]
    assert {path.name for path in manifests.iterdir()} == {
        *(f"librispeech_{name}" for name in names if DEV in name), *(name for name in names if TRAIN in name),
    }  # fmt: skip


def test_what_normalization_changes_is_told(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    transcript = root / "LibriSpeech" / TRAIN / "100" / "1" / "100-1.trans.txt"
    lines = transcript.read_text().splitlines()
    lines[0] = "100-1-0000 Nº \uff11"
    transcript.write_text("\n".join(lines), encoding="utf-8")
    prepare_corpus(options(root))
    with caplog.at_level(logging.INFO, logger="kdasr"):
        prepare_tokens(root / "data", 100, at_most=True)
    assert "1 of 6 transcripts are normalized by nmt_nfkc: 'Nº \uff11' as 'No 1'" in caplog.text
