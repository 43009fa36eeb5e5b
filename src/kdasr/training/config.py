"""How the optimizer runs and how often things are logged, checked and kept."""

from dataclasses import dataclass, field


@dataclass
class OptimConfig:
    """An optimizer with linear warm-up and a decay to `final_fraction` at the end of the stage."""

    optimizer: str = "adamw"
    """adamw | muon: Muon for the encoder's matrices, AdamW for the rest. The demo uses it because it left the
    blank plateau sooner in a trial there."""
    learning_rate: float = 1e-3
    betas: list[float] = field(default_factory=lambda: [0.9, 0.98])
    weight_decay: float = 1e-2
    warmup_steps: int = 200
    decay: str = "cosine"
    """cosine | linear | inverse-sqrt | constant."""
    final_fraction: float = 0.05
    clip_norm: float = 5.0
    accumulate: int = 1
    """Batches per optimizer step."""


@dataclass
class TrainerConfig:
    """Devices, precision, and the rhythm of logs, validations and checkpoints."""

    accelerator: str = "auto"
    precision: str = "32-true"
    """32-true | bf16-mixed (Lightning Fabric's names)."""
    num_threads: int = 0
    """Torch threads on the CPU; 0: leave torch's default."""
    log_every: int = 50
    validate_every: int = 250
    keep_last: int = 5
    """Validation checkpoints kept for averaging, besides the best one."""
    max_valid_batches: int = 0
    """0: the whole dev part."""
    max_bad_batches: int = 10
    """Stop after this many non-finite batches in a row."""
    optim: OptimConfig = field(default_factory=OptimConfig)
