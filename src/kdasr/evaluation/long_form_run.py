"""A part decoded as long streams, and its utterances one by one; what is finished is kept.

An utterance by itself begins with a chunk, so its words stand at other places of their chunks than in a
stream, always the same ones. So the utterances are also decoded one by one with some quiet noise before them,
less than a chunk of it: "shifted". What streams have more errors than these is the doing of the stream.
"""

import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from kdasr.common.errors import UserError
from kdasr.common.files import read_json, write_json
from kdasr.common.locks import locked
from kdasr.common.ranks import Ranks
from kdasr.data.features import SAMPLE_RATE
from kdasr.evaluation.evaluate import Recording
from kdasr.evaluation.joining import QUIET_DB, Pause, join, plan_streams
from kdasr.evaluation.long_form import Placed, Record, placed, score_stream
from kdasr.evaluation.long_form_summary import summarize_streams
from kdasr.evaluation.record_file import RecordFile, forget_shares
from kdasr.recognition.audio import Samples
from kdasr.recognition.endpoint import EndpointRules
from kdasr.recognition.recognizer import StreamingRecognizer
from kdasr.recognition.simulate import simulate_together
from kdasr.recognition.sources import JoinedSource, Piece, SampleSource

SINGLE, SHIFTED, STREAMS, SUMMARY = "single.jsonl", "shifted.jsonl", "streams.jsonl", "summary.json"
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
    """Of the noise in pauses, and of where in a chunk shifted utterances begin."""
    ranks: Ranks = field(default_factory=Ranks)
    """Which of several processes that share out the work this one is."""

    def settings(self, rules: EndpointRules) -> dict[str, Any]:
        """What decides the result, in JSON's types."""
        return {
            "minutes": self.minutes,
            "pauses": [str(pause) for pause in self.pauses],
            "quiet_db": QUIET_DB,
            "endpoints": list(self.endpoints),
            "endpoint_rules": asdict(rules),
            "seed": self.seed,
            "shifted": True,
        }


@dataclass(frozen=True)
class Spoken:
    """An utterance that can be recognized again."""

    placed: Placed
    piece: Piece


@dataclass(frozen=True)
class _Job:
    """One stream of one condition."""

    endpoints: bool
    pause: Pause
    number: int
    members: list[int]
    ids: tuple[str, ...]
    """Of the members. A recording that could not be read in an earlier call shifts all that follow."""
    num_samples: int

    @property
    def key(self) -> tuple[Any, ...]:
        return self.endpoints, self.pause.seconds, self.pause.noise, self.number, self.ids


def _key_of(record: Record) -> tuple[Any, ...]:
    """The `key` of the job that a line of `streams.jsonl` is of."""
    ids = tuple(score["id"] for score in record["utterances"])
    return record["endpoints"], record["gap_s"], record["noise"], record["stream"], ids


def decode_long_form(
    recognizer: StreamingRecognizer,
    utterances: Sequence[Load],
    options: LongForm,
    folder: Path,
    settings: Mapping[str, Any],
    wrap: Wrap = lambda items, _: items,
) -> list[dict[str, Any]] | None:
    """Decode a part in every condition, and write `single.jsonl`, `shifted.jsonl` and `streams.jsonl`.

    What an earlier call with the same `settings` has finished is not decoded again.

    Args:
        recognizer: its `endpoints` are those of the conditions that have any; without, the default ones.
        utterances: what loads each of them, in the order in which they are joined; called more than once.
        options: the conditions.
        folder: where the records go.
        settings: whatever decides the result; other ones than last time start anew.
        wrap: shows progress.

    Returns:
        Of each condition: gap, noise, endpoints and what `summarize_streams` says. None: other processes have
        not finished their shares.

    Raises:
        UserError: the model needs the end of the input; or audio that cannot be read.
    """
    if recognizer.needs_end:
        raise UserError(
            f"long form needs streams that are recognized chunk by chunk: under '{recognizer.context}' this "
            "model needs the end of the input"
        )
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        _keep_if_same(folder, settings)
    ranks = options.ranks
    single, shifted = (
        RecordFile(folder / name, lambda record: record["utterances"][0]["id"], ranks)
        for name in (SINGLE, SHIFTED)
    )
    streams = RecordFile(folder / STREAMS, _key_of, ranks)
    scored = _score_single(recognizer.with_endpoints(None), utterances, options, single, shifted)
    spoken: list[Spoken] = list(wrap(scored, len(utterances)))
    # Streams of like length together: at the end of a batch, few are left to share the work.
    jobs = sorted(_plan(spoken, options), key=lambda job: -job.num_samples)
    if recognizer.endpoints is None:
        recognizer = recognizer.with_endpoints(EndpointRules())
    for _ in wrap(_score_streams(recognizer, spoken, jobs, options, streams), len(jobs)):
        pass
    with locked(folder):  # also alone: several processes may have begun it
        ids, keys = [one.placed.id for one in spoken], [job.key for job in jobs]
        for records, whole in ((single, ids), (shifted, ids), (streams, keys)):
            records.reread()
            if not records.records.keys() >= set(whole):
                return None
        for records, whole in ((single, ids), (shifted, ids), (streams, keys)):
            records.finish(whole)
    return [
        {
            "gap_s": pause.seconds,
            "noise": pause.noise,
            "endpoints": endpoints,
            "minutes": options.minutes,
            **summarize_streams(
                [
                    streams.records[job.key]
                    for job in sorted(jobs, key=lambda job: job.number)
                    if (job.endpoints, job.pause) == (endpoints, pause)
                ],
                *(_by_id(records) for records in (single, shifted)),
            ),
        }
        for pause in options.pauses
        for endpoints in options.endpoints
    ]


def _by_id(alone: RecordFile) -> dict[str, Any]:
    return {key: record["utterances"][0] for key, record in alone.records.items()}


def forget(folder: Path) -> None:
    """Start anew: nothing of an earlier call counts any more."""
    (folder / _SETTINGS).unlink(missing_ok=True)


def _keep_if_same(folder: Path, settings: Mapping[str, Any]) -> None:
    """Remove the records of a run with other settings."""
    (folder / SUMMARY).unlink(missing_ok=True)
    path = folder / _SETTINGS
    written = json.loads(json.dumps(dict(settings)))  # a tuple comes back as a list
    if not path.is_file() or read_json(path) != written:
        for name in (SINGLE, SHIFTED, STREAMS):
            (folder / name).unlink(missing_ok=True)
            forget_shares(folder / name)
        write_json(path, written)


def _score_single(
    recognizer: StreamingRecognizer,
    utterances: Sequence[Load],
    options: LongForm,
    single: RecordFile,
    shifted: RecordFile,
) -> Iterator[Spoken]:
    """The utterances one by one, as they are and shifted, of which `options.batch` share every batch."""
    chunk = recognizer.context.chunk * recognizer.geometry.frame_seconds
    for number, loads in enumerate(_batches(utterances, options.batch)):
        recordings = [load() for load in loads]
        places = [placed(recording) for recording in recordings]
        if options.ranks.has(number):
            _score_alone(recognizer, recordings, places, [Pause()] * len(places), single)
            leads = [_lead(place.id, chunk, options.seed) for place in places]
            _score_alone(recognizer, recordings, places, leads, shifted)
        for load, recording, place in zip(loads, recordings, places, strict=True):
            piece = Piece(len(recording.samples_N), lambda load=load: load().samples_N)  # type: ignore[misc]
            yield Spoken(place, piece)


def _lead(name: str, chunk: float, seed: int) -> Pause:
    """Quiet noise of less than a chunk, in seconds, all lengths alike likely."""
    share = np.random.default_rng([seed, zlib.crc32(name.encode())]).random()
    return Pause(max(share * chunk, 1 / SAMPLE_RATE), "quiet")


def _score_alone(
    recognizer: StreamingRecognizer,
    recordings: Sequence[Recording],
    places: Sequence[Placed],
    leads: Sequence[Pause],
    done: RecordFile,
) -> None:
    """Streams of one utterance, each after its lead; those that are not done."""
    new = [index for index, place in enumerate(places) if place.id not in done.records]
    noises = [leads[index].samples([zlib.crc32(places[index].id.encode())]) for index in new]
    recognized = simulate_together(
        recognizer,
        [_after(noise_N, recordings[index].samples_N) for index, noise_N in zip(new, noises, strict=True)],
    )
    done.add(
        [
            score_stream([places[index].moved(leads[index].num_samples / SAMPLE_RATE)], simulation.result)
            for index, simulation in zip(new, recognized, strict=True)
        ]
    )


def _after(lead_N: Samples, recording: SampleSource) -> JoinedSource:
    """A recording behind its lead. A long one is read as it is heard."""
    return JoinedSource([Piece(len(lead_N), lambda: lead_N), Piece(len(recording), lambda: recording)])


def _plan(spoken: Sequence[Spoken], options: LongForm) -> list[_Job]:
    lengths = [utterance.piece.count for utterance in spoken]
    return [
        _Job(
            endpoints,
            pause,
            number,
            members,
            tuple(spoken[member].placed.id for member in members),
            sum(lengths[member] + pause.num_samples for member in members),
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
    for number, batch in enumerate(_batches(jobs, options.batch)):
        yield from (done.records[job.key] for job in batch if job.key in done.records)
        some = [job for job in batch if job.key not in done.records]
        if not some or not options.ranks.has(number):
            continue
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
