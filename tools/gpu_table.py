"""Put what `tools/gpu_check.sh` has measured into a document: `python tools/gpu_table.py OUT DOCUMENT`."""

import sys
from pathlib import Path
from typing import Any

from kdasr.common.files import read_json, write_text

BEGIN, END = "<!-- gpu -->", "<!-- /gpu -->"
RUNS = {
    "epoch": "one epoch of `base`'s teacher, 20 h at three speeds, bf16",
    "nccl": "20 steps of it in two processes (NCCL)",
    "memory": "20 steps of the 76 M model, batches of 600 s, bf16",
}


def table(out: Path) -> str:
    """The steps that have been run, and the kernels' rows.

    Raises:
        SystemExit: there are none.
    """
    names = (*RUNS, "kernels")
    if not any((out / f"{name}.json").is_file() for name in names):
        raise SystemExit(f"{out}: no results of {', '.join(names)}: nothing was measured")
    lines = ["| run | s | peak memory, MiB | device |", "|---|---|---|---|"]
    for name, what in RUNS.items():
        path = out / f"{name}.json"
        if path.is_file():
            found = read_json(path)
            cells = what, f"{found['seconds']:.0f}", f"{found['peak_mib']:.0f}", found["device"]
            lines.append(f"| {' | '.join(cells)} |")
    kernels = out / "kernels.json"
    if kernels.is_file():
        measured = read_json(kernels)
        lines += ["", *(_line(row) for rows in measured.values() if isinstance(rows, list) for row in rows)]
    return "\n".join(lines)


def _line(row: dict[str, Any]) -> str:
    """A row of the benchmark."""
    return f"- {', '.join(f'{name}: {_cell(value)}' for name, value in row.items())}"


def _cell(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def main() -> None:
    """Replace what stands between the marks of the document."""
    out, document = Path(sys.argv[1]), Path(sys.argv[2])
    text = document.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, mark, after = rest.partition(END)
    if not mark:
        raise SystemExit(f"{document}: no lines {BEGIN} and {END}")
    write_text(document, f"{before}{BEGIN}\n{table(out)}\n{END}{after}")


if __name__ == "__main__":
    main()
