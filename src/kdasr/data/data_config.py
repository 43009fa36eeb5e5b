"""Where the data is and how it is served to training."""

from dataclasses import dataclass, field
from typing import Annotated

from kdasr.common.ranges import MAY_CHANGE, MAY_MOVE, Items, OneOf, above, at_least, between

RANGE = Items(exactly=2, unique=False, ascending=True)


@dataclass
class SpecAugmentConfig:
    """Masks on log-mel features (Park et al. 2019)."""

    enabled: bool = True
    """Mask stretches of time and bands of frequency in training (Park et al. 2019)."""
    num_time_masks: Annotated[int, at_least(0)] = 2
    """Masks per utterance."""
    max_time_fraction: Annotated[float, between(0, 1)] = 0.1
    """Longest time mask as a share of the utterance."""
    num_freq_masks: Annotated[int, at_least(0)] = 2
    """Masks per utterance."""
    max_freq_bins: Annotated[int, at_least(0)] = 20
    """Widest frequency mask, in mel bins."""


@dataclass
class NoiseSource:
    """Recordings of one kind, at levels of their own."""

    folder: str = "noise"
    """Below `musan_dir`: in MUSAN `noise`, `music` or `speech`; `.` for all of it."""
    weight: Annotated[float, above(0)] = 1.0
    """How often it is chosen, against the other sources."""
    snr_db: Annotated[list[float], between(-100, 100), RANGE] = field(default_factory=lambda: [10.0, 20.0])
    """Lowest and highest level of the utterance above all its recordings together."""
    count: Annotated[list[int], between(1, 100), RANGE] = field(default_factory=lambda: [1, 1])
    """Fewest and most recordings at once, all alike loud: several of speech are babble."""


@dataclass
class NoiseConfig:
    """Noise mixing from a folder of recordings (MUSAN, or any wav files)."""

    musan_dir: Annotated[str | None, MAY_MOVE] = None
    """Folder of noise recordings; null: no noise is mixed. Needs features computed on the fly."""
    probability: Annotated[float, between(0, 1)] = 0.5
    """Share of the utterances that get noise, each of one source."""
    snr_db: Annotated[list[float], between(-100, 100), RANGE] = field(default_factory=lambda: [10.0, 20.0])
    """Without `sources`: lowest and highest level of the utterance above the noise."""
    sources: Annotated[list[NoiseSource], Items(unique=False)] = field(default_factory=list)
    """Empty: one recording of MUSAN's `noise`, or of all of the folder if there is no such part in it."""


@dataclass
class ReverbConfig:
    """Utterances as they sound in rooms."""

    probability: Annotated[float, between(0, 1)] = 0.0
    """Share of the utterances. Above 0 it needs features computed on the fly."""
    responses: Annotated[str | None, MAY_MOVE] = None
    """A folder of recorded room impulse responses, or a Lhotse manifest of them (`lhotse prepare rir-noise`);
    null: random rooms, by Lhotse's fast generator."""


@dataclass
class ChannelConfig:
    """Utterances as they come through a telephone, a codec, or a microphone without high frequencies."""

    probability: Annotated[float, between(0, 1)] = 0.0
    """Share of the utterances. Above 0 it needs features computed on the fly."""
    kinds: Annotated[
        list[str], OneOf("band", "mulaw", "alaw", "gsm", "mp3", "opus", "vorbis"), Items(at_least=1)
    ] = field(default_factory=lambda: ["band", "mulaw", "gsm", "mp3", "opus"])
    """One of these is drawn for each, all equally likely. mulaw, alaw and gsm are telephones: 8 kHz."""
    band_hz: Annotated[list[float], between(1000, 8000), RANGE] = field(
        default_factory=lambda: [3000.0, 7000.0]
    )
    """Lowest and highest edge of a `band`."""


@dataclass
class JoinConfig:
    """Training utterances joined to longer ones, with pauses, as in a stream that goes on.

    A recognizer that has only heard single short utterances loses most of what follows the first of them:
    its predictor has never seen a sentence begin after another one, nor its encoder after seconds of silence.
    """

    enabled: bool = False
    """Join utterances of the training parts, anew in each epoch."""
    max_utterances: Annotated[int, at_least(1)] = 4
    """Utterances of one joined utterance: 1 to this many, all numbers equally likely."""
    max_seconds: Annotated[float, above(0)] = 20.0
    """Most speech of a joined utterance, pauses not counted; a single utterance may be longer."""
    pause: Annotated[list[float], between(0, 60), RANGE] = field(default_factory=lambda: [0.0, 4.0])
    """Shortest and longest pause between two utterances. Short ones are likelier: the mean lies a
    quarter of the way from the shortest to the longest."""
    jitter: Annotated[float, between(0, 10)] = 0.0
    """Before an utterance without a lead: a pause of up to so many seconds, all lengths equally likely; 0:
    none. Words of a stream may stand anywhere in a chunk; those of a training utterance, which begins with a
    chunk, always stand in the same place. Give at least the length of a chunk."""
    lead: Annotated[list[float], between(0, 60), RANGE] = field(default_factory=lambda: [0.0, 2.0])
    """The same before the first utterance, for half of all joined ones; the others have none."""
    trail: Annotated[list[float], between(0, 60), RANGE] = field(default_factory=lambda: [0.0, 3.0])
    """The same after the last one."""
    same_speaker: Annotated[float, between(0, 1)] = 0.5
    """Probability that the next utterance is of the speaker before it, where there is another."""
    background: Annotated[float, between(0, 1)] = 0.4
    """Share of the pauses that are filled with the background of the utterance beside them."""
    silence: Annotated[float, between(0, 1)] = 0.2
    """Share of the pauses that are digital silence. The others hold noise."""
    noise_db: Annotated[list[float], between(-200, 0), RANGE] = field(default_factory=lambda: [-85.0, -40.0])
    """Lowest and highest level of that noise, in dB below full scale."""
    bed: Annotated[float, between(0, 1)] = 0.5
    """Probability that a joined utterance lies in one noise from its first frame to its last. Noise in pauses
    alone would tell a model that where there is noise nobody speaks."""
    bed_snr_db: Annotated[list[float], between(-20, 100), RANGE] = field(default_factory=lambda: [10.0, 50.0])
    """Lowest and highest level of the softest utterance above that noise, in dB."""
    own_bed: Annotated[float, between(0, 1)] = 0.0
    """Probability that an utterance lies in a noise of its own, of the same levels: where the speaker
    changes, the noise often changes too."""
    empty: Annotated[float, between(0, 1)] = 0.03
    """Stretches without speech, in which no piece must be emitted, per joined utterance."""
    history: Annotated[float, between(0, 1)] = 0.3
    """Probability that the predictor of a joined utterance starts after the last pieces of another one: that
    is what it meets where a recognizer keeps them at an endpoint."""


@dataclass
class GainConfig:
    """Utterances made louder or softer."""

    probability: Annotated[float, between(0, 1)] = 0.0
    """Share of the utterances."""
    gain_db: Annotated[list[float], between(-60, 60), RANGE] = field(default_factory=lambda: [-30.0, 10.0])
    """Lowest and highest change of the level; all values between are equally likely."""


@dataclass
class TranscriptConfig:
    """How transcripts are written, and which pieces they are cut into."""

    normalize: str | None = None
    """The rule by which all text is written before it is cut into pieces: `none`, `upper`, `lower`, `words`,
    `upper-words`, or another one of `kdasr.data.text_rules`. null: that of the data folder."""
    model_type: Annotated[str, OneOf("unigram", "bpe", "char")] = "unigram"
    """Kind of the SentencePiece model. `char` has all characters of the transcripts, and no
    `data.vocab_size`."""


@dataclass
class DataConfig:
    """Prepared data and the batches made of it."""

    dir: Annotated[str, MAY_MOVE] = "data"
    """The folder that `kdasr prepare` wrote: manifests, features, tokenizer."""
    train_parts: Annotated[list[str], Items(at_least=1)] = field(default_factory=lambda: ["train-clean-100"])
    """Prepared parts to train on."""
    train_share: Annotated[float, between(0, 1, above=True)] = 1.0
    """Share of their utterances that is trained on, chosen by names: of two shares the larger has all that
    the smaller has. The others may be learnt from without their transcripts: `unpaired.parts`."""
    dev_parts: Annotated[list[str], Items(at_least=1)] = field(default_factory=lambda: ["dev-clean"])
    """Prepared parts that validation decodes."""
    vocab_size: Annotated[int, at_least(4)] = 500
    """Word pieces, `<blk>`, `<sos/eos>` and `<unk>` included."""
    on_the_fly: bool = False
    """Compute features while training instead of reading the stored ones."""
    speed_perturbation: Annotated[list[float], between(0.5, 2), Items(at_least=1)] = field(
        default_factory=lambda: [0.9, 1.0, 1.1]
    )
    """Speeds of the copies that `prepare` made; 1.0 is the recording itself."""
    max_duration: Annotated[float, above(0)] = 60.0
    """Seconds of audio per batch, padding included."""
    num_buckets: Annotated[int, at_least(1)] = 10
    """Buckets of utterances of similar duration; a batch is filled from one of them."""
    num_workers: Annotated[int, at_least(0), MAY_CHANGE] = 0
    """Processes that make batches beside the training; 0: the training makes them."""
    min_seconds: Annotated[float, at_least(0)] = 0.3
    """Shortest training utterance."""
    max_seconds: Annotated[float, above(0, infinite=True)] = 25.0
    """Longest training utterance; dev utterances have no limit."""
    max_bad: Annotated[str, MAY_CHANGE] = "1%"
    """Utterances that may turn out to be unreadable on the way, a share or a number; they are left out."""
    spec_augment: SpecAugmentConfig = field(default_factory=SpecAugmentConfig)
    reverb: ReverbConfig = field(default_factory=ReverbConfig)
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    channel: ChannelConfig = field(default_factory=ChannelConfig)
    gain: GainConfig = field(default_factory=GainConfig)
    join: JoinConfig = field(default_factory=JoinConfig)
