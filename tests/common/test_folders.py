"""Which files a search finds: through links, each once, none that is hidden."""

import os
from pathlib import Path

import pytest

from kdasr.common.errors import UserError
from kdasr.common.folders import find_files


def is_wanted(name: str) -> bool:
    return name.endswith(".wav")


def write(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_linked_folders_and_files_are_found_under_the_link(tmp_path: Path) -> None:
    root, big = tmp_path / "root", tmp_path / "big"
    write(root / "a" / "1.wav", root / "a" / "note.txt", big / "deep" / "2.wav", big / "3.wav")
    (root / "b").symlink_to(big / "deep")
    (root / "a" / "c.wav").symlink_to(big / "3.wav")
    found = find_files(root, is_wanted)
    assert found.files == [root / "a" / "1.wav", root / "a" / "c.wav", root / "b" / "2.wav"]
    assert found.links == [root / "b"]
    assert not (found.hidden or found.repeated or found.broken)


def test_a_loop_of_links_ends_and_every_folder_counts_once(tmp_path: Path) -> None:
    root, big = tmp_path / "root", tmp_path / "big"
    write(root / "z" / "1.wav", big / "2.wav")
    (root / "a").symlink_to(root / "z")  # sorts before the real folder, which counts all the same
    (root / "z" / "up").symlink_to(root)
    (root / "m").symlink_to(big)
    (big / "n").symlink_to(big)
    found = find_files(root, is_wanted)
    assert found.files == [root / "m" / "2.wav", root / "z" / "1.wav"]
    assert found.links == [root / "m"]
    assert found.repeated == [root / "a", root / "m" / "n", root / "z" / "up"]


def test_what_is_hidden_and_what_leads_nowhere_is_told(tmp_path: Path) -> None:
    write(
        tmp_path / ".Trash" / "1.wav",
        tmp_path / "._2.wav",
        tmp_path / ".note.txt",
        tmp_path / "lost+found" / "3.wav",
        tmp_path / "4.wav",
    )
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    (tmp_path / "self.wav").symlink_to(tmp_path / "self.wav")
    found = find_files(tmp_path, is_wanted)
    assert found.files == [tmp_path / "4.wav"]
    assert [path.name for path in found.hidden] == [".Trash", "._2.wav", "lost+found"]
    assert [path.name for path in found.broken] == ["gone", "self.wav"]


def test_a_hidden_folder_that_is_asked_for_is_searched(tmp_path: Path) -> None:
    write(tmp_path / ".cache" / "corpus" / "1.wav")
    assert find_files(tmp_path / ".cache", is_wanted).files == [tmp_path / ".cache" / "corpus" / "1.wav"]


def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "closed" / "1.wav")
    listed = os.scandir

    def refuse(path: Path) -> object:
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied")
        return listed(path)

    monkeypatch.setattr(os, "scandir", refuse)  # root may list everything
    with pytest.raises(UserError, match="closed: cannot be listed: Permission denied"):
        find_files(tmp_path, is_wanted)
