from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_system import TWO_TERMS, VOCAB, fit, small_config, small_model, tiny_system, trainer_config

from kdasr.checkpoint import average_checkpoints, load_checkpoint, save_checkpoint
from kdasr.common.configio import config_to_dict
from kdasr.common.errors import UserError
from kdasr.distillation.objective_config import StageConfig
from kdasr.models.transducer.build import build_transducer
from kdasr.models.transducer.model import Transducer
from kdasr.models.transducer.transducer_config import TransducerConfig
from kdasr.nn.context import Context
from kdasr.training.stage import (
    checkpoints_to_average,
    freeze,
    initial_checkpoint,
    initialize,
    stages_until,
)
from kdasr.training.system import System
from zipformer2_models import small_config as zipformer_config


def stage(name: str, **options: object) -> StageConfig:
    defaults: dict = {"num_steps": 2, "loss_weights": TWO_TERMS}
    return StageConfig(name=name, **{**defaults, **options})


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a trained system, beside which others may be made."""
    folder = tmp_path_factory.mktemp("exp") / "teacher"
    fit(tiny_system(folder, model=small_model(seed=4)))
    return folder


def weights(path: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(path)["model"]


def test_a_folder_beside_this_one_gives_its_best_weights(trained: Path) -> None:
    # No steps: the stage's checkpoint holds what it started from.
    system = tiny_system(trained.parent / "student", stages=[stage("only", num_steps=0, init_from="teacher")])
    trainer = fit(system)
    for name, value in weights(trained / "checkpoints" / "best.pt").items():
        assert torch.equal(value, system.model.state_dict()[name]), name
    assert not trainer.progress.from_scratch


def test_averaged_weights_are_preferred_to_the_best(trained: Path, tmp_path: Path) -> None:
    payload = load_checkpoint(trained / "checkpoints" / "best.pt")
    folder = tmp_path / "checkpoints"
    for name in ("best", "averaged", "last"):
        save_checkpoint(folder / f"{name}.pt", payload)
    stages = [stage("only", init_from=str(tmp_path))]
    assert initial_checkpoint(stages, 0, tmp_path / "x" / "y") == folder / "averaged.pt"
    (folder / "averaged.pt").unlink()
    assert initial_checkpoint(stages, 0, tmp_path / "x" / "y") == folder / "best.pt"
    (folder / "best.pt").unlink()
    assert initial_checkpoint(stages, 0, tmp_path / "x" / "y") == folder / "last.pt"


def test_stages_continue_by_default_and_go_back_when_told(tmp_path: Path) -> None:
    stages = [
        stage("one"),
        stage("two"),
        stage("continued", num_steps=0),
        stage("back", num_steps=0, init_from="one"),
    ]
    trainer = fit(tiny_system(tmp_path, stages=stages))
    saved = {path.name.split("-")[0]: weights(path) for path in (tmp_path / "checkpoints").glob("*-*.pt")}
    for name in saved["one"]:
        assert torch.equal(saved["continued"][name], saved["two"][name]), name
        assert torch.equal(saved["back"][name], saved["one"][name]), name
    assert not torch.equal(saved["one"]["joiner.output.weight"], saved["two"]["joiner.output.weight"])
    assert trainer.progress.from_scratch


def test_a_stage_starts_from_what_is_averaged_of_the_one_before(tmp_path: Path) -> None:
    """The last `keep_last` checkpoints: the same as `kdasr average` takes, and for a stage that goes back."""
    config = trainer_config(validate_every=2, keep_last=2)
    one = stage("one", num_steps=6)
    fit(tiny_system(tmp_path / "alone", stages=[one], config=config))
    paths = checkpoints_to_average(tmp_path / "alone", "one", config)
    assert [path.name for path in paths] == ["one-0000004.pt", "one-0000006.pt"]
    expected = average_checkpoints(paths)["model"]
    stages = [one, stage("next", num_steps=0), stage("two"), stage("back", num_steps=0, init_from="one")]
    fit(tiny_system(tmp_path / "chain", stages=stages, config=config))
    for name in ("next-0000006.pt", "back-0000008.pt"):
        start = weights(tmp_path / "chain" / "checkpoints" / name)
        assert all(torch.equal(start[key], expected[key]) for key in expected), name
    assert not torch.equal(weights(paths[-1])["joiner.output.weight"], expected["joiner.output.weight"])


def test_a_start_from_a_file_brings_feature_statistics(trained: Path, tmp_path: Path) -> None:
    path = trained / "checkpoints" / "only-0000003.pt"
    payload = load_checkpoint(path)
    norm = next(name for name in payload["model"] if name.endswith("mean_F"))
    payload["model"][norm] = torch.full_like(payload["model"][norm], 0.25)
    save_checkpoint(tmp_path / "start.pt", payload)
    model = small_model()
    model.set_feature_stats(torch.zeros(16), torch.ones(16))
    fit(
        tiny_system(
            tmp_path / "exp", model=model, stages=[stage("only", init_from=str(tmp_path / "start.pt"))]
        )
    )
    assert float(model.state_dict()[norm].mean()) == 0.25


def student(exp_dir: Path, model: Transducer, init_from: Path) -> System:
    return tiny_system(exp_dir, model=model, stages=[stage("only", init_from=str(init_from))])


def test_another_width_names_the_tensor_and_both_shapes(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"architecture.*'encoder\..*\(\d*16.*\(\d*12"):
        fit(student(tmp_path, small_model(dim=12), trained))


def test_another_vocabulary_names_the_tensor_and_both_shapes(trained: Path, tmp_path: Path) -> None:
    model = build_transducer(replace(small_config(), vocab_size=VOCAB + 2))
    with pytest.raises(UserError, match=r"predictor.*\(11, 16\).*\(13, 16\)"):
        fit(student(tmp_path, model, trained))


def test_other_tokens_of_the_same_number_are_refused(trained: Path, tmp_path: Path) -> None:
    payload = load_checkpoint(trained / "checkpoints" / "best.pt")
    save_checkpoint(tmp_path / "other.pt", {**payload, "tokenizer_fingerprint": "digits"})
    with pytest.raises(UserError, match=r"other\.pt.*other tokens"):
        fit(student(tmp_path / "exp", small_model(), tmp_path / "other.pt"))


def test_a_start_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"stage 'only'.*init_from.*nowhere"):
        fit(student(tmp_path, small_model(), Path("nowhere")))


def test_frozen_parts_are_free_again_in_the_next_stage(tmp_path: Path) -> None:
    start = {name: value.clone() for name, value in small_model().state_dict().items()}
    stages = [stage("frozen", freeze=["encoder", "joiner.output"]), stage("free")]
    fit(tiny_system(tmp_path, stages=stages))
    frozen = weights(tmp_path / "checkpoints" / "frozen-0000002.pt")
    free = weights(tmp_path / "checkpoints" / "free-0000004.pt")
    moved = {name for name in frozen if not torch.equal(frozen[name], start[name])}
    assert moved and not any(name.startswith(("encoder", "joiner.output")) for name in moved)
    assert any(not torch.equal(free[name], frozen[name]) for name in free if name.startswith("encoder"))


def test_a_prefix_that_fits_nothing_is_named() -> None:
    with pytest.raises(UserError, match=r"'encodr'.*encoder"):
        freeze(small_model(), ["encodr"], "only")


def test_nothing_left_to_train_is_refused() -> None:
    with pytest.raises(UserError, match="nothing to train"):
        freeze(small_model(), [""], "only")


def test_until_stage_is_inclusive_and_must_exist() -> None:
    stages = [stage("a"), stage("b"), stage("c")]
    assert [s.name for s in stages_until(stages, "b")] == ["a", "b"]
    assert len(stages_until(stages, None)) == 3
    with pytest.raises(UserError, match=r"'d'.*a, b, c"):
        stages_until(stages, "d")


def test_a_causal_zipformer_starts_from_one_that_is_not(tmp_path: Path) -> None:
    """Under the full context it computes what that one does; the reverse is another architecture."""
    config = TransducerConfig(vocab_size=VOCAB, encoder=zipformer_config(causal=False), joiner_dim=8)
    teacher = build_transducer(config).eval()
    student = build_transducer(replace(config, encoder=zipformer_config(causal=True))).eval()
    for name, model in (("teacher", teacher), ("student", student)):
        payload = {"model_config": config_to_dict(model.config), "model": model.state_dict()}
        payload |= {"context": {"left": -1, "chunk": -1, "right": 0}, "tokenizer_fingerprint": "same"}
        save_checkpoint(tmp_path / f"{name}.pt", {**payload, "system": name, "train_steps": 1})
    with pytest.raises(UserError, match="another architecture"):
        initialize(teacher, tmp_path / "student.pt", "same")
    initialize(student, tmp_path / "teacher.pt", "same")
    features_BTF, lens_B = torch.randn(2, 91, 80), torch.tensor([91, 60])
    expected, found = (m.encode(features_BTF, lens_B, Context.full()).encoded_BTD for m in (teacher, student))
    assert torch.allclose(found, expected, atol=1e-5)
