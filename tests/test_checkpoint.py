import resource
import shutil
import signal
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_system import processes

from kdasr.bundle import load_bundle
from kdasr.checkpoint import (
    average_checkpoints,
    find_checkpoint,
    load_checkpoint,
    load_model,
    load_weights,
    save_checkpoint,
)
from kdasr.common.configio import config_to_dict
from kdasr.common.errors import UserError
from kdasr.data.tokenizer import Tokenizer
from kdasr.models.transducer.build import build_transducer
from kdasr.nn.context import Context
from kdasr.testing import dummy_batch, tiny_config, tiny_model


def payload(seed: int = 0, vocab_size: int = 24, fingerprint: str = "pieces") -> dict[str, Any]:
    model = tiny_model(seed, vocab_size)
    return {
        "model_config": config_to_dict(model.config),
        "model": model.state_dict(),
        "context": asdict(Context(left=8, chunk=4, right=1)),
        "tokenizer_fingerprint": fingerprint,
        "system": "tiny",
        "train_steps": 12,
    }


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "model.pt"
    save_checkpoint(path, payload())
    return path


def experiment(
    folder: Path, tokenizer: Tokenizer, names: tuple[str, ...] = ("last",), **options: Any
) -> Path:
    """An experiment folder with these checkpoints, all alike but for the system's name."""
    for name in names:
        content = payload(fingerprint=tokenizer.fingerprint, **options)
        save_checkpoint(folder / "checkpoints" / f"{name}.pt", {**content, "system": name})
    shutil.copytree(tokenizer.model_path.parent, folder / "tokens")
    return folder


def test_a_model_comes_back_as_it_was(saved: Path) -> None:
    model, loaded = load_model(saved)
    original, batch = tiny_model(0, 24).eval(), dummy_batch()
    for module in (model, original):
        assert not module.training
    encoded = [
        m.encode(batch.features_BTF, batch.feature_lens_B, Context.full()).encoded_BTD
        for m in (model, original)
    ]
    assert torch.equal(*encoded)
    assert loaded["train_steps"] == 12 and model.config == tiny_config(24)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.pt: no such checkpoint"):
        load_checkpoint(tmp_path / "nowhere.pt")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_file_is_named(saved: Path, share: float) -> None:
    content = saved.read_bytes()
    saved.write_bytes(content[: int(share * len(content))])
    with pytest.raises(UserError, match=r"model\.pt.*truncated"):
        load_checkpoint(saved)


def test_files_of_other_programs_are_refused(tmp_path: Path) -> None:
    text, tensors = (tmp_path / name for name in ("text.pt", "tensors.pt"))
    text.write_text("not a checkpoint at all\n")
    torch.save({"state_dict": {"w": torch.ones(2)}}, tensors)
    for path in (text, tensors):
        with pytest.raises(UserError, match=path.name):
            load_checkpoint(path)


class Intruder:
    """Runs code when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trace,)


def test_code_in_a_file_is_not_run(saved: Path, tmp_path: Path) -> None:
    torch.save({**torch.load(saved, weights_only=True), "extra": Intruder(tmp_path / "trace")}, saved)
    with pytest.raises(UserError, match=r"model\.pt"):
        load_checkpoint(saved)
    assert not (tmp_path / "trace").exists()


def test_a_checkpoint_of_version_1_is_the_model_that_was_saved() -> None:
    """Written before encoders had types; the numbers are what that version computed from it."""
    model, loaded = load_model(Path(__file__).parent / "checkpoint_version_1.pt")
    assert (loaded["version"], model.config.encoder.type) == (2, "conformer")
    features_BTF = torch.sin(torch.arange(19.0 * 16)).view(1, 19, 16)
    with torch.no_grad():
        encoded = model.encode(features_BTF, torch.tensor([19]), Context(left=4, chunk=2))
        logits_BTV = model.ctc_head(encoded.encoded_BTD)
    assert encoded.lens_B.tolist() == [4]
    expected_T2 = [[-0.239241, 0.289986], [-0.140480, 0.349299], [-0.221907, 0.224735], [-0.141911, 0.356081]]
    torch.testing.assert_close(logits_BTV[0, :, :2], torch.tensor(expected_T2), atol=1e-5, rtol=0)


def test_another_version_of_the_format_is_refused(saved: Path) -> None:
    content = torch.load(saved, weights_only=True)
    torch.save({**content, "version": 99}, saved)
    with pytest.raises(UserError, match="version 99"):
        load_checkpoint(saved)


def test_an_incomplete_checkpoint_names_what_it_lacks(tmp_path: Path) -> None:
    content = payload()
    del content["context"]
    save_checkpoint(tmp_path / "model.pt", content)
    with pytest.raises(UserError, match="lacks 'context'"):
        load_checkpoint(tmp_path / "model.pt")


def test_another_architecture_names_the_first_difference() -> None:
    config = tiny_config()
    model, state = tiny_model(), tiny_model().state_dict()
    wider = build_transducer(replace(config, joiner_dim=20)).state_dict()
    with pytest.raises(UserError, match=r"start\.pt.*'joiner.*20.*16"):
        load_weights(model, wider, "start.pt")
    deeper = build_transducer(replace(config, encoder=replace(config.encoder, num_layers=3))).state_dict()
    with pytest.raises(UserError, match=r"its 'encoder\.layers\.2"):
        load_weights(model, deeper, "start.pt")
    name = "ctc_head.bias"
    with pytest.raises(UserError, match=f"no '{name}'"):
        load_weights(model, {key: value for key, value in state.items() if key != name}, "start.pt")


def test_a_refused_start_changes_nothing() -> None:
    model, before = tiny_model(), tiny_model().state_dict()
    state = tiny_model(seed=1).state_dict()
    state["ctc_head.bias"] = torch.zeros(3)
    with pytest.raises(UserError):
        load_weights(model, state, "start.pt")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_average_is_the_mean_of_weights_and_the_rest_is_of_the_last(tmp_path: Path) -> None:
    paths = []
    for seed in range(3):
        content = payload(seed)
        content["model"]["count"] = torch.tensor(seed)
        paths.append(tmp_path / f"{seed}.pt")
        save_checkpoint(paths[-1], {**content, "train_steps": seed, "trainer": {"step": seed}})
    averaged = average_checkpoints(paths)
    models = [load_checkpoint(path)["model"] for path in paths]
    for name, value in averaged["model"].items():
        if name == "count":
            assert int(value) == 2
            continue
        expected = torch.stack([model[name].double() for model in models]).mean(dim=0)
        assert torch.equal(value, expected.float()), name
    assert averaged["train_steps"] == 2 and "trainer" not in averaged


def test_averaging_different_architectures_is_refused(tmp_path: Path) -> None:
    for name, vocab_size in (("a", 24), ("b", 25)):
        save_checkpoint(tmp_path / f"{name}.pt", payload(vocab_size=vocab_size))
    with pytest.raises(UserError, match=r"b\.pt"):
        average_checkpoints([tmp_path / "a.pt", tmp_path / "b.pt"])
    with pytest.raises(UserError, match="no checkpoints"):
        average_checkpoints([])


def test_a_bundle_prefers_averaged_then_best_then_last(tmp_path: Path, tokenizer: Tokenizer) -> None:
    exp = experiment(tmp_path / "exp", tokenizer, ("averaged", "best", "last"))
    for name in ("averaged", "best", "last"):
        assert load_bundle(exp).name == name
        (exp / "checkpoints" / f"{name}.pt").unlink()
    with pytest.raises(UserError, match=r"exp: no trained model"):
        load_bundle(exp)
    with pytest.raises(UserError, match=r"name one of its systems: exp$"):
        load_bundle(tmp_path)


def test_a_bundle_is_complete(tmp_path: Path, tokenizer: Tokenizer) -> None:
    exp = experiment(tmp_path / "exp", tokenizer, ("best", "last"))
    bundle = load_bundle(exp, "last")
    assert bundle.name == "last" and bundle.train_steps == 12
    assert bundle.context == Context(left=8, chunk=4, right=1)
    assert bundle.tokenizer.fingerprint == tokenizer.fingerprint
    # A file stands for itself, and finds the tokens of its folder.
    assert load_bundle(exp / "checkpoints" / "best.pt").path == exp / "checkpoints" / "best.pt"
    assert find_checkpoint(exp, "best.pt") == exp / "checkpoints" / "best.pt"


def test_a_bundle_that_is_not_there_is_named(tmp_path: Path, tokenizer: Tokenizer) -> None:
    exp = experiment(tmp_path / "exp", tokenizer)
    with pytest.raises(UserError, match="no checkpoint 'second'"):
        load_bundle(exp, "second")
    with pytest.raises(UserError, match="nowhere"):
        load_bundle(tmp_path / "nowhere")
    shutil.rmtree(exp / "tokens")
    with pytest.raises(UserError, match="tokens"):
        load_bundle(exp)


def test_tokens_of_another_model_are_refused(tmp_path: Path, tokenizer: Tokenizer) -> None:
    exp = experiment(tmp_path / "exp", tokenizer)
    save_checkpoint(exp / "checkpoints" / "last.pt", payload(fingerprint="others"))
    with pytest.raises(UserError, match="tokens do not match"):
        load_bundle(exp)
    other = experiment(tmp_path / "other", tokenizer, vocab_size=30)
    with pytest.raises(UserError, match=r"24 pieces.*30"):
        load_bundle(other)


def overwrite_on_a_full_disk(path: Path, messages: Any) -> None:
    """Replace a checkpoint where no file may grow beyond 60 kB."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
    try:
        save_checkpoint(path, payload(seed=1))
    except UserError as error:
        messages.put(str(error))
    else:
        messages.put("written")


def test_a_full_disk_leaves_the_previous_checkpoint_and_says_so(saved: Path) -> None:
    before = saved.read_bytes()
    assert len(before) > 60_000
    messages = processes.SimpleQueue()
    child = processes.Process(target=overwrite_on_a_full_disk, args=(saved, messages))
    child.start()
    child.join()
    assert not messages.empty()
    message = messages.get()
    assert "full" in message and str(saved) in message and "previous one" in message
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


def test_other_write_errors_are_not_called_a_full_disk(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise OSError(5, "input/output error")

    monkeypatch.setattr(torch, "save", broken)
    with pytest.raises(OSError, match="input/output"):
        save_checkpoint(saved, payload())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("train_steps", value) for value in (-1, 2.5, float("nan"), True, "7")),
        *(("system", value) for value in (None, 3)),
        *(("model_config", value) for value in (None, 3, [1])),
        *(("model", value) for value in (None, 3, [1])),
        *(("context", value) for value in (None, 3, [])),
        ("tokenizer_fingerprint", 5),
    ],
)
def test_a_value_of_another_kind_is_named(tmp_path: Path, key: str, value: Any) -> None:
    save_checkpoint(tmp_path / "model.pt", {**payload(), key: value})
    with pytest.raises(UserError, match=rf"model\.pt: '{key}' is "):
        load_model(tmp_path / "model.pt")


@pytest.mark.parametrize(
    "context", [{}, {"left": 8}, {"left": 8, "chunk": 0, "right": 0}, {"chunk": 4.5}, {"x": 1}]
)
def test_a_context_that_there_is_not_is_named(tmp_path: Path, tokenizer: Tokenizer, context: dict) -> None:
    folder = experiment(tmp_path / "exp", tokenizer)
    content = {**payload(fingerprint=tokenizer.fingerprint), "context": context}
    save_checkpoint(folder / "checkpoints" / "last.pt", content)
    with pytest.raises(UserError, match=r"last\.pt: 'context' is"):
        load_bundle(folder)


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        (torch.full((24,), float("nan")), "not finite"),
        (torch.cat([torch.zeros(23), torch.tensor([float("inf")])]), "not finite"),
        (torch.zeros(24, dtype=torch.complex64), "complex64"),
        (torch.zeros(24, dtype=torch.int64), "int64"),
        ("text", "expected a tensor"),
    ],
)
def test_weights_that_are_none_are_named(tmp_path: Path, value: Any, fault: str) -> None:
    content = payload()
    content["model"]["joiner.output.bias"] = value
    save_checkpoint(tmp_path / "model.pt", content)
    with pytest.raises(UserError, match=rf"model\.pt: 'joiner\.output\.bias'.*{fault}"):
        load_model(tmp_path / "model.pt")


@pytest.mark.parametrize("place", [0.3, 0.6, 0.8])
def test_a_flipped_bit_in_a_weight_is_noticed(saved: Path, place: float) -> None:
    content = bytearray(saved.read_bytes())
    content[int(place * len(content))] ^= 16
    saved.write_bytes(content)
    with pytest.raises(UserError, match="damaged"):
        load_checkpoint(saved)


@pytest.mark.parametrize(
    "key",
    [
        "vocab_size",
        "num_features",
        "joiner_dim",
        "predictor.context_size",
        "encoder.num_layers",
        "encoder.ffn_dim",
    ],
)
@pytest.mark.parametrize("value", [900, 500_000, 10**9, 2**48, 10**20])
def test_a_size_that_is_not_the_weights_is_named(tmp_path: Path, key: str, value: int) -> None:
    """Before the memory for it is asked for: 500,000 features take 4 GB."""
    content = payload()
    *sections, name = key.split(".")
    holder = content["model_config"]
    for section in sections:
        holder = holder[section]
    holder[name] = value
    save_checkpoint(tmp_path / "model.pt", content)
    with pytest.raises(UserError, match=rf"model\.pt: (another architecture|model_config.*{name})"):
        load_model(tmp_path / "model.pt")


def test_an_average_has_no_part_that_is_not_finite(tmp_path: Path) -> None:
    for name, value in (("one", 1.0), ("two", float("nan"))):
        content = payload()
        content["model"]["joiner.output.bias"][0] = value
        save_checkpoint(tmp_path / f"{name}.pt", content)
    with pytest.raises(UserError, match=r"two\.pt: 'joiner\.output\.bias' holds values that are not finite"):
        average_checkpoints([tmp_path / "one.pt", tmp_path / "two.pt"])
