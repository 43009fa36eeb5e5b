"""An exported offline teacher labels as the teacher itself does; other folders are known by their files."""

from pathlib import Path

import numpy as np
import pytest
from export_helpers import bursts, save_student

from kdasr.common.errors import UserError
from kdasr.export import build
from kdasr.labeling import base
from kdasr.labeling.base import LabelerOptions, Speech, open_labeler
from kdasr.labeling.labelers import sherpa
from kdasr.labeling.labelers.sherpa import recognize_folder
from kdasr.nn.context import Context


def test_an_exported_teacher_labels_as_the_teacher_does(tmp_path: Path) -> None:
    teacher = save_student(tmp_path / "teacher", Context.full())
    (tmp_path / "export").mkdir()
    build._write_files(teacher, tmp_path / "export", False, build.Publication())
    options = LabelerOptions(beam=1, longest=2.0, words=True, language="en")
    waves = [bursts(seconds, seed) for seed, seconds in enumerate((1.3, 5.0, 0.0, 0.05, 2.0))]
    speech = [Speech(str(place), wave) for place, wave in enumerate(waves)]
    theirs = open_labeler(f"sherpa:{tmp_path / 'export'}", options).label(speech)
    ours = open_labeler(f"bundle:{tmp_path / 'teacher'}", options).label(speech)
    assert [label.text for label in theirs] == [label.text for label in ours]
    assert len(theirs[1].text.split()) > 3 and theirs[2].text == theirs[3].text == ""
    for label in theirs:
        assert [word.text for word in label.words] == label.text.split()
    # A label in pieces is that of the whole where a piece is the whole.
    whole = LabelerOptions(beam=1, longest=30.0)
    (one,) = open_labeler(f"bundle:{tmp_path / 'teacher'}", whole).label(speech[4:])
    assert one.text == ours[4].text and one.score == pytest.approx(ours[4].score, abs=1e-4)
    assert "sherpa" in base.known_labelers() and np.isfinite(one.score or 0.0)
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
