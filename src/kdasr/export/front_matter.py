"""The YAML header of a published card, which Hugging Face reads."""

from collections.abc import Sequence
from typing import Any

from omegaconf import OmegaConf

from kdasr.export.facts import Facts

TASK = "automatic-speech-recognition"


def front_matter(facts: Facts) -> list[str]:
    """The header as lines, with the `---` around it.

    Results with a word error rate become a `model-index`, so that the page of the model shows them.
    """
    way = "streaming" if facts["latency_ms"] else "offline"
    header: dict[str, Any] = {
        "license": facts["license"],
        "library_name": "sherpa-onnx",
        "pipeline_tag": TASK,
        "tags": [TASK, "sherpa-onnx", "onnx", "transducer", way, "kdasr"],
    }
    if facts["language"]:
        header["language"] = [facts["language"]]
    rows = [row for row in facts["results"] if row["wer"] is not None and row["mode"] == "streaming"]
    if rows:
        header["metrics"] = ["wer"]
        header["model-index"] = [{"name": facts["system"], "results": _results(rows)}]
    text = OmegaConf.to_yaml(OmegaConf.create(header)).rstrip()
    return ["---", *text.splitlines(), "---", ""]


def _results(rows: Sequence[Facts]) -> list[dict[str, Any]]:
    return [
        {
            "task": {"type": TASK, "name": "Automatic Speech Recognition"},
            "dataset": {"type": row["part"], "name": row["part"], "split": row["part"]},
            "metrics": [
                {"type": "wer", "name": f"WER, {row['search']} search", "value": round(row["wer"], 2)}
            ],
        }
        for row in rows
    ]
