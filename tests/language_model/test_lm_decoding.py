"""`kdasr decode` and `kdasr stream` with a language model."""

import json
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from click.testing import CliRunner
from experiment_folder import run
from streaming_helpers import bursts, make_recognizer

from kdasr.bundle import load_bundle
from kdasr.checkpoint import save_checkpoint
from kdasr.cli.decode import command as decode
from kdasr.cli.stream import command as stream
from kdasr.common.configio import config_to_dict
from kdasr.common.errors import UserError
from kdasr.corpora.prepare import PrepareOptions, prepare_corpus
from kdasr.data.tokenizer import Tokenizer, train_tokenizer
from kdasr.evaluation.wer import word_errors
from kdasr.export.runtime import PieceTable
from kdasr.language_model.model import LanguageModelConfig, TransformerLanguageModel
from kdasr.language_model.scorer import load_language_model
from kdasr.language_model.word_ngram import WordNgram
from kdasr.nn.context import Context
from kdasr.testing import random_text, tiny_tokenizer, write_corpus

BEAM = ("--search", "beam", "--beam", 3)


def save(folder: Path, model: Any, tokenizer: Tokenizer) -> Path:
    path = folder / "checkpoints" / "last.pt"
    save_checkpoint(
        path,
        {
            "model_config": config_to_dict(model.config),
            "model": model.state_dict(),
            "context": {"left": 8, "chunk": 4, "right": 0},
            "tokenizer_fingerprint": tokenizer.fingerprint,
            "system": folder.name,
            "train_steps": 7,
        },
    )
    return folder


def make_language_model(folder: Path, tokenizer: Tokenizer) -> Path:
    """A random model that likes one word far more than the others."""
    torch.manual_seed(4)
    model = TransformerLanguageModel(LanguageModelConfig(tokenizer.vocab_size, 1, 8, 2, 16, context=9))
    with torch.no_grad():
        model.output_bias_V[tokenizer.encode("SEVEN")] = 5.0
    return save(folder, model, tokenizer)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, a random transducer, a language model of its pieces and one of others."""
    folder = tmp_path_factory.mktemp("lm")
    corpus = write_corpus(folder / "LibriSpeech", ["test-clean"], utterances=2)
    prepare_corpus(PrepareOptions(corpus_dir=corpus, out_dir=folder / "data", parts=["test-clean"]))
    tokenizer = tiny_tokenizer(folder / "student" / "tokens")
    context = Context(left=8, chunk=4)
    save(folder / "student", make_recognizer(context, vocab_size=tokenizer.vocab_size).model, tokenizer)
    tiny_tokenizer(folder / "lm" / "tokens")
    make_language_model(folder / "lm", tokenizer)
    texts = [random_text(4, seed).replace("SEVEN", "HUNDRED") for seed in range(50)]
    make_language_model(folder / "other", train_tokenizer(texts, 24, folder / "other" / "tokens"))
    return folder


def decoded(folder: Path, mode: str, *options: object) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    arguments = (
        folder / "student",
        "--data",
        folder / "data",
        "--parts",
        "test-clean",
        "--mode",
        mode,
        *options,
    )
    result = CliRunner().invoke(decode, [str(argument) for argument in arguments])
    if result.exception:
        raise result.exception
    out = folder / "student" / "decode" / mode / "test-clean"
    lines = (out / "utterances.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines], json.loads((out / "summary.json").read_text())


def sevens(records: list[dict[str, Any]]) -> int:
    return sum(record["hyp"].count("SEVEN") for record in records)


def test_fusion_and_rescoring_in_both_modes(folder: Path) -> None:
    plain, summary = decoded(folder, "offline", *BEAM, "--nbest", 3)
    assert summary["language_model"] is None
    lm = ("--lm", folder / "lm", "--lm-scale", 3, "--nbest", 3)
    found = {}
    for name, flags in (("shallow fusion", ()), ("rescoring", ("--rescore",))):
        streamed, _ = decoded(folder, "streaming", *BEAM, *lm, *flags)
        offline, summary = decoded(folder, "offline", *BEAM, *lm, *flags)
        for left, right in zip(streamed, offline, strict=True):
            assert [entry["hyp"] for entry in left["nbest"]] == [entry["hyp"] for entry in right["nbest"]]
            scores = [[entry["score"] for entry in record["nbest"]] for record in (left, right)]
            assert scores[0] == pytest.approx(scores[1], abs=1e-2)
        assert all(record["hyp"] == record["nbest"][0]["hyp"] for record in offline)
        assert (summary["language_model"]["use"], summary["language_model"]["scale"]) == (name, 3.0)
        assert ("lm_scale" in summary["search"]) == (name == "shallow fusion")
        found[name] = offline
    assert sevens(found["shallow fusion"]) > sevens(plain)
    assert [record["hyp"] for record in found["rescoring"]] != [record["hyp"] for record in plain]
    for rescored, before in zip(found["rescoring"], plain, strict=True):
        assert {entry["hyp"] for entry in rescored["nbest"]} == {entry["hyp"] for entry in before["nbest"]}


def test_a_text_rescores_as_the_word_trigram_of_its_sentences(folder: Path) -> None:
    plain, _ = decoded(folder, "offline", *BEAM, "--nbest", 3)
    # The list's last hypothesis of each utterance is what the text says, again and again.
    said = [record["nbest"][-1]["hyp"] for record in plain]
    (folder / "text.txt").write_text("".join(f"{sentence}\n" * 50 for sentence in said))
    options = (*BEAM, "--nbest", 3, "--lm", folder / "text.txt", "--lm-scale", 100, "--rescore")
    found, summary = decoded(folder, "offline", *options)
    assert summary["language_model"]["use"] == "rescoring"
    trigram = WordNgram(said * 50, lambda ids: "")
    for record, before in zip(found, plain, strict=True):
        expected = max(before["nbest"], key=lambda entry: trigram.log_prob(entry["hyp"].split()))
        assert record["hyp"] == record["nbest"][0]["hyp"] == expected["hyp"]
    assert [record["hyp"] for record in found] != [record["hyp"] for record in plain]


def test_weights_are_chosen_on_dev_parts_and_kept(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The chosen weights make as many errors in decoding as in the choice; without them there are more."""
    lm = (*BEAM, "--lm", folder / "lm", "--rescore")
    _, tuned = decoded(folder, "offline", *lm, "--tune", "test-clean")
    path = folder / "student" / "decode" / "rescoring.json"
    kept = json.loads(path.read_text())
    use = tuned["language_model"]
    assert (use["scale"], use["word_bonus"], use["tuned_on"]) == (
        kept["scale"],
        kept["bonus"],
        ["test-clean"],
    )
    assert kept["errors_best"] <= kept["errors"] <= kept["errors_before"]
    given = ("--lm-scale", kept["scale"], "--word-bonus", kept["bonus"])
    records, summary = decoded(folder, "streaming", *lm, *given)
    errors = sum(word_errors(record["ref"], record["hyp"]).total for record in records)
    assert errors == kept["errors"] and summary["language_model"]["word_bonus"] == kept["bonus"]
    path.write_text(json.dumps({**kept, "scale": 0.11}))
    _, again = decoded(folder, "offline", *lm, "--tune", "test-clean")
    assert again["language_model"]["scale"] == 0.11
    (folder / "phrases.txt").write_text("SEVEN\t5\n")
    for options in (("--biasing", folder / "phrases.txt"), ("--tail-seconds", 1)):
        path.write_text(json.dumps({**kept, "scale": 0.11}))
        _, other = decoded(folder, "offline", *lm, *options, "--tune", "test-clean")
        assert other["language_model"]["scale"] != 0.11
    _, forced = decoded(folder, "offline", *lm, "--tune", "test-clean", "--force")
    assert forced["language_model"] == use


def test_weights_are_chosen_under_each_context(folder: Path) -> None:
    """As under this context alone, and with nothing of them among the results of the own context."""
    lm = (*BEAM, "--lm", folder / "lm", "--rescore", "--tune", "test-clean")
    chunked = "left=8,chunk=2"
    decoded(folder, "offline", *lm, "--context", "full", "--force")
    path = folder / "student" / "decode" / "rescoring.json"
    under_full = json.loads(path.read_text())
    path.unlink()
    decoded(folder, "offline", *lm, "--contexts", f"full; {chunked}")
    assert not path.is_file()
    for name, context in (("full", "full"), ("left-8-chunk-2-right-0", "left=8 chunk=2 right=0")):
        found = folder / "student" / "contexts" / name
        kept = json.loads((found / "rescoring.json").read_text())
        summary = json.loads((found / "offline" / "test-clean" / "summary.json").read_text())
        use = summary["language_model"]
        assert kept["context"] == summary["context"] == context
        assert (use["scale"], use["word_bonus"]) == (kept["scale"], kept["bonus"])
        assert name != "full" or kept == under_full


def test_another_use_of_a_language_model_is_another_result(folder: Path) -> None:
    decoded(folder, "offline", *BEAM)
    recogs = folder / "student" / "decode" / "offline" / "test-clean" / "recogs.txt"
    lm = ("--lm", folder / "lm")
    for options in (lm, (*lm, "--lm-scale", 0.1), (*lm, "--rescore"), (*lm, "--rescore", "--lm-scale", 1)):
        recogs.write_text("mine")
        _, summary = decoded(folder, "offline", *BEAM, *options)
        assert recogs.read_text() != "mine"
        recogs.write_text("mine")
        decoded(folder, "offline", *BEAM, *options)
        assert recogs.read_text() == "mine"
    assert len(summary["language_model"]["sha256"]) == 64


def test_streaming_a_file_with_a_language_model(folder: Path, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "speech.wav", bursts(2.0), 16000)
    said = []
    for options in ((), ("--lm", folder / "lm", "--lm-scale", 3)):
        arguments = (folder / "student", tmp_path / "speech.wav", *BEAM, *options)
        result = CliRunner().invoke(stream, [str(argument) for argument in arguments])
        assert result.exit_code == 0, result.output
        said.append(next(line for line in result.output.splitlines() if "final" in line))
    assert said[0] != said[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--lm", "lm"), "--lm needs --search beam"),
        ((*BEAM, "--rescore"), "--rescore needs --lm"),
        ((*BEAM, "--lm-scale", 0.0), "--lm-scale needs --lm"),
        ((*BEAM, "--lm", "lm", "--rescore", "--lm-scale", "nan"), "--lm-scale nan: expected a finite"),
        ((*BEAM, "--lm", "lm", "--word-bonus", 1), "--word-bonus needs --rescore"),
        ((*BEAM, "--lm", "lm", "--tune", "test-clean"), "--tune needs --lm and --rescore"),
        (
            (*BEAM, "--lm", "lm", "--rescore", "--tune", "a", "--lm-scale", 1),
            "--lm-scale needs given weights",
        ),
        ((*BEAM, "--lm", "lm", "--rescore", "--tune", "dev-none"), "dev-none"),
        ((*BEAM, "--lm", "student"), "not a language model"),
        ((*BEAM, "--lm", "nowhere"), "--lm .*nowhere: no such file or folder"),
        ((*BEAM, "--lm", "a.txt"), "a.txt: text, .* --rescore"),
    ],
)
def test_what_cannot_be_done_is_refused(folder: Path, options: tuple[object, ...], message: str) -> None:
    (folder / "a.txt").touch()
    options = tuple(
        folder / item if item in ("lm", "student", "nowhere", "a.txt") else item for item in options
    )
    with pytest.raises(UserError, match=message):
        decoded(folder, "offline", *options)


@pytest.mark.parametrize("use", [(), ("--rescore",)])
def test_a_language_model_of_other_pieces_is_refused(folder: Path, use: tuple[str, ...]) -> None:
    with pytest.raises(UserError) as refusal:
        decoded(folder, "offline", *BEAM, "--lm", folder / "other", *use)
    for name in ("student", "other"):
        assert Tokenizer.load(folder / name / "tokens").fingerprint in str(refusal.value)
        assert str(folder / name) in str(refusal.value)


def test_a_language_model_recognizes_nothing(folder: Path) -> None:
    with pytest.raises(UserError, match="no recognizer; is it a language model"):
        load_bundle(folder / "lm")


def test_a_long_file_that_is_rescored_as_one_sentence_is_said(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdasr.cli.stream.LONG_SENTENCE", 0.9)
    lm = (*BEAM, "--lm", folder / "lm", "--rescore")
    for seconds, options, count in ((0.8, (), 0), (1.0, ("--endpoints",), 0), (1.0, (), 1)):
        soundfile.write(tmp_path / "talk.wav", bursts(seconds), 16000)
        run(stream, folder / "student", tmp_path / "talk.wav", *lm, *options)
        assert ["as one sentence" in message for message in caplog.messages] == [True] * count


def test_a_bundle_is_known_by_its_pieces(folder: Path) -> None:
    tokenizer = load_bundle(folder / "student").tokenizer
    pieces = [tokenizer.piece(index) for index in range(tokenizer.vocab_size)]
    load_language_model(folder / "lm", PieceTable(pieces), "bundle")
    ids = tokenizer.encode("SEVEN SEVEN")
    assert PieceTable(pieces).decode(ids) == tokenizer.decode(ids) == "SEVEN SEVEN"
    for others in ([*pieces[:-1], "▁OTHER"], pieces[:-1]):
        with pytest.raises(UserError, match="other pieces than bundle"):
            load_language_model(folder / "lm", PieceTable(others), "bundle")


def test_a_loaded_model_is_ready_to_be_asked(folder: Path) -> None:
    tokenizer = load_bundle(folder / "student").tokenizer
    model = load_language_model(folder / "lm", tokenizer, "student")
    assert not model.training and not any(p.requires_grad for p in model.parameters())
    saved = torch.load(folder / "lm" / "checkpoints" / "last.pt", weights_only=True)["model"]
    assert torch.equal(saved["output_bias_V"], model.output_bias_V)
