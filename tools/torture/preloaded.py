"""What commands of `kdasr` import, for the process that they are forked from."""

import importlib
import pkgutil
from contextlib import suppress

import kdasr

_LEFT_OUT = ("kdasr.__main__", "kdasr.recognition.microphone")

for module in pkgutil.walk_packages(kdasr.__path__, "kdasr."):
    if module.name not in _LEFT_OUT:
        with suppress(ImportError):  # what is not installed is not used
            importlib.import_module(module.name)
