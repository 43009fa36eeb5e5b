"""Signals: a handler that runs in the middle of a product of matrices changes nothing of it."""

import subprocess
import sys

# Many signals into products of the forms that training has: few outputs, many rows to sum over.
PROGRAM = """
import signal
import torch
from kdasr.common.signals import handling_stops
from kdasr.nn.linear import transposed_product

signal.signal(signal.SIGALRM, lambda *_: None)
torch.set_num_threads(1)
with handling_stops(lambda *_: None):
    for rows, left, right in ((1036, 128, 384), (518, 128, 81), (2000, 128, 128)):
        factors = torch.randn(rows, left), torch.randn(rows, right)
        expected = transposed_product(*factors)
        signal.setitimer(signal.ITIMER_REAL, 3e-4, 3e-4)
        assert all(torch.equal(transposed_product(*factors), expected) for _ in range(400))
        signal.setitimer(signal.ITIMER_REAL, 0)
"""


def test_a_signal_in_the_middle_of_a_product_changes_nothing_of_it() -> None:
    # A process of its own: pytest has a stack for signals already.
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
