"""Where numbers go while training: `metrics.jsonl`, tensorboard, and the terminal."""

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from kdasr.common.logging import console, get_logger

logger = get_logger(__name__)

DEV_SCORES = {
    "wer": "WER {:.2f} %",
    "cer": "CER {:.2f} %",
    "ppl": "perplexity {:.3f} per piece",
    "word_ppl": "{:.2f} per word",
}
"""What validation may measure besides losses, and how a terminal shows it."""


class Meter:
    """Running sums of a window of optimizer steps. They stay on the device until the window is logged."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: Counter[str] = Counter()
        """Steps that had the value: paired and unpaired batches have different terms."""
        self.steps = 0
        self.audio_seconds = 0.0
        self.seconds = 0.0

    def add(self, values: dict[str, Tensor], audio_seconds: float, seconds: float) -> None:
        """One optimizer step: scalar tensors, the audio in its batches, and the time it took."""
        for name, value in values.items():
            value = value.detach().double()
            self.sums[name] = self.sums[name] + value if name in self.sums else value
            self.counts[name] += 1
        self.steps += 1
        self.audio_seconds += audio_seconds
        self.seconds += seconds

    def state_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "sums": {name: float(value) for name, value in self.sums.items()},
            "counts": dict(self.counts),
            "steps": self.steps,
            "audio_seconds": self.audio_seconds,
            "seconds": self.seconds,
        }

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        """Continue the window of `state_dict`."""
        self.sums = {
            name: torch.tensor(value, dtype=torch.float64, device=device)
            for name, value in state["sums"].items()
        }
        self.steps = state["steps"]
        # Checkpoints from before there were counts: every step had every value.
        self.counts = Counter(state.get("counts", dict.fromkeys(self.sums, self.steps)))
        self.audio_seconds = state["audio_seconds"]
        self.seconds = state["seconds"]

    def means(self, fabric: Fabric) -> tuple[dict[str, float], float]:
        """Means over all processes and the steps that had a value, and the hours of audio per second."""
        names = sorted(self.sums)
        audio = torch.tensor(self.audio_seconds, dtype=torch.float64, device=fabric.device)
        stacked = torch.stack([*(self.sums[name] for name in names), audio])
        reduced = fabric.all_reduce(stacked, reduce_op="sum") if fabric.world_size > 1 else stacked
        assert isinstance(reduced, Tensor)
        *sums, audio_seconds = reduced.tolist()
        scales = [1 / (self.counts[name] * fabric.world_size) for name in names]
        means = {name: value * scale for name, value, scale in zip(names, sums, scales, strict=True)}
        return means, audio_seconds / 3600 / max(self.seconds, 1e-9)


class MetricsWriter:
    """Appends rows to `metrics.jsonl` and the same numbers to tensorboard. Only on the first process."""

    def __init__(self, exp_dir: Path, first_step: int) -> None:
        # Imported here: it takes a second, and other verbs import this package.
        from torch.utils.tensorboard import SummaryWriter

        self._path = exp_dir / "metrics.jsonl"
        self._tensorboard = SummaryWriter(str(exp_dir / "tensorboard"), purge_step=first_step)

    def write(self, row: dict[str, Any]) -> None:
        """One row, see the experiment folder's description for its fields."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(_finite(row), allow_nan=False) + "\n")
        split, step = row["split"], row["step"]
        for name in ("total", "lr", "grad_norm", *DEV_SCORES, "audio_hours_per_second"):
            if name in row:
                self._tensorboard.add_scalar(f"{split}/{name}", row[name], step)
        for name, value in row["terms"].items():
            self._tensorboard.add_scalar(f"{split}/terms/{name}", value, step)

    def close(self) -> None:
        """Flush tensorboard's queue."""
        self._tensorboard.close()


def _finite(value: Any) -> Any:
    """The same value with None for what JSON has no number for."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


class Display:
    """A plain line per logged row; below them, on a terminal, a progress bar."""

    def __init__(self, enabled: bool) -> None:
        self._enabled = enabled
        self._bar: Progress | None = None
        if enabled and console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, console=console, transient=True)
            self._task = self._bar.add_task("")

    def begin(self, stage: str, step: int, num_steps: int) -> None:
        """Show a stage that stands at `step` of `num_steps`."""
        if self._bar is not None:
            self._bar.start()
            self._bar.reset(self._task, description=stage, completed=step, total=num_steps)

    def advance(self) -> None:
        """One optimizer step."""
        if self._bar is not None:
            self._bar.advance(self._task)

    def show(self, row: dict[str, Any], num_steps: int) -> None:
        """A logged row, as a line."""
        if not self._enabled:
            return
        terms = " ".join(f"{name} {value:.4g}" for name, value in row["terms"].items())
        if row["split"] == "train":
            numbers = f"loss {row['total']:.4g} ({terms}) grad {row['grad_norm']:.3g} lr {row['lr']:.2e}"
            speed = row["audio_hours_per_second"] * 3600
            line = f"{numbers} {speed:.0f}x real time" if speed else numbers  # text takes no time to hear
        else:
            scores = ", ".join(form.format(row[name]) for name, form in DEV_SCORES.items() if name in row)
            line = f"dev {scores} loss {row['total']:.4g} ({terms})"
        logger.info("%s %d/%d: %s", row["stage"], row["stage_step"], num_steps, line)

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()
