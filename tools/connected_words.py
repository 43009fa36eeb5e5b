"""A task of few words in real voices, cut from read sentences: what a few hours of speech can decide.

    parts="train-clean-100 dev-clean test-clean test-other"
    kdasr align exp/few-hours/teacher --data data/few-hours --parts "$parts"
    python tools/connected_words.py --data data/few-hours --parts "$parts" --out corpus/words
    kdasr prepare --cuts train=corpus/words/cuts_train.jsonl.gz --cuts dev=corpus/words/cuts_dev.jsonl.gz ...

The vocabulary is what most speakers say. Stretches of these words, as they were spoken, are cut out at their
word times and put after one another, in an order by chance, into utterances of one speaker, as in corpora of
connected digits. No speaker is in two parts. Training speech comes at all speeds of the data folder, other
speech as it was spoken. The result is Lhotse cuts with word times, and FLAC files.
"""

import random
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import click
import numpy as np
import soundfile
from lhotse import CutSet, MonoCut, Recording, SupervisionSegment
from lhotse.supervision import AlignmentItem

from kdasr.common.errors import UserError
from kdasr.data.features import SAMPLE_RATE
from kdasr.data.folder import load_cuts
from kdasr.data.word_times import aligned_words

# Shapes: N samples at 16 kHz.

MARGIN = 0.02
FADE = 0.005
PAUSES = (0.05, 0.3)
LENGTHS = (3, 7)
NOISE = 1e-3


@dataclass(frozen=True)
class Stretch:
    """Words of the vocabulary that were said in a row."""

    cut: MonoCut
    words: tuple[AlignmentItem, ...]

    @property
    def is_copy(self) -> bool:
        """Whether it was made slower or faster than it was spoken."""
        return bool(self.cut.recording.transforms)

    def samples(self) -> tuple[np.ndarray, tuple[AlignmentItem, ...]]:
        """Its samples `(N,)`, which fade in and out, and its words' times in them."""
        start = max(0.0, self.words[0].start - MARGIN)
        end = min(self.cut.duration, self.words[-1].end + MARGIN)
        piece = self.cut.truncate(offset=start, duration=end - start, preserve_id=True).resample(SAMPLE_RATE)
        samples_N = piece.load_audio()[0].copy()
        ramp = np.linspace(0.0, 1.0, int(FADE * SAMPLE_RATE), dtype=samples_N.dtype)
        samples_N[: len(ramp)] *= ramp
        samples_N[-len(ramp) :] *= ramp[::-1]
        return samples_N, tuple(word.with_offset(-start) for word in self.words)


def said_by_most(cuts: list[MonoCut], number: int, letters: int) -> set[str]:
    """The `number` words of so many letters or more that most speakers say; of equals the more frequent."""
    speakers, count = defaultdict(set), Counter[str]()
    for cut in cuts:
        for word, _, _ in aligned_words(cut):
            if len(word) >= letters:
                speakers[word].add(cut.supervisions[0].speaker)
                count[word] += 1
    return set(sorted(count, key=lambda word: (-len(speakers[word]), -count[word], word))[:number])


def stretches(cut: MonoCut, vocabulary: set[str]) -> Iterator[Stretch]:
    """What of a cut is in the vocabulary, each stretch of it as long as it goes."""
    words = [AlignmentItem(word, start, end - start) for word, start, end in aligned_words(cut)]
    for is_known, row in groupby(words, lambda word: word.symbol in vocabulary):
        if is_known:
            yield Stretch(cut, tuple(row))


def utterances(pieces: list[Stretch], draws: random.Random) -> Iterator[list[Stretch]]:
    """Every stretch once, in an order by chance, in utterances of a few words."""
    pieces = draws.sample(pieces, len(pieces))
    while pieces:
        wanted, group = draws.randint(*LENGTHS), [pieces.pop()]
        while pieces and sum(len(piece.words) for piece in group) < wanted:
            group.append(pieces.pop())
        yield group


def write(group: list[Stretch], name: str, folder: Path, draws: random.Random) -> MonoCut:
    """One utterance as a FLAC file, and its cut."""
    noise = np.random.default_rng(draws.getrandbits(32))
    parts, words, position = [], [], 0
    for piece in [*group, None]:
        pause = np.zeros(int(draws.uniform(*PAUSES) * SAMPLE_RATE), dtype=np.float32)
        parts.append(pause)
        position += len(pause)
        if piece is not None:
            samples_N, said = piece.samples()
            words += [word.with_offset(position / SAMPLE_RATE) for word in said]
            parts.append(samples_N)
            position += len(samples_N)
    samples_N = np.concatenate(parts)
    samples_N = samples_N + NOISE * noise.standard_normal(len(samples_N)).astype(np.float32)
    path = folder / f"{name}.flac"
    soundfile.write(path, samples_N, SAMPLE_RATE)
    recording = Recording.from_file(path, recording_id=name)
    cut = recording.to_cut()
    cut.supervisions = [
        SupervisionSegment(
            id=name,
            recording_id=name,
            start=0.0,
            duration=cut.duration,
            text=" ".join(word.symbol for word in words),
            speaker=group[0].cut.supervisions[0].speaker,
            alignment={"word": words},
        )
    ]
    return cut


def split_speakers(
    by_speaker: dict[str, list[Stretch]], free: set[str], num_dev: int, num_test: int, draws: random.Random
) -> dict[str, list[str]]:
    """The speakers of dev, test and train: nobody who is not `free` is trained on."""
    held = sorted(set(by_speaker) - free)
    if not len(held) <= num_dev + num_test < len(by_speaker) - 1:
        raise click.UsageError(
            f"--dev-speakers {num_dev}, --test-speakers {num_test}: expected together {len(held)} (who may "
            f"not be trained on) to {len(by_speaker) - 2}, of {len(by_speaker)} speakers"
        )
    # The speakers with most words stay in training.
    few = sorted(free, key=lambda speaker: (len(by_speaker[speaker]), speaker))[: max(0, len(free) - 2)]
    moved = draws.sample(sorted(few), max(0, num_dev + num_test - len(held)))
    held = draws.sample(held + moved, num_dev + num_test)
    train = sorted(set(by_speaker) - set(held))
    return {"dev": held[:num_dev], "test": held[num_dev:], "train": train}


@click.command()
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Prepared, with word times.")
@click.option("--parts", required=True, help="Its parts; all speakers of the last ones are held out.")
@click.option(
    "--train-parts", default=1, show_default=True, help="So many of the first parts may be trained on."
)
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--words", default=30, show_default=True, help="Size of the vocabulary.")
@click.option("--letters", default=3, show_default=True, help="Letters that a word has at least.")
@click.option("--dev-speakers", default=8, show_default=True)
@click.option("--test-speakers", default=20, show_default=True)
@click.option("--orders", default=4, show_default=True, help="In so many orders the training speech is put.")
@click.option("--seed", default=1, show_default=True)
def main(
    data: Path,
    parts: str,
    train_parts: int,
    out: Path,
    words: int,
    letters: int,
    dev_speakers: int,
    test_speakers: int,
    orders: int,
    seed: int,
) -> None:
    """Cut a task of few words out of read sentences."""
    draws = random.Random(seed)
    try:
        by_part = {part: list(load_cuts(data, part)) for part in parts.split()}
    except UserError as error:
        raise click.ClickException(str(error)) from None
    names = list(by_part)
    if not 0 < train_parts <= len(names):
        raise click.UsageError(f"--train-parts {train_parts}: of {len(names)} parts")
    vocabulary = said_by_most([cut for part in names[:train_parts] for cut in by_part[part]], words, letters)
    print(f"{len(vocabulary)} words: {' '.join(sorted(vocabulary))}")
    by_speaker: dict[str, list[Stretch]] = defaultdict(list)
    for part in names:
        for cut in by_part[part]:
            by_speaker[cut.supervisions[0].speaker] += stretches(cut, vocabulary)
    if not any(by_speaker.values()):
        raise click.ClickException(f"{data}: no word times: run `kdasr align` first")
    free = {cut.supervisions[0].speaker for part in names[:train_parts] for cut in by_part[part]}
    split = split_speakers(by_speaker, free, dev_speakers, test_speakers, draws)
    for speaker in [*split["dev"], *split["test"]]:
        by_speaker[speaker] = [piece for piece in by_speaker[speaker] if not piece.is_copy]
    for part, speakers in split.items():
        folder = out / "audio" / part
        folder.mkdir(parents=True, exist_ok=True)
        cuts = []
        for speaker in sorted(speakers):
            for turn in range(orders if part == "train" else 1):
                for number, group in enumerate(utterances(by_speaker[speaker], draws)):
                    cuts.append(write(group, f"{speaker}-{turn}-{number:04d}", folder, draws))
        CutSet.from_cuts(cuts).to_file(out / f"cuts_{part}.jsonl.gz")
        said = sum(len(cut.supervisions[0].text.split()) for cut in cuts)
        hours = sum(cut.duration for cut in cuts) / 3600
        print(f"{part}: {len(speakers)} speakers, {len(cuts)} utterances, {said} words, {hours:.2f} h")


if __name__ == "__main__":
    main()
