"""LibriSpeech's files: flac, transcripts, word alignments, SPEAKERS.TXT."""

import shutil
from pathlib import Path

from kdasr.common.files import atomic_path, write_text
from kdasr.corpora.synthetic.plan import Chapter, CorpusPlan, lm_sentences
from kdasr.corpora.synthetic.render import SAMPLE_RATE, Rendered, Renderer
from kdasr.data.audio_reading import write_flac

AUDIO_FOLDER = "LibriSpeech"
ALIGNMENT_FOLDER = "LibriSpeech-Alignments"
LM_FILE = "librispeech-lm-norm.txt"


def chapter_folder(corpus: Path, chapter: Chapter) -> Path:
    """Where a chapter's audio and transcript are; it exists only when both are complete."""
    return corpus / AUDIO_FOLDER / chapter.folder


def alignment_file(corpus: Path, chapter: Chapter) -> Path:
    """Where a chapter's word alignments are."""
    return corpus / ALIGNMENT_FOLDER / chapter.folder / f"{chapter.name}.alignment.txt"


def write_chapter(corpus: Path, chapter: Chapter, renderer: Renderer) -> None:
    """Synthesise a chapter and write its files; the chapter's folder appears in one step, last."""
    target = chapter_folder(corpus, chapter)
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    transcripts, alignments = [], []
    for utterance in chapter.utterances:
        rendered = renderer.render(utterance, chapter.speaker)
        write_flac(partial / f"{utterance.id}.flac", rendered.samples_N, SAMPLE_RATE)
        transcripts.append(f"{utterance.id} {' '.join(word.word for word in rendered.words)}\n")
        alignments.append(alignment_line(utterance.id, rendered) + "\n")
    write_text(partial / f"{chapter.name}.trans.txt", "".join(transcripts))
    write_text(alignment_file(corpus, chapter), "".join(alignments))
    partial.replace(target)


def alignment_line(utterance_id: str, rendered: Rendered) -> str:
    """One line of LibriSpeech-Alignments: words and the end time of each; silence is an empty word."""
    symbols, ends = [], []
    latest = 0.0
    for word in rendered.words:
        if round(word.start, 3) > latest:
            symbols.append("")
            ends.append(round(word.start, 3))
        latest = round(word.end, 3)
        symbols.append(word.word)
        ends.append(latest)
    if rendered.seconds > latest:
        symbols.append("")
        ends.append(rendered.seconds)
    times = ",".join(f"{end:.3f}" for end in ends)
    return f'{utterance_id} "{",".join(symbols)}" "{times}"'


def chapter_seconds(corpus: Path, chapter: Chapter) -> float:
    """Audio in a finished chapter: the last time in each of its alignment lines."""
    lines = alignment_file(corpus, chapter).read_text(encoding="utf-8").splitlines()
    return sum(float(line.rsplit('"', 2)[1].rsplit(",", 1)[-1]) for line in lines)


def write_speakers(corpus: Path, plan: CorpusPlan, seconds: dict[str, float]) -> None:
    """SPEAKERS.TXT; `seconds` is the audio of each speaker id."""
    lines = [
        "; Synthetic speakers: accent + variant of espeak-ng, own rate, pitch, range and vocal tract.\n",
        ";ID  |SEX| SUBSET           |MINUTES| NAME\n",
    ]
    for speaker in plan.speakers:
        minutes = seconds[speaker.id] / 60
        lines.append(
            f"{speaker.id:<5}| {speaker.sex} | {speaker.part:<17}| {minutes:5.2f} | {speaker.name}\n"
        )
    write_text(corpus / AUDIO_FOLDER / "SPEAKERS.TXT", "".join(lines))


def write_lm_text(corpus: Path, plan: CorpusPlan) -> None:
    """The text-only corpus for language models, a sentence per line."""
    with atomic_path(corpus / LM_FILE) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines(f"{sentence}\n" for sentence in lm_sentences(plan))
