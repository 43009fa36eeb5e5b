"""Epochs and hours of audio become steps: the same audio with any number of processes, and once for all."""

from dataclasses import replace
from pathlib import Path

import pytest

from kdasr.common.errors import UserError
from kdasr.data.data_config import DataConfig, JoinConfig
from kdasr.data.loader import TrainLoader
from kdasr.data.pace import Pace
from kdasr.data.tokenizer import Tokenizer
from kdasr.data.unpaired import InterleavedBatches
from kdasr.distillation.objective_config import RnntConfig, StageConfig
from kdasr.testing import dummy_cuts
from kdasr.training.clock import Timed, count_steps
from kdasr.training.schedule_file import SCHEDULE, planned_steps
from kdasr.training.training_config import OptimConfig, TrainerConfig

PACE = Pace(per_epoch=1000.0, hours=0.25)


def timed() -> Timed:
    """Everything in epochs or hours."""
    optim = OptimConfig(warmup_hours=50.0, eden_hours=1500.0, decay="eden")
    stages = [
        StageConfig(name="one", num_epochs=2.5, warmup_hours=10.0),
        StageConfig(name="two", num_hours=80.0),
        StageConfig(name="three", num_steps=7),
    ]
    return Timed(stages, TrainerConfig(validate_hours=25.0, optim=optim), RnntConfig(warmup_hours=5.0))


def in_steps(system: Timed) -> dict[str, float]:
    assert system.rnnt is not None
    optim = system.training.optim
    return {
        **{stage.name: stage.steps for stage in system.stages},
        **{"stage warm-up": system.stages[0].warmup_steps or 0, "warm-up": optim.warmup_steps},
        **{"validate": system.training.validate_every, "rnnt": system.rnnt.warmup_steps},
        **{"eden": optim.eden_steps, "epoch": optim.steps_per_epoch},
    }


def test_all_options_follow_one_clock() -> None:
    system = timed()
    system.fill_in(PACE)
    assert in_steps(system) == {
        **{"one": 2500, "two": 320, "three": 7, "stage warm-up": 40, "warm-up": 200},
        **{"validate": 100, "rnnt": 20, "eden": 6000, "epoch": 1000},
    }
    # What stays in steps stays what it was.
    assert system.stages[1].warmup_steps is None and system.stages[2].num_steps == 7


def test_more_processes_hear_the_same_audio() -> None:
    one, eight = timed(), timed()
    one.fill_in(PACE.of_steps(2))
    eight.fill_in(PACE.of_steps(16))
    for name, steps in in_steps(one).items():
        if name != "three":
            assert in_steps(eight)[name] * 8 == pytest.approx(steps, abs=8), name


def test_a_recipe_in_steps_asks_for_no_pace(tmp_path: Path) -> None:
    system = Timed([StageConfig(num_steps=3)], TrainerConfig(), RnntConfig())
    count_steps(system, tmp_path, lambda: pytest.fail("measured"), save=True)
    assert list(tmp_path.iterdir()) == []
    assert planned_steps([{"name": "train", "num_steps": 3}], tmp_path) == {"train": 3}


def test_a_run_keeps_the_pace_that_it_began_with(tmp_path: Path) -> None:
    began = timed()
    count_steps(began, tmp_path, lambda: PACE, save=True)
    goes_on = timed()
    count_steps(goes_on, tmp_path, lambda: pytest.fail("measured again"), save=True)
    assert in_steps(goes_on) == in_steps(began)
    # Longer ones, by the same pace.
    longer = replace(timed(), stages=[StageConfig(name="one", num_epochs=3.0)])
    count_steps(longer, tmp_path, lambda: pytest.fail("measured again"), save=False)
    assert longer.stages[0].steps == 3000
    stages = [{"name": "one", "num_epochs": 2.5}, {"name": "three", "num_steps": 7}, {"name": "unknown"}]
    assert planned_steps(stages, tmp_path) == {"one": 2500, "three": 7}


@pytest.mark.parametrize(
    "content", ["{}", '{"steps_per_epoch": 0, "hours_per_step": 1}', '{"steps_per_epoch": "x"}']
)
def test_a_damaged_pace_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / SCHEDULE).write_text(content)
    with pytest.raises(UserError, match=SCHEDULE):
        count_steps(timed(), tmp_path, lambda: PACE, save=True)


def test_text_has_epochs_and_no_hours() -> None:
    text = Pace(10.0, None)
    system = Timed([StageConfig(num_epochs=2)], TrainerConfig())
    system.fill_in(text)
    assert system.stages[0].steps == 20
    with pytest.raises(UserError, match=r"'train': num_hours: 2: text has no hours"):
        Timed([StageConfig(num_hours=2)], TrainerConfig()).fill_in(text)
    with pytest.raises(UserError, match=r"training\.validate_hours"):
        Timed([StageConfig(num_steps=2)], TrainerConfig(validate_hours=1.0)).fill_in(text)


JOIN = JoinConfig(enabled=True, max_seconds=8.0)


@pytest.mark.parametrize("join", [JoinConfig(), JOIN], ids=["single", "joined"])
def test_so_many_steps_are_so_many_passes(tokenizer: Tokenizer, join: JoinConfig) -> None:
    """Whatever padding and pauses take of a batch."""
    cuts = dummy_cuts(90)
    config = DataConfig(max_duration=20.0, num_buckets=3, join=join)
    loader = TrainLoader(cuts, tokenizer, config, seed=1)
    pace = loader.pace()
    hours = sum(cut.duration for cut in cuts) / 3600
    assert pace.hours is not None and pace.hours * pace.per_epoch == pytest.approx(hours)
    assert pace.per_epoch > 1.05 * hours * 3600 / 20.0  # a batch is never full
    for _ in range(round(3 * pace.per_epoch)):
        next(loader)
    state = loader.state_dict()
    passes = state["epoch"] + state["step"] / pace.per_epoch
    assert passes == pytest.approx(3, abs=0.15 if join.enabled else 0.05)
    for rank in range(2):
        assert TrainLoader(cuts, tokenizer, config, seed=1, rank=rank, world_size=2).pace() == pace


def test_an_epoch_is_a_pass_over_the_speech_with_transcripts(tokenizer: Tokenizer) -> None:
    config = DataConfig(max_duration=20.0, num_buckets=2)
    paired, unpaired = (TrainLoader(dummy_cuts(count), tokenizer, config, seed=1) for count in (20, 60))
    both = InterleavedBatches(paired, unpaired, ratio=4)
    steps = round(both.pace().per_epoch)
    epochs = set()
    for _ in range(steps):
        next(both)
        epochs.add(paired.epoch)
    next(both)
    assert epochs == {0} and paired.epoch == 1
    ours, theirs, mean = paired.pace().hours, unpaired.pace().hours, both.pace().hours
    assert None not in (ours, theirs, mean)
    assert mean == pytest.approx((ours + 4 * theirs) / 5)  # type: ignore[operator]
