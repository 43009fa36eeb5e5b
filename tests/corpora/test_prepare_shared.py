"""`kdasr prepare` of what does not fit into memory: cut by cut, shared out by processes, resumed."""

import contextlib
import fcntl
import os
import sys
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from lhotse import CutSet, Recording, SupervisionSegment
from lhotse.cut import MonoCut
from two_processes import run_two, under_torchrun

from kdasr.cli.main import main
from kdasr.common.errors import UserError
from kdasr.common.external_sort import ExternalSort
from kdasr.corpora import cut_files, lhotse_cuts, utterance_spool
from kdasr.corpora.prepare import PrepareOptions, prepare_corpus
from kdasr.data import part_features
from kdasr.data.bad import MaxBad
from kdasr.data.features import store_features
from kdasr.data.folder import load_cuts
from kdasr.testing import tone

RUN, TASK = 4, 5
TRAIN = 11
"""Utterances of the part that is trained on, in an order that is not that of their ids."""


def smaller_steps(patch: pytest.MonkeyPatch) -> None:
    """So that a few utterances are many runs and tasks."""
    patch.setattr(utterance_spool, "RUN_SIZES", replace(utterance_spool.RUN_SIZES, usual=RUN))
    patch.setattr(lhotse_cuts, "_AT_ONCE", RUN)
    patch.setattr(cut_files, "_AT_ONCE", RUN)
    patch.setattr(part_features, "RUN_SIZES", replace(part_features.RUN_SIZES, usual=TASK))


@pytest.fixture(autouse=True)
def steps(monkeypatch: pytest.MonkeyPatch) -> None:
    smaller_steps(monkeypatch)


def recording(path: Path, seconds: float, rate: int = 16000) -> Recording:
    soundfile.write(path, tone(seconds, seed=len(path.name), sample_rate=rate), rate)
    return Recording.from_file(path, recording_id=path.stem)


def cuts_of(audio: Recording, names: list[str]) -> MonoCut:
    """A cut with an utterance of each name, one after another."""
    length = audio.duration / len(names)
    said = [
        SupervisionSegment(name, audio.id, length * place, length, text="one two", speaker=audio.id)
        for place, name in enumerate(names)
    ]
    return MonoCut(f"{audio.id}-cut", 0.0, audio.duration, 0, said, recording=audio)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two manifests to train on, one with audio at another rate and with a bad file; and a Shar folder."""
    root = tmp_path_factory.mktemp("corpus")
    long = cuts_of(recording(root / "talk.wav", 3.0), ["m", "a", "z", "c", "k"])
    low = [cuts_of(recording(root / f"{name}.wav", 0.5, 8000), [name]) for name in ("y", "b", "x", "d", "w")]
    bad = cuts_of(recording(root / "l.wav", 0.5, 8000), ["l"])
    soundfile.write(root / "l.wav", np.full(4000, np.nan, np.float32), 8000, subtype="FLOAT")
    CutSet.from_cuts([long]).to_file(root / "one.jsonl.gz")
    CutSet.from_cuts([*low[:3], bad, *low[3:]]).to_file(root / "two.jsonl.gz")
    dev = [cuts_of(recording(root / f"dev{number}.wav", 0.5), [f"dev{number}"]) for number in range(5)]
    (root / "shar").mkdir()
    CutSet.from_cuts(dev).to_shar(root / "shar", fields={"recording": "flac"}, shard_size=2)
    return root


def options(corpus: Path, out: Path, **changes: Any) -> PrepareOptions:
    places = {"train": [corpus / "one.jsonl.gz", corpus / "two.jsonl.gz"], "dev": [corpus / "shar"]}
    few = MaxBad(1, is_share=False)
    return PrepareOptions(**{"corpus_dir": None, "out_dir": out, "cuts": places, "max_bad": few} | changes)


@pytest.fixture(scope="module")
def alone(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What one process makes of it."""
    folder = tmp_path_factory.mktemp("alone") / "data"
    with pytest.MonkeyPatch.context() as patch:
        smaller_steps(patch)
        prepare_corpus(options(corpus, folder))
    assert sorted(cut.id for cut in load_cuts(folder, "train") if cut.custom["speed"] == 1.0) == list(
        "abcdkmwxyz"
    )
    assert len(load_cuts(folder, "dev")) == 5
    return files_of(folder)


def files_of(folder: Path) -> dict[str, bytes]:
    """Each file of a data folder, whose place does not count."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def prepare_as(rank: int, port: int, corpus: Path, out: Path, parts: str, stop_at: int) -> None:
    """One of two processes; the second one is stopped at its task `stop_at`."""
    under_torchrun(rank, port)
    calls = []

    def store(*arguments: Any) -> Any:
        calls.append(arguments)
        if rank == 1 and len(calls) == stop_at:
            os._exit(3)
        return store_features(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        smaller_steps(patch)
        patch.setattr(part_features, "store_features", store)
        places = [f"train={corpus / 'one.jsonl.gz'}", f"train={corpus / 'two.jsonl.gz'}"]
        cuts = [word for place in (*places, f"dev={corpus / 'shar'}") for word in ("--cuts", place)]
        patch.setattr(
            sys, "argv", ["kdasr", "prepare", "--max-bad", "1", "--out", str(out), "--parts", parts, *cuts]
        )
        with contextlib.suppress(SystemExit):
            main()
    assert 2 <= len(calls) <= 5


def test_two_processes_make_what_one_makes(corpus: Path, tmp_path: Path, alone: dict[str, bytes]) -> None:
    assert run_two(prepare_as, corpus, tmp_path / "data", "train,dev", 0) == [0, 0]
    assert files_of(tmp_path / "data") == alone


def test_what_two_processes_began_goes_on(
    corpus: Path, tmp_path: Path, alone: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With another number of processes too: nothing that was done is done again."""
    assert run_two(prepare_as, corpus, tmp_path / "data", "train", 2) == [0, 3]
    assert not (tmp_path / "data" / "cuts_train.jsonl.gz").exists()
    kept = len(list((tmp_path / "data" / "fbank" / ".train.notes" / "tasks").glob("*.json")))
    assert kept == 3 + 1  # of six tasks: all of the first process, one of the other
    calls: list[Any] = []

    def store(*arguments: Any) -> Any:
        calls.append(arguments)
        return store_features(*arguments)

    monkeypatch.setattr(part_features, "store_features", store)
    monkeypatch.setattr(lhotse_cuts, "convert_all", None)  # what was converted is not looked at again
    prepare_corpus(options(corpus, tmp_path / "data", parts=["train"]))
    assert len(calls) == 6 - kept
    monkeypatch.undo()
    smaller_steps(monkeypatch)
    prepare_corpus(options(corpus, tmp_path / "data"))
    found = files_of(tmp_path / "data")
    assert found == alone


def test_what_another_command_works_at_is_left_alone(corpus: Path, tmp_path: Path) -> None:
    notes = tmp_path / "data" / "fbank" / ".train.notes"
    notes.mkdir(parents=True)
    (notes / "key").write_text("other settings")
    handle = os.open(notes, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_SH)
    with pytest.raises(UserError, match="train: another `kdasr prepare` is at work on it"):
        prepare_corpus(options(corpus, tmp_path / "data"))
    assert (notes / "key").read_text() == "other settings"
    os.close(handle)
    prepare_corpus(options(corpus, tmp_path / "data"))
    assert not notes.exists()


class Alive:
    """Counts cuts that are in memory."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.now = self.most = 0
        create = MonoCut.__init__

        def counted(cut: MonoCut, *arguments: Any, **named: Any) -> None:
            create(cut, *arguments, **named)
            weakref.finalize(cut, self.gone)
            self.now += 1
            self.most = max(self.most, self.now)

        patch.setattr(MonoCut, "__init__", counted)

    def gone(self) -> None:
        self.now -= 1


@pytest.mark.parametrize("on_the_fly", [False, True])
def test_the_cuts_in_memory_do_not_grow_with_the_part(
    tmp_path: Path, on_the_fly: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    audio = [recording(tmp_path / f"{rate}.wav", 0.1, rate) for rate in (16000, 8000)]
    most = {}
    for count in (40, 120):
        manifest, part = tmp_path / f"{count}.jsonl.gz", f"train{count}"
        numbers = np.random.default_rng(0).permutation(count).tolist()
        CutSet.from_cuts(
            cuts_of(audio[number % 20 == 0], [f"utterance-{number}"]) for number in numbers
        ).to_file(manifest)
        with monkeypatch.context() as patch:
            alive = Alive(patch)
            cuts = {part: [manifest]}
            prepare_corpus(
                PrepareOptions(None, tmp_path / "data", cuts=cuts, speeds=(1.0, 1.1), on_the_fly=on_the_fly)
            )
            most[count] = alive.most
        assert len(load_cuts(tmp_path / "data", part)) == 2 * count
    assert most[120] <= most[40] + 2
    assert most[120] <= 6 * max(RUN, TASK)


def test_sorting_on_the_disk_is_that_of_bytes() -> None:
    keys = [os.urandom(1 + number % 3) for number in range(10_000)]
    sorting = ExternalSort()
    for number, key in enumerate(keys):
        sorting.add(key, number)
    assert [int(row) for _, row in sorting] == sorted(range(len(keys)), key=lambda row: keys[row])


@pytest.fixture
def listing(corpus: Path) -> Iterator[lhotse_cuts.CutPart]:
    places = {"train": [corpus / "one.jsonl.gz", corpus / "two.jsonl.gz"]}
    part = lhotse_cuts.LhotseCuts(places).check("train", lhotse_cuts.Reading())
    yield part


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [2, 0, 3, 1], [3, 3, 1]])
def test_ranges_of_a_part_are_the_same_in_any_order(
    listing: lhotse_cuts.CutPart, tmp_path: Path, order: list[int]
) -> None:
    """Of 11 utterances; one cannot be converted."""
    names = [*"mazck", *"ybxldw"]
    for number in order:
        some = range(3 * number, min(3 * number + 3, TRAIN))
        made = list(listing.cuts(some, tmp_path / "audio", 1))
        found = [cut.id for part in made for cut in part.cuts]
        bad = [item.id for part in made for item in part.bad]
        assert found == [name for name in names[some.start : some.stop] if name != "l"]
        assert bad == [name for name in names[some.start : some.stop] if name == "l"]
