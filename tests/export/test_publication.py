"""A folder to publish is what Hugging Face and sherpa-onnx's users expect, and still a bundle."""

from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import soundfile
import yaml
from click.testing import CliRunner
from export_helpers import bursts, write_cuts

from kdasr.cli.export import command
from kdasr.common.errors import UserError
from kdasr.export.build import export_bundle, find_current
from kdasr.export.bundle import open_bundle
from kdasr.export.client import SherpaClient
from kdasr.export.publication import Publication, Recording

LICENSED = Publication("cc-by-4.0", "en", hub_layout=True)


def header(folder: Path) -> dict[str, object]:
    """The YAML of a card."""
    before, text, _ = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    assert not before
    return dict(yaml.safe_load(text))


def test_command_writes_what_the_hub_expects(student, same_encoder, tmp_path: Path) -> None:
    waves = [bursts(1.5, seed) for seed in range(2)]
    cuts, out = write_cuts(tmp_path, waves), tmp_path / "out"
    options = [student.folder, "--out", out, "--hub-layout", "--license", "cc-by-4.0", "--language", "en"]
    result = CliRunner().invoke(command, list(map(str, [*options, "--test-wavs", cuts])))
    assert result.exit_code == 0, result.output
    assert {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()} == {
        *("README.md", "manifest.json", ".gitattributes", "encoder.onnx", "decoder.onnx", "joiner.onnx"),
        *("tokens.txt", "bpe.model", "bpe.vocab"),
        *("test_wavs/0.wav", "test_wavs/1.wav", "test_wavs/trans.txt"),
    }
    card = header(out)
    assert (card["license"], card["language"], card["library_name"]) == ("cc-by-4.0", ["en"], "sherpa-onnx")
    assert card["pipeline_tag"] == "automatic-speech-recognition"
    attributes = (out / ".gitattributes").read_text().splitlines()
    through_lfs = [line.removesuffix(" filter=lfs diff=lfs merge=lfs -text") for line in attributes]
    binary = {"*" + path.suffix for path in out.rglob("*") if path.is_file() and b"\0" in path.read_bytes()}
    assert sorted(binary) == through_lfs
    samples, rate = soundfile.read(out / "test_wavs" / "0.wav", dtype="float32")
    assert rate == 16000
    np.testing.assert_allclose(samples, waves[0].clip(-1, 1), atol=2 / 32768)
    transcripts = (out / "test_wavs" / "trans.txt").read_text().splitlines()
    assert [line.split()[0] for line in transcripts] == ["0.wav", "1.wav"]
    processor = sentencepiece.SentencePieceProcessor(model_file=str(out / "bpe.model"))
    pieces = open_bundle(out).pieces()
    assert [processor.id_to_piece(index) for index in range(len(pieces))] == pieces
    said = [line.split("  ") for line in result.output.splitlines() if line.endswith(" MB")]
    sizes = {str(path): f"{path.stat().st_size / 1e6:.2f} MB" for path in out.rglob("*") if path.is_file()}
    assert dict(said) == sizes and len(said) == len(sizes)
    again = CliRunner().invoke(command, list(map(str, options)))
    assert "already exported" in again.output


def test_sherpa_spells_hotwords_by_the_published_pieces(student, same_encoder, tmp_path: Path) -> None:
    bundle = export_bundle(student.system, tmp_path / "out", publication=LICENSED)
    audio = bursts(3.0, 5)
    (tmp_path / "words").write_text("SEVEN\n")
    options = {"modeling_unit": "bpe", "bpe_vocab": str(bundle.folder / "bpe.vocab")}
    options |= {"hotwords_file": str(tmp_path / "words"), "decoding_method": "modified_beam_search"}

    def heard(score: float) -> list[str]:
        client = SherpaClient(bundle, hotwords_score=score, **options)
        return [emission.piece for emission in client.decode(audio).emissions]

    assert heard(8.0) != heard(0.0)


def test_publication_is_replaced_as_a_whole(student, same_encoder, tmp_path: Path) -> None:
    spoken = [Recording(bursts(1.0, 1), "ONE")]
    out = tmp_path / "out"
    export_bundle(student.system, out, publication=Publication("mit", "", True, spoken))
    assert find_current(student.system, out, publication=Publication("mit", "", True)) is not None
    assert find_current(student.system, out, publication=LICENSED) is None
    (out / "test_wavs" / "mine.wav").write_bytes(b"")
    with pytest.raises(UserError, match=r"test_wavs/mine\.wav"):
        export_bundle(student.system, out)
    (out / "test_wavs" / "mine.wav").unlink()
    export_bundle(student.system, out)
    assert not (out / "bpe.model").exists() and not (out / "test_wavs").exists()
    assert not (out / "README.md").read_text().startswith("---")
    assert open_bundle(out).manifest["extras"] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--hub-layout"], "--hub-layout needs --license"),
        (
            ["--hub-layout", "--license", "Do what you want"],
            "--license 'Do what you want': expected",
        ),
        (["--hub-layout", "--license", "mit", "--language", "English"], "--language 'English'"),
        (["--test-wavs", "cuts.jsonl"], "--test-wavs needs --hub-layout"),
        (["--check", ".", "--license", "mit"], "--license needs an export"),
    ],
)
def test_command_names_the_mistake(arguments: list[str], message: str, tmp_path: Path) -> None:
    out = [] if "--check" in arguments else ["--out", str(tmp_path / "out")]
    result = CliRunner().invoke(command, [str(tmp_path), *out, *arguments])
    assert isinstance(result.exception, UserError)
    assert message in str(result.exception)
