"""The task of few words: a word stands at its time, and no speaker is in two parts."""

import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
from lhotse import CutSet, MonoCut
from lhotse.supervision import AlignmentItem

from helpers.command_line import well
from kdasr.data.folder import load_cuts
from kdasr.testing import write_corpus

ROOT = Path(__file__).parents[2]
PARTS = ("train-clean-100", "dev-clean")


def spectrum(cut: MonoCut, start: float) -> np.ndarray:
    """Of 0.3 s in the inner part of a word, which no fade touches."""
    piece = cut.truncate(offset=start + 0.1, duration=0.3, preserve_id=True)
    magnitudes = np.abs(np.fft.rfft(piece.load_audio()[0][:4800]))
    return magnitudes / np.linalg.norm(magnitudes)


def words(cut: MonoCut) -> list[AlignmentItem]:
    return (cut.supervisions[0].alignment or {})["word"]


def test_words_stand_where_their_times_say(tmp_path: Path) -> None:
    alignments = tmp_path / "alignments"
    corpus = write_corpus(tmp_path / "corpus", PARTS, speakers=3, utterances=4, alignments_dir=alignments)
    data = tmp_path / "data"
    well(
        "prepare",
        "--corpus-dir",
        corpus,
        "--alignments-dir",
        alignments,
        "--parts",
        " ".join(PARTS),
        "--out",
        data,
    )
    command = [sys.executable, str(ROOT / "tools" / "connected_words.py"), "--data", str(data)]
    command += ["--parts", " ".join(PARTS), "--words", "4", "--test-speakers", "3", "--dev-speakers", "1"]
    for out in ("one", "two"):
        subprocess.run([*command, "--out", str(tmp_path / out)], check=True, capture_output=True)

    heard = defaultdict(list)
    for cut in (cut for part in PARTS for cut in load_cuts(data, part)):
        for item in words(cut):
            heard[item.symbol].append(spectrum(cut, item.start))
    speakers, number = {}, 0
    for part in ("train", "dev", "test"):
        cuts, again = (
            list(CutSet.from_file(tmp_path / out / f"cuts_{part}.jsonl.gz")) for out in ("one", "two")
        )
        speakers[part] = {cut.supervisions[0].speaker for cut in cuts}
        for cut, same in zip(cuts, again, strict=True):
            assert cut.supervisions[0].text.split() == [item.symbol for item in words(cut)]
            np.testing.assert_array_equal(cut.load_audio(), same.load_audio())
            for item in words(cut):
                mine = spectrum(cut, item.start)
                assert max(mine @ theirs for theirs in heard[item.symbol]) > 0.95
                number += 1
    assert number > 20
    assert speakers["train"] and len(speakers["dev"]) == 1 and len(speakers["test"]) == 3
    assert not (
        speakers["train"] & (speakers["dev"] | speakers["test"]) or speakers["dev"] & speakers["test"]
    )
