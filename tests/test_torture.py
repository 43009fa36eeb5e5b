"""A small part of `make torture`: a few damaged files of each kind, and a command that is killed."""

import os
import signal
from pathlib import Path
from random import Random

import pytest
from torture import kills
from torture.damage import damage
from torture.kills import kill_and_resume, prepare_references
from torture.kinds import Kind, make_kinds

CONFIG = Path(__file__).parents[1] / "egs" / "librispeech" / "conf" / "tiny.yaml"
SEED = 2
TRIES = 8


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> list[Kind]:
    return make_kinds(tmp_path_factory.mktemp("damage"), CONFIG)


def test_damaged_files_are_refused_in_one_line_or_read_right(kinds: list[Kind]) -> None:
    tallies = [damage(kind, TRIES, SEED) for kind in kinds]
    assert [fault for tally in tallies for fault in tally.faults] == []
    assert sum(tally.tries for tally in tallies) == TRIES * len(kinds) > 100
    assert sum(tally.outcomes["refused"] for tally in tallies) > TRIES * len(kinds) / 2


def test_the_campaign_notices_what_is_wrong(kinds: list[Kind]) -> None:
    """A reader that takes what it finds, one that raises, one that kills its process."""
    wav = next(kind for kind in kinds if kind.name == "wav")

    def changed() -> bool:
        return wav.path.read_bytes() != whole

    def die() -> None:
        if changed():
            os.kill(os.getpid(), signal.SIGKILL)

    whole = wav.path.read_bytes()
    readers = {
        "wrong": lambda: (16000, wav.path.read_bytes()[44:]),
        "traceback": lambda: wav.path.read_bytes().decode("ascii", "strict" if changed() else "ignore"),
        "crash": die,
    }

    for outcome, read in readers.items():
        tally = damage(Kind("wav", wav.path, read, wav.allowed, wav.mutations), 5, SEED)
        assert tally.tries == 5 and tally.outcomes[outcome] >= 3, (outcome, tally)


def test_a_killed_command_gives_what_it_would_have_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kills, "COMMANDS", kills.COMMANDS[:1])
    (prepare,) = prepare_references(tmp_path, CONFIG)
    assert "cuts_dev-clean.jsonl.gz" in prepare.results
    assert kill_and_resume(prepare, Random(SEED), kills=2) == ""
