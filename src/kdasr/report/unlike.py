"""Decodings of a report that are not alike: other weights, another context, another search."""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kdasr.report.notes import Note, mend_command
from kdasr.report.records import DecodedPart, SystemRecord


def unlike_decodings(systems: Sequence[SystemRecord], parts: Sequence[str]) -> list[Note]:
    """Notes on results of one system, or of one part, that stand beside each other and were not made alike.

    What an older version of kdasr did not write of a decoding is not compared.
    """
    return (
        _parts_of_other_weights(systems)
        + _long_form_of_other_weights(systems)
        + _long_form_of_other_contexts(systems)
        + _contexts_of_other_weights(systems)
        + _other_searches(systems, parts)
    )


def _parts_of_other_weights(systems: Sequence[SystemRecord]) -> list[Note]:
    """Systems whose parts were not all decoded by one checkpoint: some are of before it was trained anew."""
    notes = []
    for system in systems:
        known = {name: weights for name, part in system.parts.items() if (weights := _weights(part))}
        if len(set(known.values())) > 1:
            text = f"{' and '.join(known)} were not decoded by the same checkpoint: decode again."
            notes.append(Note(system.name, text, mend_command(system, list(known))))
    return notes


def _long_form_of_other_weights(systems: Sequence[SystemRecord]) -> list[Note]:
    """Parts whose long streams were decoded by another checkpoint than their utterances."""
    notes = []
    for system in systems:
        for part, summary in system.long_form.items():
            own = _weights(system.parts[part]) if part in system.parts else None
            if None not in (own, joined := summary.get("checkpoint_sha256")) and joined != own:
                text = f"{part}: another checkpoint decoded long streams than utterances: decode again."
                command = mend_command(system, [part])
                notes.append(Note(system.name, text, command and f"{command} --long-form"))
    return notes


def _long_form_of_other_contexts(systems: Sequence[SystemRecord]) -> list[Note]:
    """Parts whose long streams were decoded under another context than their utterances."""
    notes = []
    for system in systems:
        for part, summary in system.long_form.items():
            found = system.parts[part].summary.get("context") if part in system.parts else None
            joined = summary.get("context")
            if None not in (found, joined) and found != joined:
                text = f"{part}: long streams were decoded under {joined}, and utterances under {found}."
                # A system with a full context has no long streams of its own.
                command = "" if found == "full" else mend_command(system, [part])
                notes.append(Note(system.name, text, command and f"{command} --long-form"))
    return notes


def _contexts_of_other_weights(systems: Sequence[SystemRecord]) -> list[Note]:
    """Decodings under further contexts by another checkpoint than that of a system's own results."""
    notes = []
    for system in systems:
        own = {_weights(part) for part in system.parts.values()} - {None}
        others = [part for found in system.contexts for part in found.values()]
        stale = [part for part in others if own and _weights(part) not in {*own, None}]
        if stale:
            contexts = dict.fromkeys(str(part.summary.get("context")) for part in stale)
            text = f"decoded by another checkpoint under {'; '.join(contexts)}: decode again."
            command = mend_command(system, sorted({part.part for part in stale}))
            chosen = shlex.join(["--contexts", "; ".join(contexts)])
            notes.append(Note(system.name, text, command and f"{command} {chosen}"))
    return notes


def _weights(part: DecodedPart) -> str | None:
    """The digest of the checkpoint that decoded it; None in an older version."""
    return part.summary.get("checkpoint_sha256")


def _other_searches(systems: Sequence[SystemRecord], parts: Sequence[str]) -> list[Note]:
    """Parts that the systems, and systems whose parts, were not all decoded by the same search."""
    notes = []
    for name in parts:
        found = [(system.name, system.parts[name]) for system in systems if name in system.parts]
        if ways := _ways(found):
            text = f"the systems were not decoded alike ({ways}): comparisons mix them with their decoding."
            notes.append(Note(name, text))
    for system in systems:
        own = list(system.parts.items())
        under = [
            (f"{name} under {part.summary.get('context')}", part)
            for found in system.contexts
            for name, part in found.items()
        ]
        if ways := _ways([*own, *under]):
            notes.append(Note(system.name, f"not decoded alike ({ways})."))
    return notes


def _ways(decodings: Iterable[tuple[str, DecodedPart]]) -> str:
    """How some named decodings were made, with the names of each way; empty if all were made alike."""
    ways: dict[str, list[str]] = {}
    for name, part in decodings:
        ways.setdefault(_way(part.summary), []).append(name)
    return "; ".join(f"{way}: {', '.join(names)}" for way, names in ways.items()) if len(ways) > 1 else ""


def _way(summary: Mapping[str, Any]) -> str:
    """Search, language model and other options that decide what a system recognizes, in words."""
    said = [str(summary.get("search") or "greedy")]
    if model := summary.get("language_model"):
        said.append(_language_model(model))
    said += [
        what
        for name, what in (
            ("biasing_sha256", "biased to phrases"),
            ("int8", "int8"),
            ("endpoint_rules", "resets at endpoints"),
        )
        if summary.get(name)
    ]
    return ", ".join(said)


def _language_model(model: Any) -> str:
    """A scale that was chosen on dev speech belongs to the system, another one to the decoding."""
    if not isinstance(model, Mapping):
        return "a language model"
    said = f"{model.get('use')} with the language model {str(model.get('sha256'))[:8]}"
    return said if model.get("tuned_on") else f"{said}, scale {model.get('scale')}"
