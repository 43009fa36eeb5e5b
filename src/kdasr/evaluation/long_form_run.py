"""A part decoded as long streams, and its utterances one by one; what is finished is kept."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from kdasr.common.errors import UserError
from kdasr.common.files import read_json, write_json, write_text
from kdasr.data.features import SAMPLE_RATE
from kdasr.evaluation.evaluate import Recording
from kdasr.evaluation.joining import QUIET_DB, Pause, join, plan_streams
from kdasr.evaluation.long_form import Placed, Record, placed, score_stream
from kdasr.evaluation.long_form_summary import summarize_streams
from kdasr.recognition.endpoint import EndpointRules
from kdasr.recognition.recognizer import StreamingRecognizer
from kdasr.recognition.simulate import simulate_together
from kdasr.recognition.sources import Piece

SINGLE, STREAMS, SUMMARY = "single.jsonl", "streams.jsonl", "summary.json"
_SETTINGS = "settings.json"

ItemT = TypeVar("ItemT")
Load = Callable[[], Recording]
"""Reads one utterance."""
Wrap = Callable[[Iterator[Any], int], Iterable[Any]]
"""Shows the progress of an iterator with so many items."""


@dataclass(frozen=True)
class LongForm:
    """How a part is made into streams."""

    pauses: Sequence[Pause]
    """Each is a condition: all pauses of its streams are of that kind."""
    minutes: float = 5.0
    """Longest stream."""
    endpoints: Sequence[bool] = (False, True)
    """Without resets at endpoints, with them, or both."""
    batch: int = 32
    """Streams that advance together."""
    seed: int = 1
    """Of the noise in pauses."""

    def settings(self, rules: EndpointRules) -> dict[str, Any]:
        """What decides the result, in JSON's types."""
        return {
            "minutes": self.minutes,
            "pauses": [str(pause) for pause in self.pauses],
            "quiet_db": QUIET_DB,
            "endpoints": list(self.endpoints),
            "endpoint_rules": asdict(rules),
            "seed": self.seed,
        }


@dataclass(frozen=True)
class Spoken:
    """An utterance that can be recognized again, and how it scored by itself."""

    placed: Placed
    piece: Piece
    record: Record


@dataclass(frozen=True)
class _Job:
    """One stream of one condition."""

    endpoints: bool
    pause: Pause
    number: int
    members: list[int]
    num_samples: int

    @property
    def key(self) -> tuple[Any, ...]:
        return self.endpoints, self.pause.seconds, self.pause.noise, self.number


class RecordFile:
    """Records in lines of JSON, one added at a time; those of an earlier run are there again."""

    def __init__(self, path: Path, key: Callable[[Record], Any]) -> None:
        """
        Args:
            path: of the file, which need not be there.
            key: what tells records apart.
        """
        self._path = path
        self.records: dict[Any, Record] = {}
        complete = []
        # Bytes: a line may be cut in the middle of a letter, and a transcript may hold other separators of
        # lines than the newline.
        for line in path.read_bytes().split(b"\n")[:-1] if path.is_file() else []:
            try:
                record = json.loads(line)
            except ValueError:
                break
            self.records[key(record)] = record
            complete.append(line.decode() + "\n")
        self._key = key
        write_text(path, "".join(complete))

    def add(self, records: Sequence[Record]) -> None:
        """Write some records at the end."""
        with self._path.open("a", encoding="utf-8") as file:
            for record in records:
                self.records[self._key(record)] = record
                file.write(json.dumps(record, ensure_ascii=False) + "\n")


def decode_long_form(
    recognizer: StreamingRecognizer,
    utterances: Sequence[Load],
    options: LongForm,
    folder: Path,
    settings: Mapping[str, Any],
    wrap: Wrap = lambda items, _: items,
) -> list[dict[str, Any]]:
    """Decode a part in every condition, and write `single.jsonl` and `streams.jsonl` on the way.

    What an earlier call with the same `settings` has finished is not decoded again.

    Args:
        recognizer: its `endpoints` are those of the conditions that have any; without, the default ones.
        utterances: what loads each of them, in the order in which they are joined; called more than once.
        options: the conditions.
        folder: where the records go.
        settings: whatever decides the result; other ones than last time start anew.
        wrap: shows progress.

    Returns:
        Of each condition: gap, noise, endpoints and what `summarize_streams` says.

    Raises:
        UserError: a full context; or audio that cannot be read.
    """
    if recognizer.context.is_full:
        raise UserError("long form needs a chunked context: under a full one a stream is heard at its end")
    _keep_if_same(folder, settings)
    single = RecordFile(folder / SINGLE, lambda record: record["utterances"][0]["id"])
    streams = RecordFile(
        folder / STREAMS,
        lambda record: (record["endpoints"], record["gap_s"], record["noise"], record["stream"]),
    )
    scored = _score_single(recognizer.with_endpoints(None), utterances, options.batch, single)
    spoken: list[Spoken] = list(wrap(scored, len(utterances)))
    jobs = _plan(spoken, options)
    if recognizer.endpoints is None:
        recognizer = recognizer.with_endpoints(EndpointRules())
    for _ in wrap(_score_streams(recognizer, spoken, jobs, options, streams), len(jobs)):
        pass
    alone = {key: record["utterances"][0] for key, record in single.records.items()}
    return [
        {
            "gap_s": pause.seconds,
            "noise": pause.noise,
            "endpoints": endpoints,
            "minutes": options.minutes,
            **summarize_streams(
                [
                    streams.records[job.key]
                    for job in jobs
                    if (job.endpoints, job.pause) == (endpoints, pause)
                ],
                alone,
            ),
        }
        for pause in options.pauses
        for endpoints in options.endpoints
    ]


def forget(folder: Path) -> None:
    """Start anew: nothing of an earlier call counts any more."""
    (folder / _SETTINGS).unlink(missing_ok=True)


def _keep_if_same(folder: Path, settings: Mapping[str, Any]) -> None:
    """Remove the records of a run with other settings."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SUMMARY).unlink(missing_ok=True)
    path = folder / _SETTINGS
    written = json.loads(json.dumps(dict(settings)))  # a tuple comes back as a list
    if not path.is_file() or read_json(path) != written:
        for name in (SINGLE, STREAMS):
            (folder / name).unlink(missing_ok=True)
        write_json(path, written)


def _score_single(
    recognizer: StreamingRecognizer, utterances: Sequence[Load], batch: int, done: RecordFile
) -> Iterator[Spoken]:
    """The utterances one by one, of which `batch` share every batch."""
    for loads in _batches(utterances, batch):
        recordings = [load() for load in loads]
        places = [placed(recording) for recording in recordings]
        new = [index for index, place in enumerate(places) if place.id not in done.records]
        recognized = simulate_together(recognizer, [recordings[index].samples_N for index in new])
        done.add(
            [
                score_stream([places[index]], simulation.result)
                for index, simulation in zip(new, recognized, strict=True)
            ]
        )
        for load, recording, place in zip(loads, recordings, places, strict=True):
            piece = Piece(len(recording.samples_N), lambda load=load: load().samples_N)  # type: ignore[misc]
            yield Spoken(place, piece, done.records[place.id])


def _plan(spoken: Sequence[Spoken], options: LongForm) -> list[_Job]:
    lengths = [utterance.piece.count for utterance in spoken]
    return [
        _Job(
            endpoints, pause, number, members, sum(lengths[member] + pause.num_samples for member in members)
        )
        for endpoints in options.endpoints
        for pause in options.pauses
        for number, members in enumerate(plan_streams(lengths, pause, options.minutes))
    ]


def _score_streams(
    recognizer: StreamingRecognizer,
    spoken: Sequence[Spoken],
    jobs: Sequence[_Job],
    options: LongForm,
    done: RecordFile,
) -> Iterator[Record]:
    yield from (done.records[job.key] for job in jobs if job.key in done.records)
    # Streams of like length together: at the end of a batch, few are left to share the work.
    new = sorted((job for job in jobs if job.key not in done.records), key=lambda job: -job.num_samples)
    for some in _batches(new, options.batch):
        joined = [
            join([spoken[member].piece for member in job.members], job.pause, [options.seed, job.number])
            for job in some
        ]
        sources, resets = [stream.source for stream in joined], [job.endpoints for job in some]
        recognized = simulate_together(recognizer, sources, resets=resets)
        records = []
        for job, stream, simulation in zip(some, joined, recognized, strict=True):
            members = [
                spoken[member].placed.moved(start / SAMPLE_RATE)
                for member, start in zip(job.members, stream.starts, strict=True)
            ]
            records.append(
                {
                    "gap_s": job.pause.seconds,
                    "noise": job.pause.noise,
                    "endpoints": job.endpoints,
                    "stream": job.number,
                    "segments": [segment.start for segment in simulation.segments] or [0.0],
                    **score_stream(members, simulation.result),
                }
            )
        done.add(records)
        yield from records


def _batches(items: Sequence[ItemT], size: int) -> Iterator[Sequence[ItemT]]:
    return (items[start : start + size] for start in range(0, len(items), size))
