"""The files that are written: sherpa-onnx's contract, and graphs that stay lean."""

from collections import Counter

import onnx
import pytest

from kdasr.export.bundle import BundleFolder


def shapes(values: list[onnx.ValueInfoProto]) -> list[tuple[str, list[int | str]]]:
    return [
        (value.name, [item.dim_value or item.dim_param for item in value.type.tensor_type.shape.dim])
        for value in values
    ]


def metadata(model: onnx.ModelProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in model.metadata_props}


@pytest.fixture(scope="module")
def encoder(student) -> onnx.ModelProto:
    return onnx.load(student.bundle.graph("encoder"))


def test_encoder_tensors_are_in_the_order_of_the_client(encoder: onnx.ModelProto) -> None:
    assert shapes(list(encoder.graph.input)) == [
        ("x", ["N", 19, 80]),
        ("cached_attn", [2, 17, "N", 16]),
        ("cached_conv", [2, 2, "N", 16]),
        ("processed_lens", ["N"]),
    ]
    assert shapes(list(encoder.graph.output)) == [
        ("encoder_out", ["N", 4, 16]),
        ("new_cached_attn", [2, 17, "N", 16]),
        ("new_cached_conv", [2, 2, "N", 16]),
    ]
    facts = metadata(encoder)
    assert (facts["T"], facts["decode_chunk_len"], facts["left_context"]) == ("19", "16", "17")


def test_decoder_and_joiner(student) -> None:
    decoder, joiner = (onnx.load(student.bundle.graph(name)) for name in ("decoder", "joiner"))
    assert shapes(list(decoder.graph.input)) == [("y", ["N", 2])]
    assert shapes(list(decoder.graph.output)) == [("decoder_out", ["N", 16])]
    assert metadata(decoder) == {"context_size": "2", "vocab_size": "24"}
    assert shapes(list(joiner.graph.input)) == [("encoder_out", ["N", 16]), ("decoder_out", ["N", 16])]
    assert shapes(list(joiner.graph.output)) == [("logit", ["N", 24])]


def test_files_are_valid_and_old_runtimes_read_them(student) -> None:
    for name in ("encoder", "decoder", "joiner"):
        model = onnx.load(student.bundle.graph(name))
        onnx.checker.check_model(model, full_check=True)
        assert model.ir_version == 8
        assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)]


def test_graphs_are_lean(encoder: onnx.ModelProto) -> None:
    """No node works out shapes or constants, and a layer takes few: it is the part that is repeated.

    Rotations depend on the place in the stream. All layers share them.
    """
    kinds = Counter(node.op_type for node in encoder.graph.node)
    assert not {"Shape", "Gather", "Constant", "Expand", "Range", "Tile", "Identity"} & set(kinds)
    assert kinds["Cos"] == kinds["Sin"] == 1
    assert kinds["LayerNormalization"] == 2 * 6
    assert sum(kinds.values()) <= 60 + 2 * 75


def test_every_linear_layer_is_quantized(student) -> None:
    """Of the products, only those of attention, whose both sides vary, stay in float32."""
    quantized = onnx.load(student.bundle.graph("encoder", int8=True))
    kinds = Counter(node.op_type for node in quantized.graph.node)
    linear_per_layer = 2 + 2 + 2 + 2  # two feed-forward modules, attention, convolution
    assert kinds["MatMulInteger"] == 2 * linear_per_layer + 2
    assert kinds["MatMul"] == 2 * 4  # with what is cached, and with the window itself
    decoder = onnx.load(student.bundle.graph("decoder", int8=True))
    decoder_kinds = Counter(node.op_type for node in decoder.graph.node)
    assert decoder_kinds["MatMulInteger"] == 2 and decoder_kinds["DequantizeLinear"] == 1
    sizes = [student.bundle.graph("encoder", int8=int8).stat().st_size for int8 in (False, True)]
    assert sizes[1] < sizes[0]


def test_tokens_are_those_of_the_tokenizer(student) -> None:
    bundle: BundleFolder = student.bundle
    tokenizer = student.system.tokenizer
    assert bundle.pieces() == [tokenizer.piece(index) for index in range(tokenizer.vocab_size)]
    assert bundle.tokens.read_text(encoding="utf-8").splitlines()[:3] == ["<blk> 0", "<sos/eos> 1", "<unk> 2"]
