"""Builds fast_rnnt (the k2 authors' standalone pruned RNN-T loss), a peer of the benchmarks.

The package's own build does not work with current torch, so its three CPU sources are compiled here as one
extension. Needs g++.
"""

import argparse
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from pathlib import Path

import torch
from benchmarking import run_tool
from torch.utils import cpp_extension

from kdasr.common.errors import UserError

VERSION = "1.3"
ARCHIVE = f"fast_rnnt-{VERSION}.tar.gz"
SOURCES = (
    "python/csrc/fast_rnnt.cu",
    "python/csrc/mutual_information.cu",
    "csrc/mutual_information_cpu.cu",
)


def build(folder: Path) -> None:
    """Leave an importable `fast_rnnt` package and its extension in `folder`; nothing to do if it is there."""
    stamp = folder / f"built-{VERSION}-torch-{torch.__version__}"
    if stamp.exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as scratch:
        source = _download(Path(scratch))
        print(f"compiling fast_rnnt {VERSION}", file=sys.stderr)
        _compile(source, folder)
        shutil.copytree(source / "fast_rnnt/python/fast_rnnt", folder / "fast_rnnt")
    stamp.touch()


def _download(scratch: Path) -> Path:
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    command = [*pip, "download", "--no-deps", "--no-binary", ":all:", f"fast_rnnt=={VERSION}"]
    result = subprocess.run(command, cwd=scratch, capture_output=True, text=True, check=False)
    if result.returncode:
        raise UserError(f"pip does not get fast_rnnt {VERSION}:\n{result.stderr[-2000:]}")
    with tarfile.open(scratch / ARCHIVE) as archive:
        archive.extractall(scratch, filter="data")
    return scratch / ARCHIVE.removesuffix(".tar.gz")


def _compile(source: Path, folder: Path) -> None:
    """One shared object from the CPU sources, at the optimization level of the package's own build."""
    libraries = [f"-L{path}" for path in cpp_extension.library_paths()]
    includes = [source, *cpp_extension.include_paths(), sysconfig.get_path("include")]
    command = [
        *("g++", "-x", "c++", "-std=c++17", "-O3", "-shared", "-fPIC", "-w"),
        "-DTORCH_EXTENSION_NAME=_fast_rnnt",
        *(f"-I{path}" for path in includes),
        *(str(source / "fast_rnnt" / name) for name in SOURCES),
        *("-x", "none", *libraries, "-ltorch", "-ltorch_cpu", "-ltorch_python", "-lc10"),
        *("-o", str(folder / f"_fast_rnnt{sysconfig.get_config_var('EXT_SUFFIX')}")),
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise UserError(f"fast_rnnt did not compile:\n{result.stderr[-2000:]}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/fast_rnnt"))
    out = parser.parse_args().out
    run_tool(lambda: build(out))
