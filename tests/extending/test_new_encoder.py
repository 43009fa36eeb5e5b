"""The encoder of `causal_encoder.py`, one file, behind every command: what the contract has to allow."""

# Shapes: B utterances or streams, T feature frames, F features, U frames of 80 ms, C of a chunk, D width.

import copy
import json
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from causal_encoder import CausalConfig, CausalEncoder
from command_line import kdasr, well
from torch import Tensor

from kdasr.bundle import load_bundle
from kdasr.common.errors import UserError
from kdasr.corpora.prepare import PrepareOptions, prepare_corpus
from kdasr.data.tokens import prepare_tokens
from kdasr.distillation.objective import Objective
from kdasr.distillation.step import StepInput
from kdasr.distillation.teacher import TransducerTeacher
from kdasr.distillation.terms import ObjectiveConfig
from kdasr.experiment.recipe_file import load_experiment
from kdasr.models.predictors.stateless import StatelessConfig
from kdasr.models.transducer.build import build_transducer
from kdasr.models.transducer.transducer_config import TransducerConfig
from kdasr.nn.context import Context
from kdasr.nn.streaming import select_states, split_state, stack_states
from kdasr.recognition.offline import recognize_offline
from kdasr.recognition.recognizable import Parts
from kdasr.recognition.recognizer import StreamingRecognizer
from kdasr.testing import SAMPLE_RATE, dummy_batch, tiny_model, tone, write_corpus

CONTEXT = Context(left=3, chunk=2)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe of a teacher, a baseline and a two-stage student, all with this encoder, and its data."""
    folder = tmp_path_factory.mktemp("toy")
    corpus = write_corpus(folder / "corpus", alignments_dir=folder / "alignments")
    options = PrepareOptions(
        corpus_dir=corpus,
        alignments_dir=folder / "alignments",
        out_dir=folder / "data",
        parts=("train-clean-100", "dev-clean"),
        speeds=(1.0,),
    )
    prepare_corpus(options)
    prepare_tokens(folder / "data", 20)
    train = {"num_steps": 4, "loss_weights": {"rnnt": 1.0, "ctc": 0.5}}
    streaming = {"left": 3, "chunk": 2}
    hidden = {**train, "loss_weights": {"hidden_mse": 1.0, "ctc": 0.5}}
    output = {**train, "loss_weights": {"rnnt": 1.0, "output_kl": 0.5}}
    content = {
        "data": {
            "dir": str(folder / "data"),
            "max_duration": 12.0,
            "num_buckets": 1,
            "speed_perturbation": [1.0],
        },
        "model": {
            "encoder": {"type": "toy-causal", "width": 12},
            "predictor": {"dim": 16},
            "joiner_dim": 16,
        },
        "objective": {"rnnt": {"warmup_steps": 2, "left_buffer": 0.2, "right_buffer": 0.5}},
        "training": {"accelerator": "cpu", "num_threads": 1, "log_every": 2, "validate_every": 4},
        "systems": {
            "teacher": {"stages": [{"name": "train", **train}]},
            "streaming": {"contexts": [streaming], "stages": [{"name": "train", **train}]},
            "two-stage": {
                "contexts": [streaming],
                "objective": {"teacher": "teacher"},
                "stages": [
                    {"name": "hidden", "init_from": "teacher", **hidden},
                    {"name": "output", **output},
                ],
            },
        },
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture(scope="module")
def exp(recipe: Path) -> Path:
    """The systems of the recipe, trained, and decoded where pieces are favored over blanks."""
    folder, data = recipe.parent / "exp", recipe.parent / "data"
    for system in ("teacher", "streaming", "two-stage"):
        well("train", "--config", recipe, "--system", system, "--exp", folder / system)
        mode = "offline" if system == "teacher" else "streaming"
        options = ("--parts", "dev-clean", "--mode", mode, "--blank-penalty", 5)
        well("decode", folder / system, "--data", data, *options)
    return folder


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "utterances.jsonl").read_text().splitlines()]


def test_it_trains_as_teacher_baseline_and_student(exp: Path) -> None:
    for system, terms in [("streaming", {"rnnt", "ctc"}), ("two-stage", {"hidden_mse", "output_kl"})]:
        rows = [json.loads(line) for line in (exp / system / "metrics.jsonl").read_text().splitlines()]
        found: dict[str, float] = {}
        for row in rows:
            found |= row["terms"]
        assert terms <= set(found) and all(np.isfinite(value) for value in found.values())
    bundle = load_bundle(exp / "two-stage")
    assert isinstance(bundle.model.encoder, CausalEncoder) and bundle.context == CONTEXT
    assert isinstance(bundle.model.config.encoder, CausalConfig)
    assert bundle.model.geometry.frame_seconds == pytest.approx(0.08)


def test_it_decodes_with_times_of_its_own_frames(exp: Path) -> None:
    folder = exp / "two-stage" / "decode" / "streaming" / "dev-clean"
    assert json.loads((folder / "summary.json").read_text())["frame_seconds"] == pytest.approx(0.08)
    decoded = records(folder)
    assert len(decoded) == 6 and any(record["tokens"] for record in decoded)
    for record in decoded:
        # Whole frames, and two of them beyond the end: the silence that covers what a frame sees.
        last = int(np.ceil(record["duration"] / 0.08)) + 2
        for token in record["tokens"]:
            assert 0 <= token["frame"] < last
            # The chunk of the frame, the five feature frames of overlap, and half a window of the last.
            chunk_end = 2 * (token["frame"] // 2 + 1)
            heard = 0.01 * (8 * chunk_end + 5 - 1) + 0.005 + 0.0125
            assert token["shown"] == pytest.approx(min(record["duration"], heard))
        for word in record["words"]:
            assert (word["start"] / 0.08) % 1 == pytest.approx(0.0, abs=1e-6) or word["start"] == 0.0
            assert word["end"] >= word["start"] + 0.0799
        parts = record["first_token_parts_ms"]
        if parts is not None:
            assert sum(parts.values()) == pytest.approx(record["first_token_wall_ms"], abs=0.01)


def test_every_command_that_reads_a_system_takes_it(exp: Path, recipe: Path) -> None:
    import soundfile

    wav = recipe.parent / "speech.wav"
    soundfile.write(wav, tone(3.0, 5), SAMPLE_RATE)
    (line,) = well("stream", exp / "two-stage", wav, "--json", "--blank-penalty", 5).splitlines()
    assert json.loads(line)["text"]
    assert "toy-causal" in (exp / "two-stage" / "config.yaml").read_text()
    well("report", exp)
    rows = json.loads((exp / "report" / "results.json").read_text())
    assert {row["system"] for row in rows} == {"teacher", "streaming", "two-stage"}
    page = (exp / "report" / "index.html").read_text()
    assert "two-stage" in page and "Timeline" in page
    refusal = kdasr("export", exp / "two-stage", "--out", recipe.parent / "export")
    assert isinstance(refusal.exception, UserError)
    assert "'two-stage' has an encoder of type 'toy-causal'" in str(refusal.exception)
    assert len(str(refusal.exception).splitlines()) == 1


def test_what_it_cannot_do_is_refused_before_anything_runs(recipe: Path) -> None:
    for override, said in [
        ("contexts=[{left: 3, chunk: 2, right: 1}]", "right=1': this encoder has no look-ahead"),
        ("model.encoder.width=0", "'model.encoder.width' is 0; expected at least 1"),
        ("model.encoder.num_layers=3", "'model.encoder.num_layers'"),
        (
            "model.encoder.type=transformer",
            "expected one of conformer, fast-conformer, zipformer2, toy-causal",
        ),
    ]:
        with pytest.raises(UserError) as caught:
            load_experiment(recipe, "streaming", [override])
        assert said in str(caught.value) and str(recipe) in str(caught.value)


def test_words_that_take_too_many_pieces_are_counted_in_its_frames(recipe: Path) -> None:
    """A frame per 80 ms: a second of speech has room for 12 pieces, not for 24."""
    geometry = load_experiment(recipe, "teacher").model.geometry
    assert [geometry.num_frames(length) for length in (12, 13, 20, 21, 101)] == [0, 1, 1, 2, 12]


def test_a_teacher_with_twice_the_frames_teaches_it() -> None:
    """Each frame of 80 ms is compared with the teacher's frame of 40 ms that covers its middle."""
    config = TransducerConfig(vocab_size=11, encoder=CausalConfig(width=16), joiner_dim=16)
    student, batch = build_transducer(config), dummy_batch()
    teacher = TransducerTeacher(tiny_model(), Context.full())
    objective = Objective(ObjectiveConfig(), config, teacher)
    terms = {"rnnt": 1.0, "hidden_mse": 1.0, "output_kl": 1.0, "path_kl": 1.0}
    losses = objective(student, StepInput(batch, loss_weights=terms, context=CONTEXT, step=1000))
    losses.total.backward()
    assert all(value.isfinite() for value in losses.terms.values())
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in student.parameters())
    assert objective.count(batch).frames == sum((n - 5) // 8 for n in batch.feature_lens_B.tolist())

    own = student.encode(batch.features_BTF, batch.feature_lens_B, CONTEXT)
    taught = teacher.encode(batch).hidden[1]
    assert taught.frame_seconds == pytest.approx(0.04)
    for row, length in enumerate(own.lens_B.tolist()):
        partners = [min(2 * frame + 1, int(taught.lens_B[row]) - 1) for frame in range(length)]
        error = own.hidden[1][row, :length] - taught.values_BTD[row, partners]
        found = losses.per_utterance["hidden_mse"][row]
        torch.testing.assert_close(found, error.square().mean().detach())


def test_a_layer_of_another_rate_is_handed_on_with_its_frames() -> None:
    config = TransducerConfig(vocab_size=11, encoder=CausalConfig())
    first, second = TransducerTeacher(build_transducer(config), Context.full()).encode(dummy_batch()).hidden
    assert (first.frame_seconds, second.frame_seconds) == pytest.approx((0.04, 0.08))
    assert torch.equal(first.lens_B, 2 * second.lens_B) and bool((second.lens_B > 0).all())


class Pieces:
    """Stands for a tokenizer where only the names of pieces matter."""

    vocab_size = 9

    def piece(self, index: int) -> str:
        return f"\u2581{index}"


@pytest.fixture(scope="module", params=[0, 2], ids=["", "more frames of a whole"])
def parts(request: pytest.FixtureRequest) -> Parts:
    """A random model that emits a piece in many frames."""
    encoder = CausalConfig(extra_frames=request.param)
    config = TransducerConfig(vocab_size=9, encoder=encoder, predictor=StatelessConfig(dim=16), joiner_dim=16)
    torch.manual_seed(3)
    model = build_transducer(config)
    model.set_feature_stats(torch.full((80,), -6.0), torch.ones(80))
    with torch.no_grad():
        model.joiner.output.weight.mul_(8.0)

    return Parts(model, Pieces(), CONTEXT)  # type: ignore[arg-type]


def test_chunk_by_chunk_equals_the_whole(parts: Parts) -> None:
    """Encoded frames of streams of three ages in one batch, to rounding."""
    model = copy.deepcopy(parts.model).double().eval()
    encoder = model.config.encoder
    assert isinstance(encoder, CausalConfig)
    features_BTF = torch.randn(3, 5 + 8 * 2 * 6, 80, dtype=torch.float64)
    lens_B = torch.full((3,), features_BTF.shape[1])
    whole = model.encode(features_BTF, lens_B, CONTEXT)
    assert whole.lens_B.tolist() == [12 + encoder.extra_frames] * 3
    states = split_state(model.encoder.init_state(3, CONTEXT))
    outputs: list[list[Tensor]] = [[], [], []]
    for turn in count():
        active = [row for row in range(3) if 0 <= turn - row < 6]
        if not active:
            break
        begins = [8 * 2 * (turn - row) for row in active]
        windows = [features_BTF[row, begin : begin + 21] for row, begin in zip(active, begins, strict=True)]
        state = stack_states([states[row] for row in active])
        encoded_BCD, window_lens_B, state = model.encode_chunk(torch.stack(windows), state, CONTEXT)
        assert window_lens_B.tolist() == [2] * len(active)
        for place, row in enumerate(active):
            outputs[row].append(encoded_BCD[place])
            states[row] = select_states(state, torch.tensor([place]))
    streamed_BUD = torch.stack([torch.cat(parts) for parts in outputs])
    torch.testing.assert_close(streamed_BUD, whole.encoded_BTD[:, :12], atol=1e-12, rtol=0)


@pytest.mark.parametrize("seconds", [0.0, 0.05, 0.31, 1.0, 2.345])
def test_streams_of_raw_audio_say_what_the_whole_says(parts: Parts, seconds: float) -> None:
    recognizer, wave = StreamingRecognizer(parts), tone(seconds, 7)
    stream = recognizer.create_stream()
    for start in range(0, len(wave), 1234):
        stream.accept_waveform(SAMPLE_RATE, wave[start : start + 1234])
        recognizer.decode_all([stream])
    stream.input_finished()
    recognizer.decode_all([stream])
    streamed, (whole,) = recognizer.result(stream), recognize_offline(recognizer, [wave])
    assert [(t.id, t.frame) for t in streamed.tokens] == [(t.id, t.frame) for t in whole.tokens]
    assert len(streamed.tokens) > 3 or seconds < 1.0
    # Under a full context, too, a whole utterance ends where its stream ends.
    full = StreamingRecognizer(parts, context=Context.full(), tail_seconds=recognizer.tail_seconds)
    waiting = full.create_stream()
    waiting.accept_waveform(SAMPLE_RATE, wave)
    waiting.input_finished()
    full.decode_all([waiting])
    assert [t.id for t in full.result(waiting).tokens] == [t.id for t in whole.tokens]
    assert waiting.num_decoded == stream.num_decoded
