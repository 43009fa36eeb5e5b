"""Makes a whole corpus: on many processes, resumable, the same bytes every time."""

import signal
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import soundfile

from kdasr.common.errors import UserError
from kdasr.common.files import read_json, read_object, write_json
from kdasr.corpora.synthetic import writer
from kdasr.corpora.synthetic.plan import Chapter, CorpusPlan, make_plan
from kdasr.corpora.synthetic.render import Renderer
from kdasr.corpora.synthetic.sizes import Size

DONE_FILE = "corpus.json"
STARTED_FILE = "corpus.partial.json"


@dataclass(frozen=True)
class Summary:
    """What a corpus holds."""

    seconds: float
    """Audio in the corpus."""
    new_seconds: float
    """Audio synthesised by this call; 0 when the corpus was there already."""
    parts: dict[str, dict[str, float]]
    """Part -> speakers, utterances, hours."""


def generate_corpus(size: Size, out: Path, seed: int, jobs: int) -> Iterator[tuple[int, int] | Summary]:
    """Write the corpus of a size under `out`; yields (chapters done, chapters in all), then the summary.

    A call after an interruption goes on where that one stopped; chapters that are there stay as they are.

    Raises:
        UserError: `out` holds something else or cannot be written, or espeak-ng is missing.
    """
    identity = {"size": size.name, "seed": seed, "version": size.version}
    try:
        if _is_complete(out, identity):
            yield _summary_of(_finished(out, size))
            return
        renderer = Renderer(size, seed)  # first: without espeak-ng nothing is to be written
        plan = make_plan(size, seed)
        write_json(out / STARTED_FILE, identity)
        new = [chapter for chapter in plan.chapters if not writer.chapter_folder(out, chapter).is_dir()]
        done = len(plan.chapters) - len(new)
        yield done, len(plan.chapters)
        for _ in _write_here(out, new, renderer) if jobs == 1 else _write_on_pool(out, new, renderer, jobs):
            done += 1
            yield done, len(plan.chapters)
        yield _finish(out, plan, identity, {chapter.name for chapter in new})
    except (OSError, soundfile.SoundFileError) as error:
        culprit = getattr(error, "filename", None) or out
        raise UserError(f"{culprit}: cannot write the corpus: {error}") from None
    except BrokenProcessPool:
        raise UserError(f"{out}: a worker process was killed; run the same command again to go on") from None


def _is_complete(out: Path, identity: dict[str, Any]) -> bool:
    """Whether `out` holds this corpus from end to end.

    Raises:
        UserError: another corpus, or other files where ours would go.
    """
    for name in (DONE_FILE, STARTED_FILE):
        if (out / name).is_file():
            found = _identity_in(out / name, identity)
            if found != identity:
                raise UserError(
                    f"{out}: holds the corpus {_describe(found)}, not {_describe(identity)};"
                    " choose another folder or remove that one"
                )
            return name == DONE_FILE
    if (out / writer.AUDIO_FOLDER).exists():
        raise UserError(
            f"{out / writer.AUDIO_FOLDER}: a corpus of another origin is there; choose another folder"
        )
    return False


def _finished(out: Path, size: Size) -> dict[str, Any]:
    """The record of a finished corpus.

    Raises:
        UserError: its parts are not those of the size.
    """
    record = read_object(out / DONE_FILE)
    try:
        found = {part: entry["utterances"] for part, entry in record["parts"].items()}
    except (KeyError, TypeError, AttributeError):
        raise UserError(f"{out / DONE_FILE}: damaged: remove the folder") from None
    wanted = {part: counts.num_utterances for part, counts in size.parts.items()}
    if found != wanted:
        raise UserError(
            f"{out}: holds a corpus '{size.name}' of {_describe(found)} utterances, made by another release;"
            f" here it is of {_describe(wanted)}; choose another folder or remove that one"
        )
    return record


def _identity_in(path: Path, keys: Iterable[str]) -> dict[str, Any]:
    try:
        record = read_json(path)
        return {key: record[key] for key in keys}
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path}: not the record of a synthetic corpus; choose another folder") from None


def _describe(identity: dict[str, Any]) -> str:
    return " ".join(f"{key}={value}" for key, value in identity.items())


def _write_here(out: Path, chapters: Sequence[Chapter], renderer: Renderer) -> Iterator[None]:
    for chapter in chapters:
        writer.write_chapter(out, chapter, renderer)
        yield


def _write_on_pool(out: Path, chapters: Sequence[Chapter], renderer: Renderer, jobs: int) -> Iterator[None]:
    with ProcessPoolExecutor(
        jobs, get_context("spawn"), initializer=_start_worker, initargs=(renderer.size, renderer.seed)
    ) as pool:
        futures = [pool.submit(_work, out, chapter) for chapter in chapters]
        try:
            for future in as_completed(futures):
                future.result()
                yield
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


_renderer: Renderer | None = None  # of this worker process


def _start_worker(size: Size, seed: int) -> None:
    global _renderer
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C: the parent lets chapters in progress finish
    _renderer = Renderer(size, seed)


def _work(out: Path, chapter: Chapter) -> None:
    assert _renderer is not None
    writer.write_chapter(out, chapter, _renderer)


def _finish(out: Path, plan: CorpusPlan, identity: dict[str, Any], new_chapters: set[str]) -> Summary:
    """Write what needs the whole corpus, and last the mark that it is complete."""
    by_speaker: dict[str, float] = defaultdict(float)
    by_part: dict[str, float] = defaultdict(float)
    new_seconds = 0.0
    for chapter in plan.chapters:
        seconds = writer.chapter_seconds(out, chapter)
        by_speaker[chapter.speaker.id] += seconds
        by_part[chapter.speaker.part] += seconds
        new_seconds += seconds if chapter.name in new_chapters else 0.0
    writer.write_speakers(out, plan, by_speaker)
    writer.write_lm_text(out, plan)
    parts = {
        part: {
            "speakers": counts.speakers,
            "utterances": counts.num_utterances,
            "hours": round(by_part[part] / 3600, 4),
        }
        for part, counts in plan.size.parts.items()
    }
    total = round(sum(by_part.values()), 3)
    write_json(out / DONE_FILE, {**identity, "seconds": total, "parts": parts})
    (out / STARTED_FILE).unlink()
    return Summary(total, new_seconds, parts)


def _summary_of(record: dict[str, Any]) -> Summary:
    return Summary(record["seconds"], 0.0, record["parts"])
