"""What data a training began with, whatever their paths."""

from pathlib import Path
from typing import Any

import pytest
import soundfile
from lhotse.utils import fastcopy

from kdasr.common.errors import UserError
from kdasr.common.files import read_json, write_json
from kdasr.corpora.prepare import PrepareOptions, prepare_corpus
from kdasr.data.data_config import DataConfig, NoiseConfig
from kdasr.data.fingerprint import audio_fingerprint
from kdasr.data.folder import load_cuts
from kdasr.data.same_data import check_same_data, describe_cuts, describe_data
from kdasr.data.tokenizer import Tokenizer
from kdasr.language_model.text import EncodedText, TextSource
from kdasr.testing import dummy_cuts, tone, write_corpus

PART = "train-clean-100"


def prepared(root: Path) -> dict[str, Any]:
    prepare_corpus(PrepareOptions(root / "corpus", root / "data", [PART], speeds=(1.0,)))
    return describe_cuts(load_cuts(root / "data", PART), root / "data", [PART])


def test_another_place_of_the_same_length_is_other_audio() -> None:
    (cut,) = dummy_cuts(1)
    before = audio_fingerprint([cut])
    assert audio_fingerprint([fastcopy(cut, start=0)]) == before  # a whole number means the same
    assert audio_fingerprint([fastcopy(cut, start=0.5)]) != before


def test_a_corpus_prepared_elsewhere_is_the_same(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for root in (here, there):
        write_corpus(root / "corpus", (PART,))
    first, second = prepared(here), prepared(there)
    assert first == second and first["utterances"] == 6
    for file in sorted((there / "corpus").rglob("*.flac")):
        samples, rate = soundfile.read(file)
        soundfile.write(file, samples + 0.2 * tone(len(samples) / rate, seed=99)[: len(samples)], rate)
    noisy = prepared(there)
    assert noisy["digest"] == first["digest"]
    exp = tmp_path / "exp"
    check_same_data(exp, {"training": first}, "data.dir: here")
    check_same_data(exp, {"training": second}, "data.dir: there")
    with pytest.raises(UserError, match=r"data\.dir: there: not the training data .* other features"):
        check_same_data(exp, {"training": noisy}, "data.dir: there")


def test_texts_lengths_and_order_count() -> None:
    cuts = list(dummy_cuts(4, with_features=False))
    seen = {describe_cuts(cuts, Path("nowhere"))["digest"]}
    seen.add(describe_cuts(cuts[::-1], Path("nowhere"))["digest"])
    cuts[1].supervisions[0].text = "NINE"
    seen.add(describe_cuts(cuts, Path("nowhere"))["digest"])
    cuts[2] = cuts[2].truncate(duration=0.5, preserve_id=True)
    seen.add(describe_cuts(cuts, Path("nowhere"))["digest"])
    assert len(seen) == 4


def test_sentences_and_noise_are_known_by_their_content(tokenizer: Tokenizer, tmp_path: Path) -> None:
    texts = [EncodedText([TextSource(name, lines)], tokenizer, 50) for name, lines in (
        ("a", ["ONE TWO", "SIX"]), ("b", ["ONE TWO", "SIX"]), ("c", ["ONE", "TWO SIX"]))]  # fmt: skip
    one, same, other = (text.description() for text in texts)
    assert one == same != other and one["sentences"] == other["sentences"] == 2
    found = []
    for folder in (tmp_path / "x", tmp_path / "y"):
        folder.mkdir()
        soundfile.write(folder / "hum.wav", tone(1.0), 16000)
        found.append(describe_data(DataConfig(noise=NoiseConfig(str(folder))), {})["noise"])
    soundfile.write(tmp_path / "y" / "hiss.wav", tone(1.0), 16000)
    found.append(describe_data(DataConfig(noise=NoiseConfig(str(tmp_path / "y"))), {})["noise"])
    assert found[0] == found[1] != found[2]


def test_what_a_run_did_not_note_is_noted_later(tmp_path: Path) -> None:
    write_json(tmp_path / "data.json", {"training": {"utterances": 3, "digest": "a"}})
    check_same_data(tmp_path, {"dev": {"utterances": 1, "digest": "b"}}, "data.dir: d")
    assert set(read_json(tmp_path / "data.json")) == {"training", "dev"}
    with pytest.raises(UserError, match=r"not the dev data .*: 2 utterances, 1 then"):
        check_same_data(tmp_path, {"dev": {"utterances": 2, "digest": "b"}}, "data.dir: d")
