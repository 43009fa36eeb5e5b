"""How the optimizer runs and how often things are logged, checked and kept."""

from dataclasses import dataclass, field
from typing import Annotated

from kdasr.common.ranges import EXPERIMENTAL, MAY_CHANGE, Items, OneOf, above, at_least, between

OPTIMIZERS = ("adamw", "muon", "scaled-adam")
DECAYS = ("cosine", "linear", "inverse-sqrt", "constant", "eden")
PRECISIONS = ("32-true", "bf16-mixed")


@dataclass
class OptimConfig:
    """An optimizer with linear warm-up and a decay to `final_fraction` at the end of the stage.

    What is in hours of audio is the same for any number of processes; it takes the place of the option in
    steps.
    """

    optimizer: Annotated[str, OneOf(*OPTIMIZERS)] = "adamw"
    """adamw; muon: Muon for the matrices of the encoder and AdamW for the rest (the demo uses it: in a trial
    it began to emit pieces after fewer steps); scaled-adam: that of Zipformer, to be used with `decay: eden`
    and a learning rate of 0.045. It has no weight decay, and `clipping_scale` in place of `clip_norm`."""
    learning_rate: Annotated[float, above(0)] = 1e-3
    """The peak."""
    betas: Annotated[list[float], between(0, 1, below=True), Items(exactly=2, unique=False)] = field(
        default_factory=lambda: [0.9, 0.98]
    )
    """Of AdamW and of the parameters that Muon leaves to it."""
    weight_decay: Annotated[float, at_least(0)] = 1e-2
    """Decoupled, per step and unit of learning rate."""
    warmup_steps: Annotated[int, at_least(0)] = 200
    """Steps of a linear rise to the peak."""
    warmup_hours: Annotated[float | None, at_least(0)] = None
    """The warm-up in hours of audio, instead."""
    decay: Annotated[str, OneOf(*DECAYS)] = "cosine"
    """How the learning rate falls after the warm-up. eden: by steps and epochs, whatever the length of the
    stage."""
    eden_steps: Annotated[float, above(0)] = 7500.0
    """Steps at which Eden is down to 0.84 of the peak; it goes on as the inverse square root of steps."""
    eden_hours: Annotated[float | None, above(0)] = None
    """The same in hours of audio, instead."""
    eden_epochs: Annotated[float, above(0)] = 3.5
    """The same in epochs: Eden is the product of a factor by steps and one by epochs."""
    steps_per_epoch: Annotated[int, at_least(0)] = 0
    """Steps that Eden takes for an epoch; 0: as many as there are, which are counted at the start."""
    final_fraction: Annotated[float, between(0, 1)] = 0.05
    """Share of the peak that is left at the end."""
    clip_norm: Annotated[float, above(0, infinite=True)] = 5.0
    """Largest norm of the gradient of a step."""
    clipping_scale: Annotated[float, above(0, infinite=True)] = 2.0
    """Of scaled-adam, in place of `clip_norm`: how many times the median norm a gradient may have."""
    accumulate: Annotated[int, at_least(1)] = 1
    """Batches per optimizer step."""


@dataclass
class TrainerConfig:
    """Devices, precision, and the rhythm of logs, validations and checkpoints."""

    accelerator: Annotated[str, MAY_CHANGE] = "auto"
    """cpu, cuda, or auto: a GPU where there is one."""
    precision: Annotated[str, OneOf(*PRECISIONS)] = "32-true"
    """Of numbers in training, as Lightning Fabric names it: float32, or bfloat16 beside float32 weights."""
    split_batches: Annotated[int, at_least(1), MAY_CHANGE] = 1
    """Compute each batch in so many pieces, one after another: in less memory, to the same gradient but for
    rounding and dropout."""
    recompute_layers: Annotated[bool, MAY_CHANGE] = False
    """Keep only what goes into each layer of the encoder for the backward pass, and compute the layer again
    there: less memory, a third more work in the encoder, the same gradient.
    An encoder that cannot refuses it."""
    num_threads: Annotated[int, at_least(0), MAY_CHANGE] = 0
    """Torch threads on the CPU; 0: leave torch's default."""
    log_every: Annotated[int, at_least(1), MAY_CHANGE] = 50
    """Steps between two lines of the log."""
    validate_every: Annotated[int, at_least(1)] = 250
    """Steps from one validation, and so from one checkpoint, to the next."""
    validate_hours: Annotated[float | None, above(0)] = None
    """The same in hours of audio, instead."""
    keep_last: Annotated[int, at_least(0)] = 5
    """Checkpoints of the last validations kept, besides the best one. Their average is what `kdasr average`
    makes of a stage, and what the next stage starts from."""
    average_decay: Annotated[float, between(0, 1, below=True), EXPERIMENTAL] = 0.0
    """Keep a running average of the weights, of which this share stays at each step: 0.999 for about the last
    1,000 steps. It is what is validated and kept, in place of an average of checkpoints; 0: there is none."""
    save_minutes: Annotated[float, above(0, infinite=True), MAY_CHANGE] = 30.0
    """Minutes after which `last.pt` is written again, apart from validations; `.inf`: never."""
    max_valid_batches: Annotated[int, at_least(0)] = 0
    """Batches of a validation at most; 0: the whole dev parts."""
    max_bad_batches: Annotated[int, at_least(1), MAY_CHANGE] = 10
    """Stop after this many non-finite batches in a row."""
    max_lost: Annotated[float, between(0, 1), MAY_CHANGE] = 0.05
    """Stop when no path fits more than this share of a stage's utterances: too few frames for their pieces,
    or word times that leave no room for them."""
    optim: OptimConfig = field(default_factory=OptimConfig)
