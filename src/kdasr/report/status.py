"""What a reader must know before trusting the numbers: systems that are missing, unfinished or unequal."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from kdasr.common.errors import UserError
from kdasr.report.experiment import long_form_path
from kdasr.report.long_form import LongFormRow
from kdasr.report.notes import Note, decode_command, mend_command
from kdasr.report.records import DecodedPart, SystemRecord
from kdasr.report.results import ResultRow, part_names
from kdasr.report.roles import Roles
from kdasr.report.unlike import unlike_decodings
from kdasr.report.wording import number
from kdasr.training.teacher_lead import weak_teacher

TOLERANCE = 0.05
"""Percent points by which the WER of `summary.json` may differ from that of its utterances (rounding)."""


def require_decoded(systems: Sequence[SystemRecord], folders: Sequence[Path]) -> None:
    """Refuse a report without a single result.

    Raises:
        UserError: naming what was found and how to decode it.
    """
    if any(system.parts for system in systems):
        return
    found = ", ".join(f"{system.name} ({_progress(system)})" for system in systems)
    raise UserError(
        f"{', '.join(str(folder) for folder in folders)}: no decoded system; found: {found}. "
        f"There is no decode/<mode>/<part>/summary.json with its utterances.jsonl. Decode first: "
        f"{decode_command(systems[0], ['test-clean', 'test-other'])}"
    )


def collect_notes(
    systems: Sequence[SystemRecord],
    roles: Roles,
    rows: Sequence[ResultRow],
    long_form: Sequence[LongFormRow],
    folders: Sequence[Path],
) -> list[Note]:
    """Every note, in the order of systems."""
    parts = part_names(rows)
    notes = _missing_systems(systems, roles, folders)
    for system in systems:
        notes += _unfinished(system, parts)
    notes += (
        _older_versions(systems, long_form)
        + _long_form_alone(systems)
        + unlike_decodings(systems, parts)
        + _contradictions(systems, rows)
        + _unequal_students(rows, roles)
        + _doubtful_parts(systems, rows, parts)
        + _weak_teachers(systems, roles)
    )
    return notes


def _weak_teachers(systems: Sequence[SystemRecord], roles: Roles) -> list[Note]:
    """A teacher that is no better on dev than a student, by the last validations of both."""
    known = {
        system.name: row.values["wer"]
        for system in systems
        for row in system.metrics  # by step: the last one stays
        if row.split == "valid" and "wer" in row.values
    }
    students = {name: wer for name, wer in known.items() if name not in roles.teachers}
    found = {name: weak_teacher(known[name], students) for name in roles.teachers if name in known}
    return [Note(name, f"{text}.") for name, text in found.items() if text]


def _missing_systems(systems: Sequence[SystemRecord], roles: Roles, folders: Sequence[Path]) -> list[Note]:
    """The systems that play a part and that an experiment folder does not hold."""
    own = {system.folder.resolve() for system in systems}
    experiments = [folder for folder in folders if folder.resolve() not in own]
    present = {system.name for system in systems}
    if not experiments:
        return []
    train = ["kdasr", "train", "--config", "CONF.yaml"]
    return [
        Note(
            name,
            "missing: not trained in this experiment.",
            shlex.join([*train, "--system", name, "--exp", str(experiments[0] / name)]),
        )
        for name in roles.named
        if name not in present
    ]


def _unfinished(system: SystemRecord, parts: Sequence[str]) -> list[Note]:
    if not system.parts:
        text = f"not decoded ({_progress(system)}), so it is not in the tables."
        return [Note(system.name, text, mend_command(system, parts))]
    notes = []
    planned = system.planned_steps
    if planned and 0 < system.trained_steps < planned:
        notes.append(
            Note(
                system.name,
                f"unfinished: decoded after {number(system.trained_steps)} of {number(planned)} steps.",
            )
        )
    lacking = [part for part in parts if part not in system.parts]
    if lacking:
        text = f"not decoded on {', '.join(lacking)}."
        notes.append(Note(system.name, text, mend_command(system, lacking)))
    limits = {part: decoded.summary.get("max_utterances") or 0 for part, decoded in system.parts.items()}
    cut = [f"the first {limit} utterances of {part}" for part, limit in limits.items() if limit]
    if cut:
        notes.append(Note(system.name, f"decoded on {' and '.join(cut)} only."))
    offline = [part for part, decoded in system.parts.items() if decoded.mode != "streaming"]
    if offline:
        text = f"decoded offline on {', '.join(offline)}: word errors only, no latency."
        notes.append(Note(system.name, text, mend_command(system, offline)))
    return notes


def _older_versions(systems: Sequence[SystemRecord], long_form: Sequence[LongFormRow]) -> list[Note]:
    """Files that an older version wrote: a note for what they lack and for the systems whose they are."""
    owners: dict[tuple[tuple[str, ...], str], list[str]] = {}
    for system in systems:
        parts = [*system.parts.values(), *(part for found in system.contexts for part in found.values())]
        lacking = {
            str((part.folder / file).relative_to(system.folder)): names
            for part in parts
            for file, names in part.lacking.items()
        }
        lacking |= {
            str(long_form_path(Path(), row.part)): list(row.lacking)
            for row in long_form
            if row.system == system.name and row.lacking
        }
        for path, names in lacking.items():
            owners.setdefault((tuple(names), path), []).append(system.name)
    files: dict[tuple[tuple[str, ...], tuple[str, ...]], list[str]] = {}
    for (missing, path), whose in owners.items():
        files.setdefault((missing, tuple(whose)), []).append(path)
    return [
        Note(
            "older version of kdasr",
            f"{', '.join(paths)} of {', '.join(whose)}: without {', '.join(missing)} (left out, or shown "
            "as –); kdasr decode --force measures what is missing.",
        )
        for (missing, whose), paths in files.items()
    ]


def _progress(system: SystemRecord) -> str:
    steps, planned = system.trained_steps, system.planned_steps
    if not steps:
        return "not trained"
    return f"trained {number(steps)}" + (f" of {number(planned)} planned" if planned else "") + " steps"


def _long_form_alone(systems: Sequence[SystemRecord]) -> list[Note]:
    """Parts that a system has decoded as long streams only: `results.json` has no row to hold them."""
    notes = []
    for system in systems:
        lacking = [part for part in system.long_form if part not in system.parts]
        if lacking:
            text = f"decoded as long streams only on {', '.join(lacking)}: not in results.json."
            notes.append(Note(system.name, text, mend_command(system, lacking)))
    return notes


def _contradictions(systems: Sequence[SystemRecord], rows: Sequence[ResultRow]) -> list[Note]:
    summaries = {(s.name, part.part): part.summary for s in systems for part in s.parts.values()}
    notes = []
    for row in rows:
        stated = summaries[row.system, row.part].get("wer")
        if stated is not None and abs(stated - row.wer.estimate) > TOLERANCE:
            text = (
                f"summary.json states {number(stated, 2)} % WER on {row.part}, its utterances give "
                f"{number(row.wer.estimate, 2)} % (shown here): decode again."
            )
            notes.append(Note(row.system, text))
    return notes


def _unequal_students(rows: Sequence[ResultRow], roles: Roles) -> list[Note]:
    """Students that trained for another number of steps than a baseline, which no comparison should hide."""
    steps = {
        row.system: row.train_steps for row in rows if row.system not in roles.teachers and row.train_steps
    }
    baseline = next((name for name in roles.baselines if name in steps), None)
    if baseline is None:
        return []
    return [
        Note(
            name,
            f"trained for {number(count)} steps, {baseline} for {number(steps[baseline])}: "
            "their comparison mixes the method with the training time.",
        )
        for name, count in steps.items()
        if count != steps[baseline]
    ]


def _doubtful_parts(
    systems: Sequence[SystemRecord], rows: Sequence[ResultRow], parts: Sequence[str]
) -> list[Note]:
    """Parts on which the systems did not decode the same utterances, or not with the same onsets, or whose
    words are not what counts, or whose audio is faulty.
    """
    notes = []
    decoded = [system.parts for system in systems]
    for part in parts:
        found = [row for row in rows if row.part == part]
        heard = [parts[part] for parts in decoded if part in parts]
        if len({frozenset(one.utterances) for one in heard}) > 1:
            counts = ", ".join(f"{row.system} {number(row.num_utterances)}" for row in found)
            text = f"the systems decoded different utterances ({counts}); comparisons use the common ones."
            notes.append(Note(part, text))
        if unlike := _with_other_words(heard):
            text = (
                f"the systems were scored against different transcripts of {number(unlike)} utterances (of "
                "data that has changed, or normalized otherwise): their errors are not of the same words."
            )
            notes.append(Note(part, text))
        faults = (heard[0].summary.get("signal") or {}).get("faults") if heard else None
        if faults:
            counts = ", ".join(f"{kind} {number(count)}" for kind, count in faults.items())
            notes.append(Note(part, f"the audio of some utterances is faulty ({counts})."))
        if "cer" in {row.measure for row in found}:
            text = (
                "text without spaces between words (most letters are of scripts written so, and spaces are "
                "rare): compare the CER, which is also what plots and comparisons show."
            )
            notes.append(Note(part, text))
        onsets = {row.onset for row in found if row.onset}
        if "energy" in onsets:
            text = "no word alignment: speech starts where the energy rises, and latencies are approximate."
            notes.append(Note(part, text))
        if len(onsets) > 1:
            notes.append(Note(part, "onsets come from different sources, so latencies are not comparable."))
    return notes


def _with_other_words(heard: Sequence[DecodedPart]) -> int:
    """Utterances whose transcripts differ between systems by more than capitals."""
    refs: dict[str, set[str]] = {}
    for decoded in heard:
        for id, utterance in decoded.utterances.items():
            refs.setdefault(id, set()).add(utterance.ref.casefold())
    return sum(len(found) > 1 for found in refs.values())
