"""`tools/`: what a user can mend is one line and another status than 0, and no number stands for nothing."""

import json
import runpy
import sys
from pathlib import Path

import explain_long_form
import numpy as np
import pytest
import soundfile
from lhotse import Recording

from kdasr.data.features import SAMPLE_RATE
from kdasr.data.tokenizer import Tokenizer
from kdasr.evaluation import evaluate

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


def write_decoded(exp: Path, row: str, seed: int, name: str = "a", times: bool = True) -> None:
    """A row that has said the one word of an utterance."""
    folder = exp / f"seed-{seed}" / row / "decode" / "streaming" / "test-clean"
    folder.mkdir(parents=True)
    utterance = {
        "id": name,
        "speaker": "s",
        "ref_words": [{"word": "ONE", "start": 0.1, "end": 0.4}] if times else [],
        "words": [{"word": "ONE", "ref_index": 0}],
        "tokens": [{"piece": "\u2581ONE", "frame": 4}],
        "first_token_ms": 100.0,
    }
    (folder / "utterances.jsonl").write_text(f"{json.dumps(utterance)}\n")


@pytest.mark.filterwarnings("ignore:Mean of empty slice", "ignore:invalid value")
def test_rows_are_compared_where_they_have_seeds_and_utterances_in_common(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = ("streaming-init", "shared", "other-seed", "other-data", "untimed")
    found = [{"row": row, "learning_rate": 0.001} for row in rows]
    (tmp_path / "summary.json").write_text(json.dumps({"rows": found}))
    write_decoded(tmp_path, rows[0], 1)
    write_decoded(tmp_path, rows[1], 1)
    write_decoded(tmp_path, rows[2], 2)
    write_decoded(tmp_path, rows[3], 1, name="b")
    write_decoded(tmp_path, rows[4], 1, times=False)
    run(monkeypatch, "explain_results.py", str(tmp_path), "--parts", "test-clean")
    described, compared = capsys.readouterr().out.split("fewer homophones")
    assert [row for row in rows if f"| `{row}` |" in described] == list(rows[:4])
    lines = [line.split(" | ") for line in compared.splitlines() if line.startswith("| `")]
    assert [line[0].strip("| `") for line in lines] == list(rows[1:4])
    assert lines[0][3].startswith("+0.0 ") or "nan" in lines[0][3]
    assert [line[1] for line in lines[1:]] == ["no seed in common", "no utterance in common"]
    for options, message in (
        (["--against", "gone"], "--against gone: no such row; there are: streaming-init, shared"),
        (["--parts", "dev"], "no row has decoded utterances of 'dev' with word times"),
    ):
        with pytest.raises(SystemExit, match=message):
            run(monkeypatch, "explain_results.py", str(tmp_path), *options)


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


def test_a_peer_that_does_not_fit_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a small GPU the other rows are measured all the same."""
    pytest.importorskip("triton")
    import bench_gpu
    import torch

    real, full = bench_gpu.Case, iter([False, False, False, True])

    def peak_mib(function: object, case: object) -> float:
        if next(full, False):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return 1.0

    monkeypatch.setattr(bench_gpu, "Case", lambda shape, device, dtype: real(shape, "cpu", dtype))
    monkeypatch.setattr(bench_gpu, "peak_mib", peak_mib)
    monkeypatch.setattr(bench_gpu, "timed", lambda function, case: 1.0)
    monkeypatch.setattr(bench_gpu, "floor_ms", lambda shape, joiners: 1.0)
    rows = bench_gpu.measure_shape((2, 12, 6, 10))
    assert [row.get("left_out", row.get("time_ratio")) for row in rows] == [1.0, "out of memory", 1.0, 1.0]


def test_long_utterances_can_be_joined(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decoding reads those above 300 s as they are heard."""
    monkeypatch.setattr(evaluate, "_LONG_SECONDS", 0.1)
    soundfile.write(tmp_path / "a.wav", np.full(SAMPLE_RATE, 0.5, np.float32), SAMPLE_RATE)
    cut = Recording.from_file(tmp_path / "a.wav").to_cut()
    samples_N, borders = explain_long_form.joined([explain_long_form.load(cut, tokenizer)] * 2, gap=1.0)
    assert (len(samples_N), borders) == (3 * SAMPLE_RATE, [1.5])
