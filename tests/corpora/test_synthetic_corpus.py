"""The corpus on the disk: the same bytes always, whole or to be continued, and readable as LibriSpeech."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner
from lhotse.recipes import prepare_librispeech

from kdasr.cli.corpus import command
from kdasr.common.errors import UserError
from kdasr.common.files import read_json
from kdasr.corpora.synthetic.alignment import transcript
from kdasr.corpora.synthetic.corpus import Summary, generate_corpus
from kdasr.corpora.synthetic.plan import PARTS, PlannedUtterance, make_plan
from kdasr.corpora.synthetic.render import Rendered, Renderer, TimedWord
from kdasr.corpora.synthetic.sizes import SIZES, PartSize
from kdasr.corpora.synthetic.voices import Speaker
from kdasr.corpora.synthetic.writer import alignment_line

MICRO = replace(
    SIZES["demo"],
    name="micro",
    parts=dict.fromkeys(PARTS, PartSize(1, 1, 2)) | {"train-clean-100": PartSize(2, 2, 2)},
    lm_sentences=50,
)


def generate(out: Path, jobs: int = 1, seed: int = 5) -> Summary:
    *_, summary = generate_corpus(MICRO, out, seed, jobs)
    assert isinstance(summary, Summary)
    return summary


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("corpus")
    summary = generate(out)
    assert summary.new_seconds == pytest.approx(summary.seconds)
    return out


def test_two_jobs_give_the_same_bytes(corpus: Path, tmp_path: Path) -> None:
    generate(tmp_path, jobs=2)
    assert contents(tmp_path) == contents(corpus)


def test_an_interrupted_run_goes_on(corpus: Path, tmp_path: Path) -> None:
    events = generate_corpus(MICRO, tmp_path, 5, 1)
    for _ in range(4):
        next(events)
    events.close()
    kept = list(tmp_path.rglob("*.flac"))
    stamps = {path: path.stat().st_mtime_ns for path in kept}
    assert kept and not (tmp_path / "corpus.json").exists()
    summary = generate(tmp_path)
    assert 0 < summary.new_seconds < summary.seconds
    assert {path: path.stat().st_mtime_ns for path in kept} == stamps
    assert contents(tmp_path) == contents(corpus)


def test_a_kill_within_a_chapter_leaves_no_half_of_it(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    render = Renderer.render

    def killed(self: Renderer, utterance: PlannedUtterance, speaker: Speaker) -> Rendered:
        if utterance.id.endswith("0001"):
            raise KeyboardInterrupt
        return render(self, utterance, speaker)

    with monkeypatch.context() as patch:
        patch.setattr(Renderer, "render", killed)
        with pytest.raises(KeyboardInterrupt):
            generate(tmp_path)
    (partial,) = (path.parent for path in tmp_path.rglob("*.flac"))
    assert partial.name.startswith(".")
    (partial / "stale.flac").touch()
    generate(tmp_path)
    assert contents(tmp_path) == contents(corpus)


def test_a_finished_corpus_is_left_alone(corpus: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in corpus.rglob("*")}
    assert generate(corpus).new_seconds == 0
    assert {path: path.stat().st_mtime_ns for path in corpus.rglob("*")} == before


def test_another_seed_is_refused_in_the_same_folder(corpus: Path) -> None:
    with pytest.raises(UserError, match=r"seed=5.*seed=6"):
        generate(corpus, seed=6)


def test_a_corpus_of_another_version_of_its_size_is_not_continued(tmp_path: Path) -> None:
    events = generate_corpus(MICRO, tmp_path, 5, 1)
    for _ in range(2):
        next(events)
    events.close()
    with pytest.raises(UserError, match=r"version=2.*version=3.*remove"):
        next(generate_corpus(replace(MICRO, version=3), tmp_path, 5, 1))


def test_a_corpus_of_other_parts_is_refused(corpus: Path) -> None:
    """A size of this name that another release defined otherwise."""
    fewer = replace(
        MICRO, parts={part: size for part, size in MICRO.parts.items() if part != "train-other-500"}
    )
    with pytest.raises(UserError, match=r"train-other-500=2.*another release.*remove"):
        list(generate_corpus(fewer, corpus, 5, 1))


def test_some_parts_of_more_speakers_are_a_corpus_of_their_own(corpus: Path, tmp_path: Path) -> None:
    more = MICRO.only(["test-clean"], 3)
    summary = [event for event in generate_corpus(more, tmp_path, 5, 1) if isinstance(event, Summary)][-1]
    assert {part: counts["speakers"] for part, counts in summary.parts.items()} == {"test-clean": 3}
    with pytest.raises(UserError, match="of 3 speakers"):
        next(generate_corpus(MICRO, tmp_path, 5, 1))
    with pytest.raises(UserError, match=r"no part test-cleen; there are: .*test-clean"):
        MICRO.only(["test-cleen"], 3)


def test_a_foreign_corpus_is_refused(tmp_path: Path) -> None:
    (tmp_path / "LibriSpeech").mkdir()
    with pytest.raises(UserError, match="another origin"):
        generate(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["LibriSpeech"]


def test_a_broken_record_is_named(tmp_path: Path) -> None:
    (tmp_path / "corpus.json").write_text("[1")
    with pytest.raises(UserError, match=r"corpus\.json"):
        generate(tmp_path)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file"):
        generate(tmp_path / "file" / "corpus")


def test_record_and_speakers(corpus: Path) -> None:
    record = read_json(corpus / "corpus.json")
    assert (record["size"], record["seed"]) == ("micro", 5)
    audio = {path: soundfile.info(path) for path in (corpus / "LibriSpeech").rglob("*.flac")}
    assert {(info.samplerate, info.channels, info.subtype) for info in audio.values()} == {
        (16000, 1, "PCM_16")
    }
    assert record["seconds"] == pytest.approx(sum(info.frames for info in audio.values()) / 16000)
    assert set(record["parts"]) == set(PARTS)
    rows = [
        [field.strip() for field in line.split("|")]
        for line in (corpus / "LibriSpeech" / "SPEAKERS.TXT").read_text().splitlines()
        if not line.startswith(";")
    ]
    folders = {
        (path.name, path.parent.name) for path in (corpus / "LibriSpeech").glob("*/*") if path.is_dir()
    }
    assert {(row[0], row[2]) for row in rows} == folders
    assert {row[1] for row in rows} == {"F", "M"}
    assert sum(float(row[3]) for row in rows) == pytest.approx(record["seconds"] / 60, abs=0.1)


def test_lm_text_is_beside_the_audio(corpus: Path) -> None:
    spoken = {
        line.split(" ", 1)[1]
        for path in (corpus / "LibriSpeech").rglob("*.trans.txt")
        for line in path.read_text().splitlines()
    }
    lines = (corpus / "librispeech-lm-norm.txt").read_text().splitlines()
    assert len(lines) == MICRO.lm_sentences
    assert not set(lines) & spoken


def test_lhotse_reads_it_with_alignments(corpus: Path) -> None:
    manifests = prepare_librispeech(corpus / "LibriSpeech", alignments_dir=corpus / "LibriSpeech-Alignments")
    assert set(manifests) == set(PARTS)
    planned = {
        item.id: transcript(item.text)
        for chapter in make_plan(MICRO, 5).chapters
        for item in chapter.utterances
    }
    found = {}
    for sets in manifests.values():
        for supervision in sets["supervisions"]:
            found[supervision.id] = supervision.text
            items = supervision.alignment["word"]
            assert [item.symbol for item in items if item.symbol] == supervision.text.split()
            assert all(item.duration > 0 for item in items)
            assert items[-1].end == pytest.approx(supervision.duration)
            assert items[0].symbol == "" and 0.1 <= items[0].duration <= 0.4
            assert items[-1].symbol == "" and 0.1 <= items[-1].duration <= 0.301
    assert found == planned


def test_speech_is_where_the_alignment_says(corpus: Path) -> None:
    """Before the first word there is only noise, 22 to 40 dB down, never digital silence."""
    for path in (corpus / "LibriSpeech" / "test-clean").rglob("*.flac"):
        alignment = next(
            (corpus / "LibriSpeech-Alignments").rglob(f"{path.stem.rsplit('-', 1)[0]}.alignment.txt")
        )
        line = next(line for line in alignment.read_text().splitlines() if line.startswith(path.stem))
        ends = [float(end) for end in line.split('"')[3].split(",")]
        samples = soundfile.read(path)[0]
        quiet = samples[: round(ends[0] * 16000) - 80]
        spoken = samples[round(ends[0] * 16000) : round(ends[-2] * 16000)]
        ratio = 10 * np.log10(np.mean(spoken**2) / np.mean(quiet**2))
        assert 20 < ratio < 42
        assert np.unique(quiet).size > 5


@pytest.fixture(scope="module", params=["dev-other", "train-other-500"])
def pairs(request: pytest.FixtureRequest) -> Iterator[list[tuple[Rendered, Rendered]]]:
    """The same people saying the same words, once in a clean part and once in an `other` part."""
    renderer = Renderer(MICRO, 5)
    speakers = make_plan(MICRO, 5).speakers
    utterance = PlannedUtterance("x", "the captain carried seven yellow umbrellas near the mountain")
    yield [
        (
            renderer.render(utterance, replace(speaker, part="dev-clean")),
            renderer.render(utterance, replace(speaker, part=request.param)),
        )
        for speaker in speakers
    ]


def test_speech_in_other_parts_is_faster(pairs: list[tuple[Rendered, Rendered]]) -> None:
    for clean, other in pairs:
        ratio = (clean.words[-1].end - clean.words[0].start) / (other.words[-1].end - other.words[0].start)
        assert 1.03 < ratio < 1.4


def test_other_parts_are_noisier(pairs: list[tuple[Rendered, Rendered]]) -> None:
    def floor_db(rendered: Rendered) -> float:
        samples = rendered.samples_N.astype(float)
        quiet = samples[: int(rendered.words[0].start * 16000)]
        return float(10 * np.log10(np.mean(quiet**2) / np.mean(samples**2)))

    clean, other = ([floor_db(pair[index]) for pair in pairs] for index in (0, 1))
    assert np.mean(other) > np.mean(clean) + 8
    assert max(other) < -5


def test_alignment_lines_are_librispeech_s() -> None:
    words = [TimedWord("GO", 0.49, 0.89), TimedWord("HOME", 1.0, 1.5)]
    line = alignment_line("1-2-0000", Rendered(np.zeros(32000, dtype=np.int16), words))
    assert line == '1-2-0000 ",GO,,HOME," "0.490,0.890,1.000,1.500,2.000"'


def test_an_unknown_part_of_librispeech_is_named(tmp_path: Path) -> None:
    result = CliRunner().invoke(command, ["librispeech", "--out", str(tmp_path), "--parts", "train-dirty"])
    assert isinstance(result.exception, UserError)
    assert "train-dirty" in str(result.exception)


def test_an_unknown_size_is_refused(tmp_path: Path) -> None:
    result = CliRunner().invoke(command, ["synthetic", "--out", str(tmp_path), "--size", "huge"])
    assert result.exit_code == 2
    assert "huge" in result.output


def test_parts_of_librispeech_are_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {}

    def download(folder: Path, dataset_parts: list[str], alignments: bool) -> Path:
        asked[folder] = (dataset_parts, alignments)
        return folder / "LibriSpeech"

    monkeypatch.setattr("lhotse.recipes.librispeech.download_librispeech", download)
    arguments = [
        "librispeech",
        "--out",
        str(tmp_path),
        "--parts",
        "train-clean-5, dev-clean-2",
        "--no-alignments",
    ]
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 0
    assert asked == {tmp_path: (["train-clean-5", "dev-clean-2"], False)}


def test_a_failed_download_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*args: object, **options: object) -> Path:
        raise ConnectionError("no route to host")

    monkeypatch.setattr("lhotse.recipes.librispeech.download_librispeech", download)
    result = CliRunner().invoke(command, ["librispeech", "--out", str(tmp_path), "--no-alignments"])
    assert isinstance(result.exception, UserError)
    assert "no route to host" in str(result.exception)


def test_without_espeak_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("espeakng_loader.get_library_path", lambda: "/nowhere/libespeak-ng.so")
    with pytest.raises(UserError, match="espeak-ng"):
        generate(tmp_path / "corpus", jobs=2)
    assert not (tmp_path / "corpus").exists()
