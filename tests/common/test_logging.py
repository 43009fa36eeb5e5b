"""Of several processes the first one speaks; the others speak of errors and of their own share."""

import re
from pathlib import Path

import pytest

from kdasr.common.logging import OWN_SHARE, get_logger, setup_logging


@pytest.mark.parametrize("is_first", [True, False])
def test_other_processes_speak_of_their_own_share_alone(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], is_first: bool
) -> None:
    path = tmp_path / "train.log"
    setup_logging(path, is_first=is_first)
    assert path.exists() == is_first  # the first process makes the folder
    log = get_logger("kdasr.test")
    log.info("for all")
    log.warning("for all")
    log.warning("left out", extra=OWN_SHARE)
    log.error("broken")
    setup_logging()
    expected = ["for all", "for all", "left out", "broken"] if is_first else ["left out", "broken"]
    for text in (path.read_text(), capfd.readouterr().err):
        assert re.findall("for all|left out|broken", text) == expected
