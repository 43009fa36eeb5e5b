"""Checkpoints in icefall's layout become systems of kdasr; nothing is lost, guessed in silence, or run."""

import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from command_line import kdasr
from icefall_layout import Layout
from torch.nn import functional

from kdasr.bundle import load_bundle
from kdasr.cli.main import cli
from kdasr.common.errors import UserError
from kdasr.data.tokenizer import Tokenizer, train_tokenizer, write_tokenizer
from kdasr.interop.icefall import STREAMING, ImportOptions, converted, import_icefall
from kdasr.interop.icefall_checkpoint import averaged_since, read_icefall
from kdasr.interop.icefall_sizes import transducer_config
from kdasr.nn.context import Context
from kdasr.recognition.recognizer import StreamingRecognizer
from kdasr.testing import SAMPLE_RATE, random_text, tone


@pytest.fixture
def options(tmp_path: Path, tokenizer: Tokenizer) -> ImportOptions:
    """Of a checkpoint that is still to be written."""
    tokens = tokenizer.model_path.parent
    return ImportOptions(checkpoint=tmp_path / "epoch-3.pt", tokens=tokens, out=tmp_path / "exp" / "teacher")


HEADS = {"num_heads": "2,3"}


def test_an_imported_training_decodes_and_teaches(options: ImportOptions) -> None:
    layout = Layout()
    layout.save_epoch(options.checkpoint)
    model = options.checkpoint.with_name("unigram.model")
    shutil.copyfile(options.tokens / "bpe.model", model)
    imported = import_icefall(replace(options, tokens=model))  # its file instead of its folder
    assert (imported.unused, imported.missing, imported.assumed) == ([], [], [])
    bundle = load_bundle(options.out)
    assert bundle.name == "teacher" and bundle.context == Context.full()
    assert bundle.model.config.encoder.stacks[1].unmasked_dim == 8  # type: ignore[attr-defined]
    weights = layout.weights()
    unused = sum(weights[name].numel() for name in weights if re.search(r"\d\.bypass_scale$", name))
    ours = dict(bundle.model.named_parameters())
    combine, conv = ours.pop("predictor.combine.weight"), weights["decoder.conv.weight"]
    assert int((combine != 0).sum()) == conv.numel()
    assert not ours.pop("predictor.combine.bias").any()
    kept = sum(value.numel() for value in ours.values())
    assert kept + conv.numel() + unused == sum(value.numel() for value in weights.values())
    recognizer = StreamingRecognizer(bundle)
    stream = recognizer.create_stream()
    stream.accept_waveform(SAMPLE_RATE, tone(1.0, 3))
    stream.input_finished()
    recognizer.decode_all([stream])
    assert stream.num_decoded > 20


def test_the_pieces_come_with_their_rule_and_a_table(options: ImportOptions, tmp_path: Path) -> None:
    """Also from a bare model file, without tokens.txt beside it."""
    Layout().save_weights(options.checkpoint)
    model = (options.tokens / "bpe.model").read_bytes()
    tokens = write_tokenizer(model, tmp_path / "lang", "upper-words").model_path
    tokens.with_name("tokens.txt").unlink()
    import_icefall(replace(options, tokens=tokens, options=HEADS))
    tokenizer = load_bundle(options.out).tokenizer
    assert tokenizer.normalize("don't, stop") == "DON'T STOP"
    assert (options.out / "tokens" / "tokens.txt").read_text().startswith("<blk> 0\n<sos/eos> 1\n<unk> 2\n")


def test_the_predictor_is_icefalls_grouped_convolution() -> None:
    weights = Layout().weights()
    config = transducer_config(weights, HEADS, "here")
    state, _, _ = converted(weights, config, "here")
    contexts_BK = torch.tensor([[-1, 0], [0, 5], [7, 7], [23, 1]])
    embedded = weights["decoder.embedding.weight"][contexts_BK.clamp(min=0)] * (contexts_BK >= 0)[..., None]
    expected_BD = functional.conv1d(embedded.transpose(1, 2), weights["decoder.conv.weight"], groups=2)
    found_BD = embedded.flatten(1) @ state["predictor.combine.weight"].T
    torch.testing.assert_close(found_BD, expected_BD.squeeze(2))


@pytest.mark.parametrize(("causal", "channels"), [(False, (8, 32, 128)), (True, (4, 6, 10))])
def test_sizes_follow_from_the_weights_where_no_options_are_stored(
    options: ImportOptions, causal: bool, channels: tuple[int, int, int]
) -> None:
    """But for what no shape tells: that is said."""
    layout = Layout(causal=causal, channels=channels)
    layout.save_epoch(options.checkpoint)
    stored = import_icefall(options).config
    alone = replace(options, out=options.out.with_name("alone"), options=HEADS)
    layout.save_weights(alone.checkpoint)
    imported = import_icefall(alone)
    assert imported.assumed == ["encoder_unmasked_dim"]
    stored.encoder.encoder_unmasked_dim = [8, 12]  # type: ignore[attr-defined]
    assert imported.config.encoder.stacks == stored.encoder.stacks  # type: ignore[attr-defined]
    assert imported.config.encoder.front_end_channels == channels  # type: ignore[attr-defined]
    assert imported.context == (STREAMING if causal else Context.full())


def test_what_is_missing_or_has_no_place_is_named(options: ImportOptions) -> None:
    given = replace(options, options=HEADS)
    Layout(ctc=False, simple=False, attention_decoder=True).save_weights(options.checkpoint)
    imported = import_icefall(given)
    heads = ("simple_am", "simple_lm", "ctc_head")
    assert imported.missing == [f"{head}.{kind}" for head in heads for kind in ("weight", "bias")]
    assert [name.split(".")[0] for name in imported.unused] == ["attention_decoder"] * 2
    name = "encoder.encoders.1.encoder.layers.1.self_attn2.out_proj.bias"
    for changes, said in [
        ({name: None}, f"it has no '{name}'"),
        ({"encoder.extra.weight": torch.ones(2)}, "nothing here has its 'encoder.extra.weight'"),
        ({name: torch.ones(5)}, "is (5,) there and (12,) in this model"),
        ({name: torch.full((12,), torch.nan)}, "not finite"),
        ({"decoder.embedding.weight": None}, "not a transducer: it has no 'decoder.embedding.weight'"),
        ({"encoder.downsample_output.bias": None}, "not a Zipformer2 of icefall"),
        ({"decoder.conv.weight": None}, "its decoder has a context of one piece"),
    ]:
        Layout().save_weights(options.checkpoint, **changes)
        with pytest.raises(UserError, match=re.escape(said)) as caught:
            import_icefall(replace(given, out=options.out.with_name("other")))
        assert str(options.checkpoint) in str(caught.value)
        assert not options.out.with_name("other").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"options": {}}, "stack 0 has queries of 8 channels in all, which is not 1 heads of 32"),
        ({"options": {"num_heads": "2,5"}}, "stack 1 has queries of 12 channels in all"),
        ({"options": {"num_heads": "two"}}, "num_heads is 'two'; expected numbers with commas between"),
        ({"options": {"num_heads": "2,3", "causal": "maybe"}}, "causal is 'maybe'; expected true or false"),
        (
            {"options": {"num_heads": "2,3", "num_encoder_layers": "1,3"}},
            "num_encoder_layers is [1, 3]; its weights are of [1, 2] layers",
        ),
        ({"options": {"head_count": "2"}}, "option head_count: expected one of num_encoder_layers,"),
        ({"context": Context(4, 3)}, "a zipformer2 needs model.encoder.causal=true for chunks"),
        ({"checkpoint": Path("nowhere.pt")}, "nowhere.pt: no such checkpoint"),
        ({"tokens": Path("nowhere")}, "no tokenizer model"),
    ],
)
def test_mistakes_are_named(options: ImportOptions, changes: dict[str, Any], said: str) -> None:
    Layout().save_weights(options.checkpoint)
    with pytest.raises(UserError, match=re.escape(said)):
        import_icefall(replace(options, **{"options": HEADS, **changes}))
    assert not options.out.exists()


def test_a_folder_with_a_model_is_left_alone(options: ImportOptions) -> None:
    Layout().save_epoch(options.checkpoint)
    (options.out / "checkpoints").mkdir(parents=True)  # as left by an import whose disk was full
    import_icefall(options)
    with pytest.raises(UserError, match="holds a model already"):
        import_icefall(options)


class Trap:
    """Writes a file when it is unpickled by a reader that runs what it reads."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_nothing_in_a_checkpoint_is_run(options: ImportOptions, tmp_path: Path) -> None:
    Layout().save_epoch(options.checkpoint, trap=Trap(tmp_path / "trapped"))
    with pytest.raises(UserError, match=r"would run posix\.mkdir, which no checkpoint needs"):
        import_icefall(options)
    assert not (tmp_path / "trapped").exists()
    Layout().save_epoch(options.checkpoint)
    for content in (b"", b"PK\x03\x04 cut off", options.checkpoint.read_bytes()[:9000]):
        options.checkpoint.write_bytes(content)
        with pytest.raises(UserError, match="damaged, or not a torch checkpoint"):
            read_icefall(options.checkpoint)
    torch.save([1, 2], options.checkpoint)
    with pytest.raises(UserError, match="it has no weights under 'model'"):
        read_icefall(options.checkpoint)


def test_a_file_of_torch_before_1_6_says_the_same(options: ImportOptions, tmp_path: Path) -> None:
    Layout().save_epoch(options.checkpoint)
    expected = read_icefall(options.checkpoint)
    content = torch.load(options.checkpoint, weights_only=False)
    old = tmp_path / "old.pt"
    torch.save(content, old, _use_new_zipfile_serialization=False)
    found = read_icefall(old)
    assert found.options == expected.options
    torch.testing.assert_close(found.weights, expected.weights, rtol=0, atol=0)
    torch.save(content | {"trap": Trap(tmp_path / "trapped")}, old, _use_new_zipfile_serialization=False)
    with pytest.raises(UserError, match=r"would run posix\.mkdir, which no checkpoint needs"):
        read_icefall(old)
    assert not (tmp_path / "trapped").exists()


def test_the_mean_since_a_checkpoint_is_of_the_batches_since(tmp_path: Path) -> None:
    """icefall counts in periods: 1100 and 450 batches are 1000 and 400."""
    layout = Layout()
    first = read_icefall(layout.save_epoch(tmp_path / "epoch-1.pt", batches=450, seed=3))
    last = read_icefall(layout.save_epoch(tmp_path / "epoch-2.pt", batches=1100, seed=8))
    found = averaged_since(first, last)
    for name, value in found.items():
        since_start, until_first = layout.weights(9)[name], layout.weights(4)[name]
        torch.testing.assert_close(600 * value + 400 * until_first, 1000 * since_start, atol=1e-3, rtol=1e-5)
    with pytest.raises(UserError, match="not later than"):
        averaged_since(last, first)
    layout.save_weights(tmp_path / "pretrained.pt")
    with pytest.raises(UserError, match="no running mean"):
        averaged_since(read_icefall(tmp_path / "pretrained.pt"), last)


def test_a_causal_model_of_one_that_is_not_computes_the_same(options: ImportOptions) -> None:
    """Under the full context. Under chunks, past frames count as in the full context."""
    Layout().save_epoch(options.checkpoint)
    import_icefall(options)
    student = replace(options, out=options.out.with_name("student"), causal=True)
    assert import_icefall(student).context == STREAMING
    plain, causal = load_bundle(options.out).model, load_bundle(student.out).model
    features_BTF, lens_B = torch.randn(2, 130, 80) - 5, torch.tensor([130, 97])
    with torch.no_grad():
        expected, found = (model.encode(features_BTF, lens_B, Context.full()) for model in (plain, causal))
        chunked = causal.encode(features_BTF, lens_B, Context(8, 4))
    for row, length in enumerate(expected.lens_B.tolist()):
        torch.testing.assert_close(
            found.encoded_BTD[row, :length], expected.encoded_BTD[row, :length], atol=1e-5, rtol=1e-5
        )
    assert not torch.allclose(chunked.encoded_BTD, found.encoded_BTD, atol=1e-3)


def test_the_command_says_what_it_did(options: ImportOptions) -> None:
    Layout(causal=True, ctc=False, attention_decoder=True).save_weights(options.checkpoint)
    arguments = ["import", "icefall", options.checkpoint, "--tokens", options.tokens, "--out", options.out]
    arguments += ["--option", "num-heads=2,3", "--left", 8, "--chunk", 4]
    result = CliRunner().invoke(cli, list(map(str, arguments)), catch_exceptions=False)
    for said in (
        f"into {options.out / 'checkpoints' / 'best.pt'}",
        "context: left=8 chunk=4 right=0",
        "not used: 2 weights, such as attention_decoder.",
        "set to 0: ctc_head.weight, ctc_head.bias",
        "assumed, as no weight tells: encoder_unmasked_dim",
    ):
        assert said in result.output
    assert load_bundle(options.out).context == Context(8, 4)
    wrong = CliRunner().invoke(cli, [*map(str, arguments[:-2])])
    assert "give both or neither" in str(wrong.exception)


def _truncated(options: ImportOptions) -> list[object]:
    options.checkpoint.write_bytes(options.checkpoint.read_bytes()[:20_000])
    return []


def _of_another_recipe(options: ImportOptions) -> list[object]:
    """pruned_transducer_stateless7: the first Zipformer, whose frames are put together by a query."""
    changes = {"encoder.downsample_output.bias": None, "encoder.downsample_output.query": torch.ones(12)}
    Layout().save_weights(options.checkpoint, **changes)
    return []


def _other_pieces(options: ImportOptions) -> list[object]:
    train_tokenizer([random_text(4, seed) for seed in range(50)], 20, options.out.parent / "tokens")
    return ["--tokens", options.out.parent / "tokens"]


def _odd_chunk(options: ImportOptions) -> list[object]:
    return ["--causal", "--option", "downsampling_factor=1,4", "--left", 8, "--chunk", 3]


@pytest.mark.parametrize(
    ("prepare", "said"),
    [
        (_truncated, "epoch-3.pt: damaged, or not a torch checkpoint"),
        (
            _of_another_recipe,
            "epoch-3.pt: not a Zipformer2 of icefall: it has no 'encoder.downsample_output.bias'",
        ),
        (_other_pieces, "20 pieces, but the model"),
        (_odd_chunk, "chunk must be a multiple of 2 frames, with model.encoder.downsampling_factor [1, 4]"),
    ],
    ids=["truncated", "stateless7", "tokens", "chunk"],
)
def test_the_command_names_bad_input_in_one_line(
    options: ImportOptions, prepare: Callable[[ImportOptions], list[object]], said: str
) -> None:
    Layout().save_weights(options.checkpoint)
    arguments = ["import", "icefall", options.checkpoint, "--tokens", options.tokens, "--out", options.out]
    found = kdasr(*arguments, "--option", "num-heads=2,3", *prepare(options)).exception
    assert isinstance(found, UserError)
    assert said in str(found) and "\n" not in str(found)
    assert not options.out.exists()
