"""An exported offline teacher labels as the teacher itself does; other folders are known by their files."""

from pathlib import Path

import numpy as np
import pytest
from export_helpers import bursts, save_student

from kdasr.common.errors import UserError
from kdasr.export import build
from kdasr.labeling.base import LabelerOptions, Speech, open_labeler
from kdasr.labeling.labelers import sherpa
from kdasr.labeling.labelers.sherpa import recognize_folder
from kdasr.nn.context import Context
from kdasr.recognition.recognizer import StreamingRecognizer


def test_an_exported_teacher_labels_as_the_teacher_does(tmp_path: Path) -> None:
    teacher = save_student(tmp_path / "teacher", Context.full())
    (tmp_path / "export").mkdir()
    build._write_files(teacher, tmp_path / "export", False, build.Publication())
    options = LabelerOptions(beam=1, words=True, language="en")
    waves = [bursts(seconds, seed) for seed, seconds in enumerate((1.3, 5.0, 2.0))]
    # Ours adds silence at the end, and searches no frame that a stream would not have.
    tail_N = np.zeros(round(StreamingRecognizer(teacher).tail_seconds * 16000), np.float32)
    padded = [Speech(str(place), np.concatenate([wave, tail_N])) for place, wave in enumerate(waves)]
    theirs = open_labeler(f"sherpa:{tmp_path / 'export'}", options).label(padded)
    speech = [Speech(str(place), wave) for place, wave in enumerate(waves)]
    ours = open_labeler(f"bundle:{tmp_path / 'teacher'}", options).label(speech)
    assert sum(len(label.text.split()) for label in ours) > 6
    for found, expected in zip(theirs, ours, strict=True):
        words = expected.text.split()[:-1]  # the last one is heard beside padding
        assert found.text.split()[: len(words)] == words
    for label in theirs:
        assert [word.text for word in label.words] == label.text.split()
    # Longer than it hears at once; and less than a frame, at which sherpa-onnx would end the process.
    short = LabelerOptions(beam=1, longest=2.0)
    pieces = open_labeler(f"sherpa:{tmp_path / 'export'}", short)
    long, nothing, click = pieces.label([padded[1], Speech("0", tail_N[:0]), Speech("1", waves[0][:40])])
    assert len(long.text) > 5 and nothing.text == click.text == ""
    with pytest.raises(UserError, match="an export: name the experiment that it is of, or sherpa:"):
        open_labeler(f"bundle:{tmp_path / 'export'}", options)


@pytest.mark.parametrize(
    ("files", "model_type", "factory"),
    [
        (["encoder-epoch-9.onnx", "decoder-epoch-9.onnx", "joiner-epoch-9.int8.onnx"], "", "from_transducer"),
        (["encoder.onnx", "decoder.onnx", "joiner.onnx"], "EncDecRNNTBPEModel", "from_transducer"),
        (["b-encoder.int8.onnx", "b-encoder.onnx", "b-decoder.onnx"], "whisper-base", "from_whisper"),
        (["encoder.int8.onnx", "decoder.int8.onnx"], "EncDecMultiTaskModel", "from_nemo_canary"),
        (["model.int8.onnx"], "paraformer", "from_paraformer"),
        (["model.onnx"], "sense_voice_ctc", "from_sense_voice"),
        (["model.onnx"], "EncDecCTCModelBPE", "from_nemo_ctc"),
        (["preprocess.onnx", "encode.int8.onnx", "uncached_decode.int8.onnx", "cached_decode.int8.onnx"], "",
         "from_moonshine"),
    ],
)  # fmt: skip
def test_a_folder_is_known_by_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: list[str], model_type: str, factory: str
) -> None:
    for name in (*files, "tokens.txt"):
        (tmp_path / name).touch()
    monkeypatch.setattr(sherpa, "_model_type", lambda graph: model_type)
    found = recognize_folder(tmp_path)
    assert found.factory == factory and found.files["tokens"].name == "tokens.txt"
    assert found.extra == ({"model_type": "nemo_transducer"} if "RNNT" in model_type else {})
    # Of two of a kind the one in float.
    chosen = {path.name for name, path in found.files.items() if name != "tokens"}
    assert chosen == set(files) - {"b-encoder.int8.onnx"}


def test_a_folder_of_no_kind_says_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UserError, match=r"no tokens\.txt; there: notes\.txt"):
        recognize_folder(tmp_path)
    (tmp_path / "tokens.txt").touch()
    with pytest.raises(UserError, match="no graphs of an offline recognizer"):
        recognize_folder(tmp_path)
    (tmp_path / "model.onnx").touch()
    monkeypatch.setattr(sherpa, "_model_type", lambda graph: "unheard-of")
    with pytest.raises(UserError, match="a model of type 'unheard-of'"):
        recognize_folder(tmp_path)
