"""`tools/`: what a user can mend is one line and another status than 0."""

import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(monkeypatch: pytest.MonkeyPatch, tool: str, *arguments: str) -> None:
    """A tool, as `python tools/TOOL ARGUMENTS` runs it."""
    monkeypatch.setattr(sys, "argv", [f"tools/{tool}", *arguments])
    runpy.run_path(str(ROOT / "tools" / tool), run_name="__main__")


@pytest.mark.parametrize(
    ("tool", "arguments", "missing"),
    [
        ("bench_loss.py", "", "build/fast_rnnt; `python tools/build_fast_rnnt.py` makes one"),
        ("bench_lpm.py", "", "exp/demo/teacher; `make demo` makes one"),
        ("bench_lpm.py", "--model . --data .", "exp/lm/demo; `make lm` makes one"),
        ("bench_search.py", "gone", "gone; `make demo` makes one"),
        ("bench_serve.py", "", "exp/demo/two-stage/export; `make demo` makes one"),
        ("bench_stream.py", "", "exp/demo/two-stage; `make demo` makes one"),
        ("explain_labels.py", "", "exp/lpm; `make lpm` makes one"),
        ("explain_long_form.py", "gone --data .", "gone; `make demo` makes one"),
        ("explain_results.py", "", "exp/results/summary.json; `make results` makes one"),
        ("explain_smoothing.py", ". --teacher gone --data .", "gone; `make demo` makes one"),
        ("half_hour_stream.py", ". --data gone", "gone; `make demo` makes one"),
        ("hours_served.py", "", "exp/demo/two-stage/export; `make demo` makes one"),
        ("stream_memory.py", ".", "data/demo; `make demo` makes one"),
    ],
)
def test_what_is_missing_is_said_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tool: str, arguments: str, missing: str
) -> None:
    for name in ("sherpa_onnx",) * (tool == "bench_stream.py") + ("websockets",) * ("serve" in tool):
        pytest.importorskip(name)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, tool, *arguments.split())
    assert ended.value.code == f"{tool}: error: there is no {missing}"


def test_other_faults_are_one_line_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown configuration, a folder without a model, a command that fails."""
    from benchmarking import Worker, run_tool

    monkeypatch.chdir(tmp_path)
    for tool, arguments in (("mode_steps.py", "plain gone 1"), ("bench_search.py", ".")):
        with pytest.raises(SystemExit, match=f"^{tool}: error: ") as ended:
            run(monkeypatch, tool, *arguments.split())
        assert "\n" not in str(ended.value.code)
    with pytest.raises(SystemExit, match="false` ended with status 1"):
        run_tool(lambda: Worker(["false"]))


def test_a_benchmark_that_finds_a_wrong_value_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The result is written all the same."""
    pytest.importorskip("triton")
    import torch
    from bench_gpu import check_result, largest_error
    from benchmarking import run_benchmark

    exact, off = torch.tensor([1.0, 2.0]).double(), torch.tensor([1.0, 2.2])
    assert largest_error([exact, None], [exact.float(), None]) == 0.0
    assert largest_error([exact, exact], [exact.float(), off]) == pytest.approx(0.1)
    assert largest_error([exact, exact], [off, None]) == torch.inf
    worst = largest_error([exact, exact], [off, torch.full((2,), torch.nan)])
    assert worst != worst

    def result(error: float) -> dict[str, object]:
        return {"checks": [{"shape": [1, 2], "what": "error", "simple gradients": error}], "rows": []}

    monkeypatch.setattr(sys, "argv", ["bench_gpu.py", "--out", str(tmp_path / "gpu.json")])
    run_benchmark("x", lambda: result(1e-5), "", check_result)
    for error in (1e-3, torch.inf, worst):
        with pytest.raises(SystemExit, match=r"^bench_gpu.py: error: .* simple gradients .* at \(1, 2\)"):
            run_benchmark("x", lambda: result(error), "", check_result)  # noqa: B023
        assert "simple gradients" in (tmp_path / "gpu.json").read_text()
