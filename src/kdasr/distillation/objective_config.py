"""What the training objective is made of: terms, their weights and their settings."""

from dataclasses import dataclass, field
from typing import Annotated

from kdasr.common.ranges import EXPERIMENTAL, MAY_CHANGE, MAY_MOVE, Items, OneOf, above, at_least, between
from kdasr.data.batch import TEACHER_FEATURES
from kdasr.decoding.expansion import MAX_PENALTY
from kdasr.losses.pruned_rnnt.backend import BACKENDS
from kdasr.losses.pruned_rnnt.checks import RNNT_TYPES

WEIGHTS = ("prior", "uniform", "confidence")
NORMALIZERS = ("frames", "utterances")
UPDATES = ("better", "never")
FOLLOW = ("while_ahead", "always")
LABELS, DISTILLATION = METHODS = ("labels", "distillation")
"""How a system learns from speech without transcripts."""
STEPS, JOINT = MIXINGS = ("steps", "joint")
SEARCH, ONCE, GIVEN, NO_TEXT = SOURCES = ("search", "once", "given", "none")
"""What stands for a transcript in distillation without transcripts."""
LENGTHS = ("num_steps", "num_epochs", "num_hours")
"""The options of a stage of which one says how long it is."""


@dataclass
class RnntConfig:
    """Pruned RNN-T (Kuang et al. 2022)."""

    backend: Annotated[str, OneOf(*BACKENDS), MAY_CHANGE] = "auto"
    """Which code computes the loss. auto: k2 where it runs and has what is asked for, else native; k2,
    native: that one."""
    rnnt_type: Annotated[str, OneOf(*RNNT_TYPES)] = "regular"
    """Lattice of the loss. regular: a frame may emit several pieces; modified: at most one; constrained: as
    modified, and each piece is followed by a blank."""
    prune_range: Annotated[int, at_least(2)] = 5
    """Pieces per frame that the pruned lattice keeps."""
    keep_logits: Annotated[bool, MAY_CHANGE] = True
    """Keep the logits of the lattice for the backward pass; false makes them twice instead. `output_kl`
    keeps its own gradient either way."""
    lm_scale: Annotated[float, between(0, 1)] = 0.25
    """Share of the predictor alone in the simple joiner's logits (k2)."""
    am_scale: Annotated[float, between(0, 1)] = 0.0
    """Share of the encoder alone in them."""
    simple_scale: Annotated[float, at_least(0)] = 0.5
    """Weight of the simple loss after the warm-up; it starts at 1."""
    pruned_start: Annotated[float, at_least(0)] = 0.1
    """Weight of the pruned loss at the first step; it ends at 1."""
    warmup_steps: Annotated[int, at_least(0)] = 500
    """Steps over which both weights move; counted from the start of a run that begins from scratch."""
    warmup_hours: Annotated[float | None, at_least(0)] = None
    """The same in hours of audio, instead."""
    delay_penalty: Annotated[float, at_least(0)] = 0.0
    """Nats per frame in favor of early pieces, in the simple and the pruned loss, after the warm-up (Kang et
    al. 2022, arXiv 2211.00490)."""
    left_buffer: Annotated[float | None, at_least(0)] = None
    """Seconds before a word begins from which its pieces may be emitted; null: from the start. Other paths
    have no probability in the loss (alignment-restricted transducer, Mahadeokar et al. 2021, arXiv
    2011.03072). Needs word times in the training data; native backend only."""
    right_buffer: Annotated[float | None, at_least(0)] = None
    """Seconds after the end of a word until which its pieces may be emitted; null: until the end."""
    without_word_times: Annotated[str, OneOf("refuse", "ignore"), MAY_CHANGE] = "refuse"
    """Where no utterance has word times. refuse: training does not begin; ignore: it begins without these
    two."""
    fast_emit: Annotated[float, at_least(0)] = 0.0
    """The gradients of pieces in the pruned loss are multiplied by 1 + this after the warm-up; the value of
    the loss does not change (FastEmit, Yu et al. 2021, arXiv 2010.11148). Native backend only."""

    @property
    def is_restricted(self) -> bool:
        """Whether pieces are tied to the times of their words."""
        return self.left_buffer is not None or self.right_buffer is not None


@dataclass
class LabelConfig:
    """Labels for speech without transcripts: those of local prior matching (Hsu et al. 2020, arXiv
    2002.10336), and what they are compared with."""

    beam: Annotated[int, at_least(1)] = 4
    """Hypotheses per utterance that the proposal model's beam search keeps."""
    blank_penalty: Annotated[float, between(-MAX_PENALTY, MAX_PENALTY)] = 0.0
    """Nats, against deletions: subtracted from the blank's logit in every search of the proposal model. Not
    in the paper, whose models have no blank: a transducer that is unsure says nothing."""
    one_best: bool = False
    """Only the best of them counts: pseudo-labels (Kahn et al. 2020, arXiv 1909.09116)."""
    weights: Annotated[str, OneOf(*WEIGHTS)] = "prior"
    """Of an utterance's labels. prior: the language model's probabilities, normalized over them; uniform;
    confidence: the proposal model's probability per piece, between 0 and 1, not normalized."""
    length_tolerance: Annotated[float | None, between(0, 1, below=True)] = 0.05
    """Pieces and end may be by this share fewer or more than those that the first proposal model found by
    greedy search, both bounds rounded outwards; null: any number."""
    max_gap: Annotated[float | None, at_least(0)] = None
    """Drop proposals whose probability under the proposal model is below the best one's by more than this
    many nats; null: keep them. Not in the paper: a beam ends on hypotheses that hardly compete, too, and a
    prior alone does not know which."""
    max_repeats: Annotated[int, at_least(0)] = 0
    """Drop labels in which some pair of neighboring pieces occurs more often; 0: keep them."""
    worst_share: Annotated[float, between(0, 1, below=True)] = 0.0
    """Drop labels with a score per piece as low as this share of the first proposal model's best ones."""


@dataclass
class HypothesisConfig:
    """What stands for the transcript of speech that has none, in the terms that need one."""

    source: Annotated[str, OneOf(*SOURCES)] = SEARCH
    """search: the teacher's best hypothesis, searched in each batch when its turn comes; once: the same,
    searched in all utterances before the first step, and kept as `hypotheses.json` in the experiment folder;
    given: the text that the parts have, such as labels made by another recognizer; none: there is no text,
    and only terms that need none are computed."""
    beam: Annotated[int, at_least(1)] = 1
    """Hypotheses that the teacher's search keeps per utterance; 1: greedy search, which is far faster."""
    blank_penalty: Annotated[float, between(-MAX_PENALTY, MAX_PENALTY)] = 0.0
    """Nats, against deletions: subtracted from the blank's logit in this search."""


@dataclass
class UnpairedConfig:
    """Speech without transcripts, beside `data.train_parts`: in every stage."""

    parts: Annotated[list[str], Items()] = field(default_factory=list)
    """Prepared parts; transcripts that they have are not used, unless `hypothesis.source` says so. Empty:
    there is no such speech."""
    method: Annotated[str, OneOf(*METHODS)] = LABELS
    """labels: those that a proposal model proposes and a language model weighs (local prior matching), or
    pseudo-labels; distillation: the terms of the objective, with `hypothesis` in the place of the
    transcript."""
    mixing: Annotated[str, OneOf(*MIXINGS)] = STEPS
    """steps: an optimizer step is on batches of one kind, and `ratio` unpaired steps follow each paired one,
    as in local prior matching; joint: each step is on one batch with transcripts and `ratio` without, whose
    losses add up by `weight`."""
    hypothesis: HypothesisConfig = field(default_factory=HypothesisConfig)
    proposal: Annotated[str | None, MAY_MOVE] = None
    """The first proposal model: an experiment folder or a checkpoint, full-context or streaming."""
    language_model: str | None = None
    """A language model's folder or checkpoint, or text that stands for a word trigram of it, for the weights
    `prior`."""
    ratio: Annotated[int, at_least(1)] = 4
    """Unpaired batches for each paired one."""
    weight: Annotated[float, at_least(0)] = 0.2
    """Weight of the loss of unpaired batches; 0: as if there were no `parts`. With `mixing: steps`, an
    optimizer that does not heed the gradient's scale heeds it little."""
    normalize: Annotated[str, OneOf(*NORMALIZERS)] = "frames"
    """What the sum over a batch is divided by, utterances without labels included. frames: the encoder's,
    as for `rnnt`, so that `weight` compares the two losses; utterances: the batch's size, as in the paper,
    whose supervised loss is divided in that way too."""
    update: Annotated[str, OneOf(*UPDATES)] = "better"
    """better: at a validation with fewer word errors than the proposal model's, the model in training becomes
    the proposal model; never."""
    labels: LabelConfig = field(default_factory=LabelConfig)


@dataclass
class StageConfig:
    """What to start from, what to train, on which losses, for how long: one of `num_steps`, `num_epochs` and
    `num_hours`."""

    name: str = "train"
    """What the stage is called in logs and checkpoints."""
    num_steps: Annotated[int | None, at_least(1)] = None
    """Optimizer steps, not batches. A stage in epochs or hours has them once the data have been counted."""
    num_epochs: Annotated[float | None, above(0)] = None
    """Passes over the training data, all speeds of an utterance included; with `unpaired.parts`, over those
    with transcripts."""
    num_hours: Annotated[float | None, above(0)] = None
    """Hours of audio, of all processes together; pauses that `data.join` adds do not count."""
    loss_weights: Annotated[dict[str, float], at_least(0)] = field(default_factory=dict)
    """Term name -> weight. A term that is absent is never computed. Empty: rnnt 1 and ctc 0.3."""
    unpaired_weights: Annotated[dict[str, float], at_least(0)] = field(default_factory=dict)
    """The same for batches without transcripts, where `unpaired.method` is distillation; their sum is
    multiplied by `unpaired.weight`. Empty: those of `loss_weights`, but without text only those that need
    none."""
    init_from: str | None = None
    """An earlier stage's name, an experiment folder, or a checkpoint file; null: random weights (first stage)
    or the stage before. Of a stage it is what `kdasr average` makes of its checkpoints."""
    freeze: Annotated[list[str], Items(), EXPERIMENTAL] = field(default_factory=list)
    """Prefixes of parameter names that do not train."""
    learning_rate: Annotated[float | None, above(0)] = None
    """Peak learning rate; null: that of `optim`."""
    warmup_steps: Annotated[int | None, at_least(0)] = None
    """Steps of the learning-rate warm-up; null: those of `optim`."""
    warmup_hours: Annotated[float | None, at_least(0)] = None
    """The same in hours of audio, instead."""
    plateau_patience: Annotated[int, at_least(0)] = 0
    """End the stage when the dev `hidden_mse` has not improved for so many validations; 0: by steps only."""

    @property
    def steps(self) -> int:
        """`num_steps`; of a stage in epochs or hours they must have been counted."""
        assert self.num_steps is not None
        return self.num_steps

    @property
    def length(self) -> dict[str, float]:
        """How long it is, as the recipe says it: the option and its value; several or none is a mistake."""
        own = {name: getattr(self, name) for name in LENGTHS}
        return {name: value for name, value in own.items() if value is not None}


@dataclass
class ObjectiveOptions:
    """Settings of the objective and of every term; which ones count is a stage's `loss_weights`.

    `kdasr.distillation.terms.ObjectiveConfig` has them all: each term with settings adds a section.
    """

    rnnt: RnntConfig = field(default_factory=RnntConfig)
    """Of the lattice that several terms share, and of the term `rnnt`."""
    teacher: Annotated[str | None, MAY_MOVE] = None
    """The teacher's experiment folder or checkpoint; for terms that need one."""
    teacher_features: Annotated[str, OneOf(*TEACHER_FEATURES)] = "masked"
    """masked: the teacher hears what the student hears; unmasked: that without the masks of SpecAugment;
    clean: also without the noise that `data.join` puts under joined utterances."""
    follow: Annotated[str, OneOf(*FOLLOW)] = "while_ahead"
    """How long the student follows its teacher. while_ahead: until its dev word error rate is below the
    teacher's; from then on, to the end of the last stage, terms that need a teacher count nothing, but for
    batches without transcripts. always: to the end of the last stage."""
    follow_lead: Annotated[float, between(0, 0.9)] = 0.1
    """With while_ahead: the share by which the teacher's dev word error rate has to be below the student's.
    0.1: a teacher of 9 % is left by a student that has less than 10 %. On real speech a teacher with less
    of a lead made its student earlier, and worse."""
    more_teachers: Annotated[list[str], Items(), MAY_MOVE] = field(default_factory=list)
    """Further teachers, over the same pieces: output distributions are the mean of all. Hidden states are
    those of `teacher` alone."""
