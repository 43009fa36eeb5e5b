"""Teachers in sherpa-onnx's contract of offline transducers."""

import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from command_line import kdasr
from export_helpers import bursts, emitting_model, save_system, save_zipformer

from kdasr.bundle import Bundle
from kdasr.common.errors import UserError
from kdasr.evaluation.long_form_run import LongForm
from kdasr.export import offline
from kdasr.export.build import export_bundle
from kdasr.export.bundle import BundleFolder
from kdasr.export.check import Clip, compare_with_sherpa, count_identical
from kdasr.export.check_long_form import compare_long_form
from kdasr.export.runtime import OnnxTransducer, load_exported
from kdasr.nn.context import Context
from kdasr.recognition.offline import recognize_offline
from kdasr.recognition.recognizer import StreamingRecognizer

CLIPS = [Clip(f"utterance-{seed}", bursts(1.1 + seed / 3, seed), "ONE") for seed in range(5)]


@pytest.fixture(scope="module", params=["conformer", "zipformer2"])
def exported(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Bundle, BundleFolder]:
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "conformer":
        system = save_system(folder / "exp", emitting_model(24), Context.full())
    else:
        system = save_zipformer(folder / "exp", Context.full(), causal=False)
    return system, export_bundle(system, folder / "bundle")


def test_the_offline_client_hears_what_the_teacher_hears(exported: tuple[Bundle, BundleFolder]) -> None:
    system, bundle = exported
    for ours in (system, load_exported(bundle.folder)):
        [found] = compare_with_sherpa(bundle, ours, CLIPS)
        assert found.differences == []
        assert count_identical([found]) == (5, 5)
        assert found.num_pieces > 30


@pytest.mark.parametrize("lengths", [[9], [17], [40], [203, 90, 31], [77, 12], [601]], ids=str)
def test_the_graph_takes_batches_of_any_length(
    exported: tuple[Bundle, BundleFolder], lengths: list[int]
) -> None:
    system, bundle = exported
    lens_B = torch.tensor(lengths)
    features_BTF = 4 * torch.randn(len(lengths), max(lengths), 80) - 6
    expected = system.model.encode(features_BTF, lens_B, Context.full())
    found = OnnxTransducer(bundle).encode(features_BTF, lens_B, Context.full())
    assert torch.equal(found.lens_B, expected.lens_B)
    projected_BTJ = system.model.joiner.project_encoder(expected.encoded_BTD)
    for row, length in enumerate(expected.lens_B.tolist()):
        difference = found.encoded_BTD[row, :length] - projected_BTJ[row, :length]
        assert difference.abs().max() < 1e-4


class _TorchOfOneLength:
    """`torch`, but for ranges, which have the length that they had when the graph was written."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    def arange(self, *bounds: Any, **options: Any) -> torch.Tensor:
        return torch.arange(*map(int, bounds), **options)


def test_a_graph_of_one_length_is_not_written(
    exported: tuple[Bundle, BundleFolder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as one whose positions stop at the length of the example."""
    monkeypatch.setattr(offline, "torch", _TorchOfOneLength())
    with pytest.raises(UserError, match=r"differ from the model|onnxruntime cannot run it"):
        export_bundle(exported[0], tmp_path / "bundle")
    assert not list(tmp_path.iterdir())


def test_int8_graphs_are_run(exported: tuple[Bundle, BundleFolder], tmp_path: Path) -> None:
    bundle = export_bundle(exported[0], tmp_path / "bundle", int8=True)
    parts = load_exported(bundle.folder, int8=True)
    kinds = Counter(node.op_type for node in onnx.load(bundle.graph("encoder", int8=True)).graph.node)
    assert kinds["MatMulInteger"] > 10
    results = recognize_offline(StreamingRecognizer(parts), [clip.samples_N for clip in CLIPS])
    assert sum(len(result.tokens) for result in results) > 20


def test_a_folder_of_icefall_is_run_without_a_manifest(
    exported: tuple[Bundle, BundleFolder], tmp_path: Path
) -> None:
    system, bundle = exported
    for graph in ("encoder", "decoder", "joiner"):
        shutil.copy(bundle.graph(graph), tmp_path / f"{graph}-epoch-99-avg-1.onnx")
    shutil.copy(bundle.tokens, tmp_path)
    if system.model.encoder.config.type == "conformer":
        with pytest.raises(UserError, match="model type 'conformer'; without a manifest"):
            load_exported(tmp_path)
        return
    waves = [clip.samples_N for clip in CLIPS]
    both = [
        recognize_offline(StreamingRecognizer(parts), waves) for parts in (system, load_exported(tmp_path))
    ]
    said = [[[(token.piece, token.frame) for token in result.tokens] for result in own] for own in both]
    assert said[0] == said[1] and len(said[0][0]) > 3


def test_names_and_metadata_are_those_of_the_client(exported: tuple[Bundle, BundleFolder]) -> None:
    system, bundle = exported
    model = onnx.load(bundle.graph("encoder"))
    onnx.checker.check_model(model, full_check=True)
    assert [value.name for value in model.graph.input] == ["x", "x_lens"]
    assert [value.name for value in model.graph.output] == ["encoder_out", "encoder_out_lens"]
    facts = {entry.key: entry.value for entry in model.metadata_props}
    assert facts["model_type"] == system.model.encoder.config.type == bundle.encoder["type"]
    assert "OfflineRecognizer" in (bundle.folder / "README.md").read_text(encoding="utf-8")


def test_whole_utterances_are_no_streams(exported: tuple[Bundle, BundleFolder]) -> None:
    system, bundle = exported
    with pytest.raises(UserError, match="exported for whole utterances"):
        load_exported(bundle.folder).model.encode(torch.zeros(1, 20, 80), torch.tensor([20]), Context(8, 4))
    with pytest.raises(UserError, match="leave out --long-form"):
        list(compare_long_form(bundle, system, CLIPS, LongForm([])))


def test_a_causal_model_is_not_exported_under_the_full_context(tmp_path: Path) -> None:
    save_zipformer(tmp_path / "exp", Context.full(), causal=True)
    found = kdasr("export", tmp_path / "exp", "--out", tmp_path / "bundle").exception
    assert isinstance(found, UserError)
    assert re.fullmatch("a causal zipformer2 has no graph for whole utterances: .*", str(found))
    assert not (tmp_path / "bundle").exists()
