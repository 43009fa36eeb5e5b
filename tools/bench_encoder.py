"""Encoders: chunked training against the full context, and the Zipformer2 of the demo against its conformer.

The first ratio falls with the length of utterances where full attention is quadratic; chunked time per frame
stays level. The other rows are a training step, and the real-time factor of a stream in onnxruntime, of both
encoders as `demo.yaml` and `demo-zipformer.yaml` have them.
"""

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from benchmarking import CONF, paired_ratio, run_benchmark

from kdasr.experiment.recipe_file import load_experiment
from kdasr.export.build import encoder_graph
from kdasr.export.onnx_files import write_encoder
from kdasr.models.encoders.conformer import ConformerConfig
from kdasr.models.transducer.build import build_transducer
from kdasr.models.transducer.model import Transducer
from kdasr.models.transducer.transducer_config import TransducerConfig
from kdasr.nn.context import Context

SECONDS = [4, 16, 64]
STUDENT = Context(left=32, chunk=8, right=0)
STREAMED_SECONDS = 20


def measure_length(seconds: int) -> dict[str, Any]:
    torch.manual_seed(0)
    model = build_transducer(TransducerConfig(vocab_size=100, encoder=ConformerConfig(num_layers=4, dim=128)))
    batch = max(64 // seconds, 1)
    chunked, full = (training_step(model, context, batch, seconds) for context in (STUDENT, Context.full()))
    row = paired_ratio(chunked, full, runs=5)
    return {"utterance_seconds": seconds, "batch": batch, "against": "full context", **row}


def training_step(model: Transducer, context: Context, batch: int, seconds: int) -> Callable[[], None]:
    """Forward and backward through the encoder."""
    features = torch.randn(batch, 100 * seconds, 80)
    lens = torch.full((batch,), 100 * seconds)

    def step() -> None:
        model.zero_grad()
        model.encode(features, lens, context).encoded_BTD.square().mean().backward()

    return step


def stream(model: Transducer, folder: Path) -> Callable[[], None]:
    """The exported encoder over one stream, window by window."""
    path = folder / f"{model.config.encoder.type}.onnx"
    graph = encoder_graph(model.eval(), STUDENT)
    write_encoder(graph, 80, path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = list(graph.inputs)
    window, *states = graph.example(1, 80)
    inputs = [torch.randn_like(window)]
    for state in states:
        inputs += state if isinstance(state, list) else [state]
    chunks = round(STREAMED_SECONDS / (0.04 * STUDENT.chunk))

    def run() -> None:
        arrays = [value.numpy() for value in inputs]
        for _ in range(chunks):
            outputs = session.run(None, dict(zip(names, arrays, strict=True)))
            arrays[1 : len(outputs)] = outputs[1:]  # the conformer's count of frames stays as it is

    return run


def demo_model(name: str, system: str) -> Transducer:
    """With random weights, in training mode."""
    config = load_experiment(CONF / f"{name}.yaml", system)
    torch.manual_seed(0)
    return build_transducer(replace(config.model, vocab_size=config.data.vocab_size)).train()


def compare_encoders() -> list[dict[str, Any]]:
    """Of 5 utterances of 10 s, and of a stream; Zipformer2 is ours, the conformer theirs."""
    rows: list[dict[str, Any]] = []
    for system, context in (("teacher", Context.full()), ("two-stage", STUDENT)):
        models = [demo_model(name, system) for name in ("demo-zipformer", "demo")]
        steps = [training_step(model, context, 5, 10) for model in models]
        sizes = [sum(value.numel() for value in model.parameters()) / 1e6 for model in models]
        parts = {"training_step": str(context), "ours_million": sizes[0], "theirs_million": sizes[1]}
        rows.append({**parts, **paired_ratio(steps[0], steps[1], runs=9)})
    with tempfile.TemporaryDirectory() as folder:
        streams = [stream(model, Path(folder)) for model in models]
        times = paired_ratio(streams[0], streams[1], runs=9)
    factors = {f"{key}_rtf": times[f"{key}_ms"] / 1000 / STREAMED_SECONDS for key in ("ours", "theirs")}
    return [*rows, {"stream": str(STUDENT), **factors, "time_ratio": times["time_ratio"]}]


if __name__ == "__main__":
    torch.set_num_threads(1)
    run_benchmark(
        f"Encoder step (forward + backward, 64 s of audio, one thread) under {STUDENT} against full context; "
        "then the demo's Zipformer2 against its conformer",
        lambda: [*(measure_length(seconds) for seconds in SECONDS), *compare_encoders()],
        "exp/bench/encoder.json",
    )
