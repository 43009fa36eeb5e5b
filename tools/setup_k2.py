"""Installs k2 for the torch of this environment, from k2's own wheel index: `make setup-k2`.

k2's wheels are built for one torch version and one CUDA version each, so pip is given the very version;
nothing else of the environment changes.
"""

import argparse
import subprocess
import sys

import torch

K2_VERSION = "1.24.4.dev20260625"
GRAPHVIZ_VERSION = "0.21"  # k2 imports it
INDEX = "https://k2-fsa.github.io/k2/{device}.html"
REPORT = (
    "from kdasr.losses.pruned_rnnt.backend import choose_backend; choice = choose_backend('auto'); "
    "print(f'{choice.backend.name} ({choice.reason})')"
)


class SetupError(Exception):
    """What went wrong, in one line."""


def wanted_version(build: str | None) -> str:
    """The k2 version to install.

    Args:
        build: `cpu`, `cuda12.8`, ... or a whole version of the index; None: CUDA where torch has a device.
    """
    if build and "+" in build:
        return build
    if not build:
        build = f"cuda{torch.version.cuda}" if torch.cuda.is_available() else "cpu"
    return f"{K2_VERSION}+{build}.torch{torch.__version__.split('+')[0]}"


def install(version: str) -> None:
    """Install that version.

    Raises:
        SetupError: the index cannot be reached, or it has no such wheel.
    """
    index = INDEX.format(device="cpu" if "+cpu" in version else "cuda")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--retries", "1"]
    packages = [f"k2=={version}", f"graphviz=={GRAPHVIZ_VERSION}"]
    command = [*pip, "install", "--no-deps", "--find-links", index, *packages]
    print(f"setup-k2: installing k2 {version} from {index}", flush=True)
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode == 0:
        return
    output = result.stdout + result.stderr
    # pip goes on without an index that it does not reach, and then misses the version.
    if "connection broken" in output or "Could not fetch URL" in output:
        reason = f"{index} cannot be reached from here"
    elif "No matching distribution" in output:
        reason = (
            f"{index} has no such wheel for this Python; choose one there: make setup-k2 K2_BUILD=VERSION"
        )
    else:
        reason = output.strip().splitlines()[-1] if output.strip() else "pip says nothing"
    raise SetupError(f"k2 {version} is not installed: {reason}")


def check() -> str:
    """What `backend: auto` selects now, found out by a new process.

    Raises:
        SetupError: it is not k2.
    """
    result = subprocess.run([sys.executable, "-c", REPORT], capture_output=True, text=True, check=False)
    report = (result.stdout or result.stderr).strip().splitlines()[-1:]
    if result.returncode or not result.stdout.startswith("k2 "):
        raise SetupError(f"k2 is installed but not in use: {' '.join(report)}")
    return report[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "build", nargs="?", help="cpu | cuda12.8 | ... | a whole version; default: as torch is"
    )
    try:
        install(wanted_version(parser.parse_args().build))
        print(f"setup-k2: the pruned RNN-T losses are now {check()}")
    except SetupError as error:
        sys.exit(f"setup-k2: {error}. Nothing else changes: kdasr goes on with its native loss.")


if __name__ == "__main__":
    main()
