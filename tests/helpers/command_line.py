"""The `kdasr` command in the process of the test."""

import torch
from click.testing import CliRunner, Result

from kdasr.cli.main import cli


def kdasr(*arguments: object) -> Result:
    """What the command gives; torch has as many threads afterwards as before."""
    threads = torch.get_num_threads()
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    torch.set_num_threads(threads)
    return result


def well(*arguments: object) -> str:
    """The output of a command that must not fail."""
    result = kdasr(*arguments)
    if result.exception is not None:
        raise result.exception
    return result.output
