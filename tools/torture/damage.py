"""Damaged files, one after another in a child process, which may crash."""

import multiprocessing
import os
import resource
import signal
from collections import Counter
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from random import Random
from typing import Any

from kdasr.common.errors import UserError
from torture.kinds import Kind

SECONDS, PATIENCE = 20, 600
"""For one file: of a processor, and by the clock of a machine that is busy otherwise. More is a hang."""
MEMORY = 12 << 30
"""Bytes of address space; a header that claims more must not be believed."""
REFUSED, RIGHT = "refused", "right"


@dataclass
class Tally:
    """What became of the damaged files of a kind."""

    tries: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    """A line each: the damage and what was wrong with the answer."""


def damage(kind: Kind, tries: int, seed: int) -> Tally:
    """Damage a file `tries` times; it is whole again afterwards."""
    whole = kind.path.read_bytes()
    expected = kind.read()
    tally = Tally()
    fork = multiprocessing.get_context("fork")
    try:
        while tally.tries < tries:
            ours, theirs = fork.Pipe(duplex=False)
            span = (tally.tries, tries, seed)
            child = fork.Process(target=_try_all, args=(kind, whole, expected, span, theirs))
            child.start()
            theirs.close()
            _collect(ours, tally)
            child.join()
            if tally.tries < tries:  # it died of one of them
                mutation, _ = _damaged(kind, whole, seed, tally.tries)
                tally.outcomes["crash"] += 1
                tally.faults.append(f"{kind.name} {tally.tries} ({mutation}): crash, status {child.exitcode}")
                tally.tries += 1
    finally:
        kind.path.write_bytes(whole)
    return tally


def _collect(ours: Connection, tally: Tally) -> None:
    while True:
        try:
            outcome, fault = ours.recv()
        except EOFError:
            return
        tally.tries += 1
        tally.outcomes[outcome] += 1
        if fault:
            tally.faults.append(fault)


def _damaged(kind: Kind, whole: bytes, seed: int, number: int) -> tuple[str, bytes]:
    """The name of a mutation, and the file after it; never the whole file."""
    draws = Random(f"{seed}:{kind.name}:{number}")
    while True:
        mutation = draws.choice(kind.mutations)
        content = mutation(whole, draws)
        if content != whole:
            return mutation.__name__, content


def _try_all(
    kind: Kind, whole: bytes, expected: Any, span: tuple[int, int, int], results: Connection
) -> None:
    """The damages of a span: first, last and seed."""
    first, last, seed = span
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    for clock in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(clock, _hang)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # decoders in C complain there
    for number in range(first, last):
        mutation, content = _damaged(kind, whole, seed, number)
        kind.path.write_bytes(content)
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        signal.alarm(PATIENCE)
        outcome, what = _try(kind, content, expected)
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
        good = outcome in (REFUSED, RIGHT)
        results.send((outcome, "" if good else f"{kind.name} {number} ({mutation}): {outcome}: {what}"))


def _hang(*_: object) -> None:
    raise TimeoutError(f"no answer within {SECONDS} s")


def _try(kind: Kind, content: bytes, expected: Any) -> tuple[str, str]:
    """What became of it, and the reason where that is a fault."""
    try:
        value = kind.read()
    except UserError as error:
        return ("several lines", repr(str(error))) if "\n" in str(error) else (REFUSED, "")
    except Exception as error:
        return "traceback", f"{type(error).__name__}: {error}"[:200]
    if value == expected:
        return RIGHT, ""
    try:
        allowed = kind.allowed(content, value)
    except Exception as error:
        return "wrong", f"another reading fails ({type(error).__name__}: {error}): {value!r:.120}"
    return (RIGHT, "") if allowed else ("wrong", f"{value!r:.160}")
