"""NeMo's FastConformer transducers: equal to those of transformers; taken over, or refused in one line."""

import pathlib
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
import torch
from click.testing import CliRunner
from nemo_files import TEXTS, VOCAB, golden, nemo_members, nemo_pieces, waves, write_nemo

from kdasr.bundle import Bundle, load_bundle
from kdasr.cli.main import cli
from kdasr.common.errors import UserError
from kdasr.data.features import compute_features
from kdasr.decoding.beam import BeamOptions
from kdasr.decoding.greedy import greedy_search
from kdasr.distillation.teacher import TransducerTeacher
from kdasr.experiment.config import ExperimentConfig
from kdasr.experiment.transducer_trainer import build_model
from kdasr.interop.nemo import NemoOptions, import_nemo
from kdasr.models.encoders.fast_conformer import FastConformerConfig, normalized
from kdasr.nn.context import Context
from kdasr.recognition.offline import recognize_offline
from kdasr.recognition.recognizer import StreamingRecognizer
from kdasr.testing import dummy_batch


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("nemo")
    import_nemo(NemoOptions(checkpoint=write_nemo(folder / "model.nemo"), out=folder / "exp"))
    return load_bundle(folder / "exp")


def heard() -> tuple[torch.Tensor, torch.Tensor]:
    """Features of the golden recordings, with something else behind the shorter one."""
    each = [compute_features(torch.from_numpy(wave), "nemo") for wave in waves()]
    features_BTF = torch.randn(len(each), max(map(len, each)) + 3, 80)
    for row_TF, own_TF in zip(features_BTF, each, strict=True):
        row_TF[: len(own_TF)] = own_TF
    return features_BTF, torch.tensor([len(own_TF) for own_TF in each])


def test_features_are_those_of_transformers() -> None:
    features_BTF, lens_B = heard()
    expected = golden()[1]
    assert lens_B.tolist() == expected["feature_lens"].tolist()
    found = normalized(features_BTF, lens_B)[:, : expected["features"].shape[1]]
    torch.testing.assert_close(found, expected["features"], atol=2e-4, rtol=0)
    assert compute_features(torch.zeros(159), "nemo").shape == (0, 80)


@torch.no_grad()
def test_encoder_predictor_and_joiner_are_those_of_transformers(imported: Bundle) -> None:
    model, expected = imported.model, golden()[1]
    encoded = model.encode(*heard(), Context.full())
    assert encoded.lens_B.tolist() == expected["encoded_lens"].tolist() == [7, 4]
    # NeMo's pieces: 0 is unknown, the blank is the last one. Ours: 0 blank, 1 sos/eos, 2 unknown.
    ours = torch.tensor([2, *range(3, VOCAB + 2), 0])
    predicted_BSD = model.joiner.project_predictor(model.predictor(ours[expected["tokens"]]))
    frames_BUD = model.joiner.project_encoder(encoded.encoded_BTD)
    logits_BUSV = model.joiner(frames_BUD[:, :, None], predicted_BSD[:, None])
    assert (logits_BUSV[..., 1] < -9e3).all(), "sos/eos is never said"
    for row, length in enumerate(encoded.lens_B.tolist()):
        found = encoded.encoded_BTD[row, :length]
        torch.testing.assert_close(found, expected["encoded"][row, :length], atol=1e-4, rtol=0)
        found = logits_BUSV[row, :length][..., ours]
        torch.testing.assert_close(found, expected["logits"][row, :length], atol=2e-4, rtol=0)


@torch.no_grad()
def test_the_encoder_keeps_the_laws_of_encoders(imported: Bundle) -> None:
    encoder, (features_BTF, lens_B) = imported.model.encoder, heard()
    together = encoder(features_BTF, lens_B, Context.full())
    assert [layer.shape for layer in together.hidden] == [together.encoded_BTD.shape] * 2
    for row, length in enumerate(lens_B.tolist()):
        alone = encoder(features_BTF[row : row + 1, :length], lens_B[row : row + 1], Context.full())
        own = int(alone.lens_B)
        assert own == alone.encoded_BTD.shape[1] == encoder.geometry.num_frames(length)
        torch.testing.assert_close(alone.encoded_BTD[0], together.encoded_BTD[row, :own], atol=1e-5, rtol=0)
    nothing = encoder(features_BTF, torch.tensor([0, 1]), Context.full())
    assert nothing.lens_B.tolist() == [0, 1] and nothing.encoded_BTD.isfinite().all()
    chunks = Context(left=8, chunk=4)
    for refused in (
        lambda: encoder(features_BTF, lens_B, chunks),
        lambda: encoder.init_state(1, chunks),
        lambda: encoder.init_state(1, Context.full()),
    ):
        with pytest.raises(UserError, match=r"hear whole utterances only|has no chunks"):
            refused()


@pytest.mark.parametrize("search", [None, BeamOptions(beam=3)], ids=["greedy", "beam"])
def test_recordings_are_heard_with_its_own_features(imported: Bundle, search: BeamOptions | None) -> None:
    engine = StreamingRecognizer(imported, search=search)
    found = recognize_offline(engine, waves())
    for wave, result in zip(waves(), found, strict=True):
        stream = engine.create_stream()
        for start in range(0, len(wave), 999):
            stream.accept_waveform(16000, wave[start : start + 999])
            engine.decode_all([stream])
        stream.input_finished()
        engine.decode_all([stream])
        assert [t.id for t in engine.result(stream).tokens] == [t.id for t in result.tokens]
    if search is None:
        encoded = imported.model.encode(*heard(), Context.full())
        expected = greedy_search(imported.model, encoded.encoded_BTD, encoded.lens_B)
        assert [[t.id for t in result.tokens] for result in found] == [h.tokens for h in expected]
        assert any(h.tokens for h in expected)
    assert recognize_offline(engine, [np.zeros(0, dtype=np.float32)])[0].tokens == []


def test_pieces_are_those_of_nemo_with_ours_in_front(imported: Bundle) -> None:
    theirs = sentencepiece.SentencePieceProcessor()
    theirs.LoadFromSerializedProto(nemo_pieces())
    ours = imported.tokenizer
    assert ours.vocab_size == VOCAB + 2 == imported.model.config.vocab_size
    assert [ours.piece(i) for i in range(3)] == ["<blk>", "<sos/eos>", "<unk>"]
    for text in [*TEXTS, "DACB  A", "AXB", "<blk> A"]:
        expected = [theirs.IdToPiece(i) if i else "<unk>" for i in theirs.EncodeAsIds(text)]
        assert [ours.piece(i) for i in ours.encode(text)] == expected
    assert ours.decode(ours.encode("CD AB")) == "CD AB"


def test_a_ctc_head_beside_the_transducer_is_taken_over(tmp_path: Path) -> None:
    members = nemo_members()
    head = torch.randn(VOCAB + 1, 16, 1)
    members["weights"] |= {
        "ctc_decoder.decoder_layers.0.weight": head,
        "ctc_decoder.decoder_layers.0.bias": torch.zeros(VOCAB + 1),
        "preprocessor.featurizer.fb": torch.zeros(1, 80, 257),
    }
    found = import_nemo(
        NemoOptions(checkpoint=write_nemo(tmp_path / "m.nemo", members), out=tmp_path / "exp")
    )
    assert not any("ctc" in name for name in found.missing)
    ctc = load_bundle(tmp_path / "exp").model.ctc_head
    torch.testing.assert_close(ctc.weight[[0, 2, 3]], head[[VOCAB, 0, 1], :, 0])


def test_the_command_says_what_it_took_over(tmp_path: Path) -> None:
    file = write_nemo(tmp_path / "model.nemo")
    asked = ["import", "nemo", str(file), "--out", str(tmp_path / "exp")]
    result = CliRunner().invoke(cli, asked)
    assert result.exit_code == 0, result.output
    assert "context: full" in result.output and "set to 0: simple_am.weight" in result.output
    again = CliRunner().invoke(cli, asked)
    assert "holds a model already" in str(again.exception)


def _set(section: str, **values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda members: members["config"][section].update(values)


def _without(section: str, name: str) -> Callable[[dict[str, Any]], None]:
    return lambda members: members["config"][section].pop(name)


def _entry(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> Callable[[dict[str, Any]], None]:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, target
    return lambda members: members["more"].append(entry)


def _weights(**changed: Any) -> Callable[[dict[str, Any]], None]:
    """Under their names with `__` for dots; None leaves one out."""

    def change(members: dict[str, Any]) -> None:
        for name, value in changed.items():
            members["weights"].pop(name.replace("__", "."), None)
            if value is not None:
                members["weights"][name.replace("__", ".")] = value

    return change


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (_set("preprocessor", features=128), "preprocessor.features is 128; only 80 is taken over"),
        (_set("preprocessor", normalize="all_features"), "preprocessor.normalize is 'all_features'"),
        (_without("preprocessor", "window_size"), "preprocessor.window_size is None; only 0.025"),
        (_set("encoder", subsampling_factor=4), "encoder.subsampling_factor is 4; only 8"),
        (_without("encoder", "subsampling"), "encoder.subsampling is None; only 'dw_striding'"),
        (_set("encoder", att_context_size=[70, 13]), "encoder.att_context_size is [70, 13]"),
        (_set("encoder", conv_norm_type="layer_norm"), "encoder.conv_norm_type is 'layer_norm'"),
        (_set("encoder", _target_="x.SqueezeformerEncoder"), "encoder._target_ is 'SqueezeformerEncoder'"),
        (_set("encoder", n_layers="two"), "encoder.n_layers is 'two'; expected a whole number"),
        (_set("encoder", n_layers=3), "it has no 'encoder.layers.2."),
        (_set("encoder", n_heads=3), "model.encoder.dim is 16; it must be even, and a multiple"),
        (_set("encoder", d_model=32), "another architecture: 'encoder."),
        (_set("joint", num_extra_outputs=5), "joint.num_extra_outputs is 5"),
        (lambda m: m["config"]["joint"]["jointnet"].update(activation="elu"), "activation is 'elu'"),
        (
            lambda m: m["config"].pop("joint"),
            "not a transducer of NeMo: its configuration has no section 'joi",
        ),
        (lambda m: m.update(config=None), "not an archive of NeMo: it has no model_config.yaml"),
        (lambda m: m.update(config=[1]), "model_config.yaml: expected a mapping, found list"),
        (lambda m: m.update(pieces=None), "has 0 SentencePiece models; expected one"),
        (lambda m: m.update(pieces=b"\x0a\xff"), "its tokenizer is not a SentencePiece model"),
        (lambda m: m.update(pieces=nemo_pieces(8)), "its tokenizer has 8 pieces, but 'decoder.prediction.em"),
        (lambda m: m.update(weights=None), "it has no model_weights.ckpt"),
        (lambda m: m.update(weights={"a": 3}), "model_weights.ckpt holds other things than weights"),
        (lambda m: m.update(weights={"a": pathlib.PurePosixPath("x")}), "damaged, or not weights alone"),
        (_weights(joint__enc__bias=None), "another architecture: it has no 'joint.enc.bias'"),
        (_weights(joint__joint_net__2__weight=None), "it has no 'joint.joint_net.2.weight'"),
        (_weights(encoder__extra=torch.zeros(1)), "nothing here has its 'encoder.extra'"),
        (
            _weights(joint__enc__bias=torch.full((12,), torch.nan)),
            "'joiner.encoder_projection.bias' holds val",
        ),
        (_entry("../outside.txt"), "member '../outside.txt' is a link, a device or leads out of it: refused"),
        (_entry("/etc/outside"), "member '/etc/outside' is a link, a device or leads out"),
        (_entry("pipe", tarfile.FIFOTYPE), "member 'pipe' is a link, a device"),
        (_entry("link", tarfile.SYMTYPE, "/etc/passwd"), "member 'link' is a link"),
        (_entry("sub/model_config.yaml"), "holds 'model_config.yaml' twice"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_what_cannot_be_taken_over_is_named(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], fault: str
) -> None:
    members = nemo_members()
    change(members)
    file = write_nemo(tmp_path / "model.nemo", members)
    with pytest.raises(UserError) as refusal:
        import_nemo(NemoOptions(checkpoint=file, out=tmp_path / "exp"))
    assert fault in str(refusal.value) and "\n" not in str(refusal.value)
    assert not (tmp_path / "exp").exists()


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    whole = write_nemo(tmp_path / "whole.nemo").read_bytes()
    for name, content in (("half", whole[: len(whole) // 2]), ("none", b""), ("other", b"\1" * 2000)):
        file = tmp_path / f"{name}.nemo"
        file.write_bytes(content)
        with pytest.raises(UserError, match=rf"{name}\.nemo: (damaged|not an archive|model_weights)"):
            import_nemo(NemoOptions(checkpoint=file, out=tmp_path / "exp"))
    with pytest.raises(UserError, match="no such checkpoint"):
        import_nemo(NemoOptions(checkpoint=tmp_path / "missing.nemo", out=tmp_path / "exp"))


def test_it_is_not_trained_here(imported: Bundle, tmp_path: Path) -> None:
    config = ExperimentConfig(model=imported.model.config)
    with pytest.raises(UserError, match=r"type fast-conformer: hears nemo features; it teaches, but is not"):
        build_model(config, imported.tokenizer)
    batch = dummy_batch()
    with pytest.raises(UserError, match="the teacher hears nemo features, but this batch has none"):
        TransducerTeacher(imported.model, Context.full()).encode(batch)


@torch.no_grad()
def test_it_teaches_logits_of_its_own_joiner(imported: Bundle) -> None:
    batch = replace(dummy_batch(num_features=80), kind="nemo")
    taught = TransducerTeacher(imported.model, Context.full()).encode(batch)
    predicted_BSD = imported.model.predictor(batch.tokens_BS)
    frames, states = torch.tensor([0, taught.num_frames + 2]), torch.tensor([3, predicted_BSD.shape[1]])
    found_NV = taught.nodes().logits_of(frames, states)
    encoded = imported.model.encode(batch.features_BTF, batch.feature_lens_B, Context.full()).encoded_BTD
    joiner = imported.model.joiner
    for row, (utterance, frame, state) in enumerate(((0, 0, 3), (1, 2, 0))):
        am_J = joiner.project_encoder(encoded[utterance, frame])
        both_J = am_J + joiner.project_predictor(predicted_BSD[utterance, state])
        expected_V = joiner.output(both_J.clamp(min=0))
        torch.testing.assert_close(found_NV[row], expected_V, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_it_says_several_pieces_in_a_frame(imported: Bundle) -> None:
    encoded = imported.model.encode(*heard(), Context.full())
    heard_of = encoded.encoded_BTD, encoded.lens_B
    found = greedy_search(imported.model, *heard_of)
    assert found == greedy_search(imported.model, *heard_of, 10)
    once = greedy_search(imported.model, *heard_of, 1)
    assert [h.frames for h in found] != [h.frames for h in once]


@pytest.mark.parametrize(
    ("options", "fault"),
    [({"dim": 15, "num_heads": 3}, "dim is 15"), ({"conv_kernel": 4}, "conv_kernel is 4")],
)
def test_sizes_that_do_not_fit_are_named(options: dict[str, int], fault: str) -> None:
    with pytest.raises(UserError, match=fault):
        FastConformerConfig(**options).check(80)
