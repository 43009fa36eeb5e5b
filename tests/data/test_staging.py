"""Workers that prepare a corpus: one of them dies."""

import os
import signal

import pytest

from kdasr.common.errors import UserError
from kdasr.data.staging import Workers


def die_at_two(item: int) -> int:
    if item == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def test_a_killed_worker_is_one_line() -> None:
    """Without it, nobody would know why the work ends, or would wait for it for ever."""
    with Workers(2) as workers, pytest.raises(UserError, match=r"worker process was killed.*fewer --jobs"):
        list(workers.map(die_at_two, [1, 2, 3]))
    with Workers(2) as workers:
        assert list(workers.map(die_at_two, [3, 4, 5])) == [3, 4, 5]
