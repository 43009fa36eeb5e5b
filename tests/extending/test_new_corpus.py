"""The corpus of `tables_corpus.py`, of another layout: prepared, trained on, streamed and reported."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import soundfile
import yaml
from click.testing import Result
from command_line import kdasr, well
from tables_corpus import Tables

from kdasr.common.configio import config_to_dict
from kdasr.common.errors import UserError
from kdasr.common.files import read_json
from kdasr.corpora.base import Corpus, known_corpora, register, unregister
from kdasr.data.folder import load_cuts
from kdasr.evaluation.joining import in_order
from kdasr.testing import SAMPLE_RATE, random_text, tiny_config, tone

unregister(Tables.name)  # its file has registered it; only the tests below are to know it


@pytest.fixture(autouse=True, scope="module")
def _registered() -> Iterator[None]:
    known_corpora()
    register(Tables)
    yield
    unregister(Tables.name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tables; the training one has a file at 8 kHz, and one that is lost."""
    folder = tmp_path_factory.mktemp("toy")
    for seed, (part, count) in enumerate((("train", 8), ("dev", 3))):
        rows = []
        for index in range(count):
            # Pieces are capitals; what is written here becomes that.
            text = random_text(3, 10 * seed + index).capitalize() + "."
            path, rate = f"{part}/{part}-talk@{count - index}.wav", 8000 if index == 1 else SAMPLE_RATE
            (folder / "corpus" / part).mkdir(parents=True, exist_ok=True)
            soundfile.write(folder / "corpus" / path, tone(2.0, 10 * seed + index, rate), rate)
            rows.append(f"{path}\t{text}\tann\n")
        (folder / "corpus" / f"{part}.tsv").write_text("".join(rows))
    with (folder / "corpus" / "train.tsv").open("a") as file:
        file.write("train/lost.wav\tOne.\tann\n")
    return folder


@pytest.fixture(scope="module")
def exp(folder: Path) -> Path:
    stage = {"name": "train", "num_steps": 4, "loss_weights": {"rnnt": 1.0, "ctc": 0.5}}
    content = {
        "data": {
            "dir": str(folder / "data"),
            "train_parts": ["train"],
            "dev_parts": ["dev"],
            "max_duration": 12.0,
            "num_buckets": 1,
            "speed_perturbation": [1.0],
        },
        "text": {"normalize": "words", "model_type": "char"},
        "model": {**config_to_dict(tiny_config()), "vocab_size": 0},
        "training": {"accelerator": "cpu", "num_threads": 1, "log_every": 2, "validate_every": 4},
        "systems": {"streaming": {"contexts": [{"left": 8, "chunk": 4}], "stages": [stage]}},
    }
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(content))
    data, exp = folder / "data", folder / "exp"
    well(
        "prepare", "--corpus", "tables", "--corpus-dir", folder / "corpus", "--config", recipe, "--out", data
    )
    well("tokens", "--data", data, "--config", recipe)
    well("train", "--config", recipe, "--system", "streaming", "--exp", exp / "streaming")
    well("decode", exp / "streaming", "--data", data, "--parts", "dev", "--mode", "streaming")
    well("report", exp)
    return exp


def test_it_is_prepared_as_any_other(exp: Path, folder: Path) -> None:
    record = read_json(folder / "data" / "prepare.json")
    assert list(record["parts"]) == ["dev", "train"] and record["text"] == {"normalize": "words"}
    assert record["parts"]["train"]["missing_audio"] == ["lost"]
    assert record["parts"]["train"]["settings"]["corpus"] == "tables"
    cuts = load_cuts(folder / "data", "train")
    assert len(cuts) == 8 and {cut.sampling_rate for cut in cuts} == {SAMPLE_RATE}
    assert {(cut.supervisions[0].speaker, cut.supervisions[0].language) for cut in cuts} == {
        ("ann", "English")
    }
    assert [cut.id for cut in in_order(list(cuts))] == [f"train-talk@{number}" for number in range(1, 9)]


def test_it_is_trained_streamed_and_reported_as_spelled(exp: Path, folder: Path) -> None:
    wav = folder / "corpus" / "dev" / "dev-talk@1.wav"
    (line,) = well("stream", exp / "streaming", wav, "--json", "--blank-penalty", 5).splitlines()
    assert isinstance(json.loads(line)["text"], str)
    pieces = (exp / "streaming" / "tokens" / "tokens.txt").read_text(encoding="utf-8").splitlines()
    assert len(pieces) > 10 and all(piece.islower() or piece[0] == "▁" for piece in pieces)
    rows = [
        json.loads(row)
        for row in (exp / "streaming/decode/streaming/dev/utterances.jsonl").read_text().splitlines()
    ]
    written = {cut.id: cut.supervisions[0].text for cut in load_cuts(folder / "data", "dev")}
    assert len(rows) == 3
    for row in rows:
        assert row["ref"] == written[row["id"]].lower().removesuffix(".")
    summary = read_json(exp / "streaming/decode/streaming/dev/summary.json")
    assert summary["normalization"] == "words, nmt_nfkc" and summary["num_words"] == 9
    (row,) = json.loads((exp / "report" / "results.json").read_text())
    assert (row["system"], row["part"]) == ("streaming", "dev")


def test_another_spelling_is_noticed_everywhere(exp: Path, folder: Path) -> None:
    data, recipe = folder / "data", folder / "recipe.yaml"

    def train(rule: str, exp: Path) -> Result:
        where = ("--config", recipe, "--system", "streaming", "--exp", exp)
        return kdasr("train", *where, "--override", f"text.normalize={rule}")

    again = train("lower", folder / "lower")
    assert f"text.normalize is lower, {data} was prepared with words" in str(again.exception)
    unknown = train("shouted", folder / "shouted")
    assert "no rule 'shouted' to normalize text by; known: none, upper, lower, words" in str(
        unknown.exception
    )
    prepare = ("prepare", "--corpus", "tables", "--corpus-dir", folder / "corpus", "--out", data)
    before = (data / "cuts_dev.jsonl.gz").stat().st_mtime_ns
    output = well(*prepare, "--normalize", "upper", "--speed", "1")
    assert before == (data / "cuts_dev.jsonl.gz").stat().st_mtime_ns, "nothing else depends on it"
    assert "text.normalize was words and is upper now: run `kdasr tokens` again" in output.replace("\n", " ")
    changed = train("upper", folder / "upper")
    assert f"made with text.normalize words, {data} was prepared with upper" in str(changed.exception)
    well("tokens", "--data", data, "--model-type", "char")
    begun = train("upper", exp / "streaming")
    assert "holds a run with text.normalize: words" in str(begun.exception)
    assert kdasr(*prepare, "--normalize", "words", "--speed", "1").exit_code == 0


def test_what_is_wrong_with_it_is_named(folder: Path, tmp_path: Path) -> None:
    assert isinstance(Tables(folder, []), Corpus)
    with pytest.raises(ValueError, match="'tables' is the name of another corpus"):
        register(Tables)
    where = ("--out", tmp_path / "data")
    for arguments, message in [
        (("--corpus", "tapes", "--corpus-dir", folder / "corpus"), "known: cuts, librispeech"),
        ((), "what is to be prepared? Give --corpus-dir, or --cuts PART=FILE_OR_FOLDER"),
        (("--corpus", "tables"), "--corpus tables: give its folder as --corpus-dir"),
        (("--corpus", "tables", "--corpus-dir", folder / "x"), "x: no such corpus folder"),
        (("--corpus", "tables", "--corpus-dir", folder / "corpus", "--parts", "test"), "no table of 'test'"),
        (("--corpus-dir", folder / "corpus", "--cuts", "dev=a"), "--corpus-dir and --cuts: give one of them"),
        (("--cuts", "cuts.jsonl.gz"), "--cuts cuts.jsonl.gz: expected PART=FILE_OR_FOLDER"),
    ]:
        error = kdasr("prepare", *arguments, *where).exception
        assert isinstance(error, UserError) and message in str(error), error
    table = tmp_path / "corpus" / "train.tsv"
    table.parent.mkdir()
    for rows, message in [
        ("a.wav\tx\ts\nb/a.wav\ty\ts\n", "train: utterance 'a' is there twice"),
        ("a.wav\tx\ts\n", "train: none of its 1 utterances has both audio and a transcript"),
    ]:
        table.write_text(rows)
        error = kdasr("prepare", "--corpus", "tables", "--corpus-dir", table.parent, *where).exception
        assert isinstance(error, UserError) and message in str(error), error
