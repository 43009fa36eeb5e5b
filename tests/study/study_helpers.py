"""A small recipe with rows, prepared data that only has names, and a stand-in for the `kdasr` command."""

import gzip
import json
import sys
from pathlib import Path
from typing import Any

import yaml

from kdasr.study.jobs import Study
from kdasr.study.plan import Planner
from kdasr.study.recipe import load_recipe

STUDENT = {"contexts": [{"left": 8, "chunk": 4}], "objective": {"teacher": "teacher"}}
STAND_IN = """
import json, re, sys
from pathlib import Path

with open({calls!r}, "a") as file:
    file.write(" ".join(sys.argv[1:]) + "\\n")
verb, arguments = sys.argv[1], sys.argv[2:]
options = dict(zip(arguments, arguments[1:]))
if verb == "train":
    exp = Path(options["--exp"])
    exp.mkdir(parents=True, exist_ok=True)
    (exp / "config.yaml").write_text(Path(options["--config"]).read_text())
    rows = [{{"split": "valid", "step": i, "wer": 40.0 / i, "stage_step": i}} for i in (1, 2, 3, 4)]
    (exp / "metrics.jsonl").write_text("".join(json.dumps(row) + "\\n" for row in rows))
elif verb == "calibrate":
    assert (Path(arguments[0]) / "checkpoints" / "averaged.pt").is_file()
elif verb == "average":
    (Path(arguments[0]) / "checkpoints").mkdir(exist_ok=True)
    (Path(arguments[0]) / "checkpoints" / "averaged.pt").touch()
else:
    exp, mode = Path(arguments[0]), options["--mode"]
    config = (exp / "config.yaml").read_text()
    rate = float(re.search(r"optim:.*?learning_rate: (\\S+)", config, re.DOTALL)[1])
    seed = int(re.search(r"^seed: (\\d+)", config, re.MULTILINE)[1])
    # The best learning rate is 0.002, and a teacher is better than a student.
    wrong = 1 if mode == "offline" else 2 + round(abs(rate - 0.002) * 1000)
    if "--lm" in options:
        model = Path(options["--lm"])
        assert model.is_file() or (model / "checkpoints" / "averaged.pt").is_file()
        wrong *= 2
    for part in options["--parts"].split():
        folder = Path(options.get("--out", exp / "decode")) / mode / part
        folder.mkdir(parents=True, exist_ok=True)
        errors = {{"sub": wrong, "ins": 0, "del": 0}}
        rows = [
            {{
                "id": str(i), "duration": 1.0, "ref": "a", "hyp": "b", "errors": {{**errors, "words": 10}},
                "first_word_ms": 120.0 + seed + i, "first_word_wall_ms": None, "first_token": "right",
                "first_token_ms": 100.0 + seed + i, "emission_delay_ms": [50.0], "finalization_ms": 20.0,
            }}
            for i in range(4)
        ]
        (folder / "utterances.jsonl").write_text("".join(json.dumps(row) + "\\n" for row in rows))
        errors["sub"] *= len(rows)
        (folder / "summary.json").write_text(
            json.dumps({{
                "errors": errors, "num_words": 40, "num_utterances": len(rows),
                "search": options.get("--search", "greedy"), "language_model": options.get("--lm"),
                "biasing_sha256": options.get("--biasing"),
            }})
        )
"""


def recipe(**results: Any) -> dict[str, Any]:
    """A recipe as its YAML file states it; `results` replaces options of its section."""
    steps = {"num_steps": 2, "loss_weights": {"rnnt": 1.0, "ctc": 0.5}}
    with_kl = {**steps, "num_steps": 1, "loss_weights": {"rnnt": 1.0, "output_kl": 0.3}}
    return {
        "training": {"optim": {"learning_rate": 1.0e-3}},
        "report": {"teacher": "teacher", "baselines": ["streaming", "streaming-init"]},
        "systems": {
            "teacher": {"stages": [{"name": "train", "num_steps": 3}]},
            "streaming": {"contexts": STUDENT["contexts"], "stages": [{"name": "train", **steps}]},
            "two-stage": {
                **STUDENT,
                "stages": [
                    {"name": "hidden", **with_kl, "loss_weights": {"hidden_mse": 1.0}},
                    {"name": "output", **with_kl, "learning_rate": 5.0e-4},
                ],
            },
        },
        "results": {
            "seeds": [1, 2],
            "rows": {
                "teacher": None,
                "streaming": {"init": "scratch"},
                "streaming-init": {"system": "streaming", "init": "teacher"},
                "two-stage": {"init": "teacher"},
            },
            **results,
        },
    }


def write_recipe(path: Path, **results: Any) -> Path:
    """Write `recipe` as YAML."""
    path.write_text(yaml.safe_dump(recipe(**results), sort_keys=False))
    return path


def write_data(folder: Path) -> Path:
    """What tells one prepared data folder from another."""
    (folder / "tokens").mkdir(parents=True)
    (folder / "tokens" / "bpe.model").write_bytes(b"pieces")
    (folder / "feature_stats.json").write_text(json.dumps({"mean": []}))
    for part in ("train-clean-100", "train-clean-360", "dev-clean", "test-clean", "test-other"):
        (folder / f"cuts_{part}.jsonl.gz").write_bytes(gzip.compress(part.encode()))
    return folder


def make_study(folder: Path, **results: Any) -> Study:
    """A study whose `kdasr` is the stand-in, which notes its calls in `folder`/calls."""
    script = folder / "kdasr.py"
    script.write_text(STAND_IN.format(calls=str(folder / "calls")))
    if not (folder / "data").exists():
        write_data(folder / "data")
    path = write_recipe(folder / "conf.yaml", **results)
    # Without site packages, as it is started so often.
    planner = Planner(load_recipe(path), folder / "data", folder / "exp")
    return Study(planner, (sys.executable, "-S", "-E", str(script)))


def calls(folder: Path) -> list[str]:
    """The stand-in's calls so far, in order."""
    path = folder / "calls"
    return path.read_text().splitlines() if path.exists() else []
