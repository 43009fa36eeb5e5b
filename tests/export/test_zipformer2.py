"""Zipformer2 students in icefall's and sherpa-onnx's contract, from our export and from icefall's names."""

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from export_helpers import CONTEXT, bursts, client_log_mel, save_zipformer

from icefall_data import FOLDER, TOLERANCE, golden, needs_icefall
from kdasr.bundle import Bundle, load_bundle
from kdasr.common.errors import UserError
from kdasr.export.build import encoder_graph, export_bundle
from kdasr.export.bundle import BundleFolder, open_bundle
from kdasr.export.check import Clip, compare_with_sherpa, count_identical
from kdasr.export.client import SherpaClient
from kdasr.export.foreign import is_exported, open_exported
from kdasr.export.reference import decode_segments
from kdasr.export.runtime import OnnxTransducer, load_exported
from kdasr.interop.icefall import ImportOptions, import_icefall
from kdasr.models.transducer.build import build_transducer
from kdasr.nn.context import Context
from kdasr.recognition.endpoint import RULES, EndpointRules
from kdasr.recognition.recognizer import StreamingRecognizer
from zipformer2_models import small_config


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """With fewer channels in the front end than sherpa-onnx gives to its state."""
    return save_zipformer(tmp_path_factory.mktemp("zipformer"), layer2_channels=10, layer3_channels=12)


@pytest.fixture(scope="module")
def bundle(system: Bundle, tmp_path_factory: pytest.TempPathFactory) -> BundleFolder:
    return export_bundle(system, tmp_path_factory.mktemp("export") / "bundle", int8=True)


@pytest.fixture
def foreign(bundle: BundleFolder, tmp_path: Path) -> Path:
    """The same graphs under the names that icefall gives, without a manifest."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    for graph in ("encoder", "decoder", "joiner"):
        for kind in ("", ".int8"):
            name = f"{graph}-epoch-30-avg-9-chunk-8-left-16{kind}.onnx"
            shutil.copy(bundle.folder / f"{graph}{kind}.onnx", folder / name)
    tokens = bundle.tokens.read_text(encoding="utf-8")
    (folder / "tokens.txt").write_text(f"{tokens}#0 24\n#1 25\n", encoding="utf-8")
    return folder


def test_sherpa_onnx_hears_what_the_model_hears(system: Bundle, bundle: BundleFolder) -> None:
    clips = [Clip(f"utterance-{seed}", bursts(1.3 + seed / 3, seed), "ONE") for seed in range(3)]
    for ours in (system, load_exported(bundle.folder)):
        found = list(compare_with_sherpa(bundle, ours, clips))
        assert [comparison.differences for comparison in found] == [[]] * 5
        assert count_identical(found) == (3, 3)
        assert all(comparison.num_pieces > 20 for comparison in found)
        assert found[1].num_resets > 1


def test_the_encoder_stays_after_every_segment(bundle: BundleFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments that end within speech, where what the encoder remembers is heard."""
    monkeypatch.setattr("kdasr.recognition.features.log_mel", client_log_mel)
    rules = EndpointRules(0.64, 0.16, 0.64, keep_predictor=True, keep_encoder=True)
    client = SherpaClient(
        bundle, enable_endpoint_detection=True, **{name: getattr(rules, name) for name in RULES}
    )
    ours = load_exported(bundle.folder)
    silence_N = np.zeros(2 * 16000, dtype=np.float32)
    samples_N = np.concatenate([bursts(3.0, 1), silence_N, bursts(2.0, 2)])
    theirs = client.decode_segments(samples_N)
    assert {bool(segment.emissions) for segment in theirs} == {True, False}
    num_windows = sum(segment.num_windows for segment in theirs)
    found = [
        decode_segments(StreamingRecognizer(ours, endpoints=each), samples_N, num_windows)
        for each in (rules, replace(rules, keep_encoder=False))
    ]
    assert found[0] == theirs != found[1]


def test_linear_layers_have_int8_weights(bundle: BundleFolder) -> None:
    kinds = Counter(node.op_type for node in onnx.load(bundle.graph("encoder", int8=True)).graph.node)
    # Weights (and positions, which are constant), attention, non-linear attention, feed-forward, convolution.
    per_layer = 2 + 2 * 2 + 2 + 3 * 2 + 2 * 2
    assert kinds["MatMulInteger"] == 2 * per_layer + 2
    assert kinds["MatMul"] == 2 * 4  # scores of keys, two sums of values and one of gated values
    assert not {"Cos", "Sin", "Atan", "Range", "Gather"} & set(kinds)


def test_the_client_can_make_the_first_states_of_the_metadata(bundle: BundleFolder) -> None:
    model = onnx.load(bundle.graph("encoder"))
    onnx.checker.check_model(model, full_check=True)
    facts = {entry.key: entry.value for entry in model.metadata_props}
    assert facts["left_context_len"] == "16,8" and facts["num_encoder_layers"] == "1,1"
    assert (facts["T"], facts["decode_chunk_len"], facts["encoder_dims"]) == ("29", "16", "8,12")
    names = [value.name for value in model.graph.input]
    assert names[:3] == ["x", "cached_key_0", "cached_nonlin_attn_0"]
    assert names[-2:] == ["embed_states", "processed_lens"] and len(names) == 6 * 2 + 3
    for value in (model.graph.input[-2], model.graph.output[-2]):
        assert _shape(value) == ["N", 128, 3, 19]


def test_a_folder_of_icefall_is_run_without_a_manifest(system: Bundle, foreign: Path) -> None:
    assert is_exported(foreign) and not is_exported(system.path.parent.parent)
    opened = open_exported(foreign)
    assert (opened.context, len(opened.pieces()), opened.has_int8) == (CONTEXT, 24, True)
    assert opened.manifest["encoder"]["downsampling_factor"] == [1, 2]
    said = []
    for parts in (system, load_exported(foreign), load_exported(foreign, int8=True)):
        recognizer = StreamingRecognizer(parts)
        stream = recognizer.create_stream()
        stream.accept_waveform(16000, bursts(3.1, 2))
        recognizer.decode_all([stream])
        said.append([(token.piece, token.frame) for token in recognizer.result(stream).tokens])
    assert said[0] == said[1] and len(said[0]) > 10 and said[2]


def test_folders_that_cannot_be_run_are_named(foreign: Path, student: Any, tmp_path: Path) -> None:
    joiner = next(foreign.glob("joiner*9-chunk-8-left-16.onnx"))
    small = next(foreign.glob("joiner*.int8.onnx"))
    other = foreign / "encoder-epoch-99-avg-1.onnx"
    shutil.copy(next(foreign.glob("encoder*left-16.onnx")), other)
    with pytest.raises(UserError, match=r"more than one model \(encoder-epoch-30.* and encoder-epoch-99"):
        open_exported(foreign)
    other.unlink()
    tokens = (foreign / "tokens.txt").read_text(encoding="utf-8")
    (foreign / "tokens.txt").write_text(tokens.replace("<unk> 2", "<s> 2"), encoding="utf-8")
    with pytest.raises(UserError, match=r"tokens\.txt: piece 2 is '<s>', expected <unk>"):
        open_exported(foreign)
    joiner.unlink()
    small.unlink()
    with pytest.raises(UserError, match=r"joiner-epoch-30-.*\.onnx: missing"):
        open_exported(foreign)
    without_manifest = shutil.copytree(student.bundle.folder, tmp_path / "conformer")
    (without_manifest / "manifest.json").unlink()
    with pytest.raises(UserError, match="model type 'conformer'"):
        open_exported(without_manifest)
    with pytest.raises(UserError, match="not an exported bundle"):
        open_exported(tmp_path)


def test_a_manifest_of_other_graphs_is_found_out(bundle: BundleFolder) -> None:
    for changes, fault in (
        ({"context": {"left": 16, "chunk": 4, "right": 0}}, "means 32 rows of cached_key_0"),
        ({"context": {"left": 8, "chunk": 8, "right": 0}}, "45 feature frames per window, but .* has 29"),
        ({"encoder": {**bundle.encoder, "num_encoder_layers": [1, 2]}}, "not an encoder of 3 layers"),
    ):
        wrong = replace(bundle, manifest={**bundle.manifest, **changes})
        with pytest.raises(UserError, match=fault):
            OnnxTransducer(wrong)


@pytest.mark.parametrize(
    "encoder",
    [{}, {"type": "lstm"}, {"type": "zipformer2"}, {"type": "zipformer2", "num_encoder_layers": "2"}],
)
def test_a_manifest_names_an_encoder_that_is_known(
    bundle: BundleFolder, tmp_path: Path, encoder: Any
) -> None:
    copy = shutil.copytree(bundle.folder, tmp_path / "copy")
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps({**manifest, "encoder": encoder}))
    with pytest.raises(UserError, match=r"manifest\.json: 'encoder' (is|has)"):
        open_bundle(copy)


def test_what_has_no_place_in_the_contract_is_refused(system: Bundle, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="needs a left context"):
        encoder_graph(system.model, Context(left=0, chunk=4))
    wide = build_transducer(replace(system.model.config, encoder=small_config(layer3_channels=129)))
    with pytest.raises(UserError, match=r"layer3_channels is 129; .* at most 128"):
        encoder_graph(wide, CONTEXT)


@needs_icefall
def test_the_golden_model_keeps_the_contract_and_the_values(tmp_path: Path) -> None:
    """Names, order, shapes and metadata as of icefall's exporter; chunks as its model computes them."""
    source = FOLDER / "zipformer-streaming"
    import_icefall(
        ImportOptions(
            checkpoint=source / "pretrained.pt",
            tokens=FOLDER / "lang_bpe_37",
            out=tmp_path / "exp",
            options={"num_heads": "4,4,4,8,4,4"},
            context=Context(left=32, chunk=8),
        )
    )
    exported = export_bundle(load_bundle(tmp_path / "exp"), tmp_path / "export")
    contract = json.loads((source / "onnx_contract.json").read_text())
    for graph in ("encoder", "decoder", "joiner"):
        model = onnx.load(exported.graph(graph))
        assert {entry.key: entry.value for entry in model.metadata_props} == contract[graph]["metadata"]
        for ends in ("input", "output"):
            found = [(value.name, _shape(value), _kind(value)) for value in getattr(model.graph, ends)]
            expected = [(e["name"], e["shape"], e["dtype"]) for e in contract[graph][f"{ends}s"]]
            assert found == expected
    graphs = OnnxTransducer(exported)
    state = graphs.encoder.init_state(2, exported.context)
    features_BTF = golden("streaming")["stream.features"]
    for chunk, expected_BCJ in enumerate(golden("streaming")["stream.c16l64.encoder_proj"]):
        window_BWF = features_BTF[:, 32 * chunk : 32 * chunk + 45]
        encoded_BCJ, _, state = graphs.encode_chunk(window_BWF, state, exported.context)
        assert torch.allclose(encoded_BCJ, expected_BCJ, **TOLERANCE)


def _shape(value: onnx.ValueInfoProto) -> list[int | str]:
    return [item.dim_value or item.dim_param for item in value.type.tensor_type.shape.dim]


def _kind(value: onnx.ValueInfoProto) -> str:
    return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)).name
