"""Who says what in which part: the whole corpus before a sample is made."""

from collections.abc import Iterator
from dataclasses import dataclass

from kdasr.common.errors import UserError
from kdasr.corpora.synthetic.alignment import transcript
from kdasr.corpora.synthetic.grammar import Grammar
from kdasr.corpora.synthetic.seeds import generator
from kdasr.corpora.synthetic.sizes import PartSize, Size
from kdasr.corpora.synthetic.voices import SEEN_ACCENTS, UNSEEN_ACCENTS, Speaker, draw_speaker, voice_pairs

TRAIN_PARTS = ("train-clean-100", "train-clean-360", "train-other-500")
PARTS = (*TRAIN_PARTS, "dev-clean", "dev-other", "test-clean", "test-other")
MAX_TRIES = 1000


@dataclass(frozen=True)
class PlannedUtterance:
    """One sentence of a speaker."""

    id: str
    text: str
    """What is spoken, with commas."""


@dataclass(frozen=True)
class Chapter:
    """The utterances that lie in one folder: the unit of work."""

    id: str
    speaker: Speaker
    utterances: tuple[PlannedUtterance, ...]

    @property
    def folder(self) -> str:
        """Relative to the corpus: part, speaker, chapter."""
        return f"{self.speaker.part}/{self.speaker.id}/{self.id}"

    @property
    def name(self) -> str:
        """The stem of its transcript and alignment files."""
        return f"{self.speaker.id}-{self.id}"


@dataclass(frozen=True)
class CorpusPlan:
    """The corpus to be written."""

    size: Size
    seed: int
    speakers: tuple[Speaker, ...]
    chapters: tuple[Chapter, ...]
    transcripts: frozenset[str]


def make_plan(size: Size, seed: int) -> CorpusPlan:
    """Draw speakers and sentences. No two transcripts are the same, so no test sentence is in training.

    Raises:
        UserError: the vocabulary has too few sentences for the size.
    """
    grammar = Grammar(size.vocabulary)
    taken: set[str] = set()
    speakers = draw_speakers(size, seed)
    chapters = []
    for index, speaker in enumerate(speakers):
        part_size = size.parts[speaker.part]
        for number in range(part_size.chapters):
            chapter_id = str(100001 + index * 100 + number)
            chapters.append(_make_chapter(chapter_id, speaker, part_size, grammar, seed, taken))
    return CorpusPlan(size, seed, tuple(speakers), tuple(chapters), frozenset(taken))


def draw_speakers(size: Size, seed: int) -> list[Speaker]:
    """The speakers of every part of a size, in the order of `PARTS`.

    Training, dev and test never share an (accent, variant) pair. The clean parts have the accents of
    the training parts; those of dev-other and test-other occur nowhere in training.
    """
    rng = generator(seed, "speakers")
    seen, unseen = voice_pairs(SEEN_ACCENTS, rng), voice_pairs(UNSEEN_ACCENTS, rng)
    dev, test = len(seen) // 8, len(seen) // 8 + len(seen) // 6
    half = len(unseen) // 3
    pools = {
        "dev-clean": seen[:dev],
        "test-clean": seen[dev:test],
        "dev-other": unseen[:half],
        "test-other": unseen[half:],
    }
    speakers: list[Speaker] = []
    turn = 0
    for part in [part for part in PARTS if part in size.parts]:
        pool = pools.get(part, seen[test:])
        for index in range(size.parts[part].speakers):
            place = turn if part in TRAIN_PARTS else index
            identity = (str(1001 + len(speakers)), part)
            speakers.append(draw_speaker(identity, pool[place % len(pool)], size.voices, rng))
            turn += part in TRAIN_PARTS
    return speakers


def _make_chapter(
    chapter_id: str, speaker: Speaker, part_size: PartSize, grammar: Grammar, seed: int, taken: set[str]
) -> Chapter:
    utterances = []
    for number in range(part_size.utterances):
        utterance_id = f"{speaker.id}-{chapter_id}-{number:04d}"
        utterances.append(
            PlannedUtterance(utterance_id, _unseen_sentence(utterance_id, grammar, seed, taken))
        )
    return Chapter(chapter_id, speaker, tuple(utterances))


def _unseen_sentence(utterance_id: str, grammar: Grammar, seed: int, taken: set[str]) -> str:
    rng = generator(seed, "text", utterance_id)
    for _ in range(MAX_TRIES):
        text = grammar.sentence(rng)
        if (words := transcript(text)) not in taken:
            taken.add(words)
            return text
    raise UserError(
        f"utterance {utterance_id}: the vocabulary has no unused sentence left after {len(taken)}"
    )


def lm_sentences(plan: CorpusPlan, count: int | None = None) -> Iterator[str]:
    """Sentences for language models as they would be transcribed; none of them is a transcript of the plan.

    `count` of them, or as many as the size says. A longer text begins with the shorter one.

    Raises:
        UserError: the vocabulary has no other sentences.
    """
    rng = generator(plan.seed, "lm")
    grammar = Grammar(plan.size.vocabulary)
    failures = 0
    wanted = plan.size.lm_sentences if count is None else count
    while wanted and failures < MAX_TRIES:
        if (words := transcript(grammar.sentence(rng))) in plan.transcripts:
            failures += 1
        else:
            failures = 0
            wanted -= 1
            yield words
    if wanted:
        raise UserError(f"size '{plan.size.name}': the vocabulary has no sentence left for the LM text")
