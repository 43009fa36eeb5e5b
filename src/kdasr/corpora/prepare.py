"""`kdasr prepare`: a corpus of any kind becomes a data folder, part by part."""

# Shapes: N utterances.

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from heapq import nsmallest
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from kdasr.common.errors import UserError
from kdasr.common.files import write_json
from kdasr.common.locks import locked
from kdasr.common.logging import get_logger
from kdasr.common.name_digests import place_of
from kdasr.corpora.base import Corpus, Part, Reading
from kdasr.corpora.prepare_options import PrepareOptions
from kdasr.corpora.prepare_part import PartWork, PreparedFolder, part_places, report_bad_of
from kdasr.data.audio_files import SHOWN, quote
from kdasr.data.features import FeatureStats
from kdasr.data.index_folder import open_part
from kdasr.data.staging import Workers
from kdasr.data.text_rules import check_rule

__all__ = ["PrepareOptions", "prepare_corpus"]

log = get_logger(__name__)

STATS = "feature_stats.json"
_PART_NAME = re.compile(r"\w[\w.+-]*")


def prepare_corpus(options: PrepareOptions) -> None:
    """Check all parts, then prepare those that are new or changed.

    The record in `prepare.json` is written last, so an interrupted part counts as not prepared; what has been
    computed of it is kept. Utterances whose audio cannot be used are left out, named and counted.

    Several processes may call it with the same arguments but for `ranks`: each does its share of each part,
    and whoever is the last one to finish a part puts it together. The result is that of one process.

    Raises:
        UserError: what is wrong with the corpus or the options, too many bad utterances, a full disk.
    """
    _check_options(options)
    corpus = options.open()
    names = corpus.parts()
    _check_parts(options, names)
    data = PreparedFolder(options.out_dir, options.normalize).load()
    for name in names:
        data.check_free(name)
    reading = Reading(options.jobs, options.keep_empty, watch=_refuse_replaced(options, names))
    parts = [corpus.check(name, reading) for name in names]
    _warn_of_shared(parts, options)
    try:
        for part in parts:
            if part.bad:  # before anything is computed
                report_bad_of(part, part.bad, options)
        data.record_normalization()
        work = [PartWork(part, _settings(part, corpus, options), options, data) for part in parts]
        with Workers(options.jobs) as workers:
            for item in work:
                item.run(workers)
        if all(data.load().has(item.checked.name, item.settings) for item in work):
            with locked(options.out_dir):
                _write_stats(options.out_dir, data.load().record)
            for part in parts:
                if options.is_train(part.name):
                    open_part(options.out_dir, part.name)  # makes its index
    except OSError as error:
        raise UserError(
            f"{options.out_dir}: cannot be written ({error.strerror or error}). What is done is kept: the "
            "same command goes on from there"
        ) from error


def _check_train_parts(options: PrepareOptions, names: Sequence[str]) -> None:
    unknown = set(options.train_parts or ()) - set(names)
    if unknown:
        raise UserError(f"--train-parts: not among the parts: {', '.join(sorted(unknown))}")


def _check_parts(options: PrepareOptions, names: Sequence[str]) -> None:
    _check_train_parts(options, names)
    for name in names:
        if not _PART_NAME.fullmatch(name):
            raise UserError(f"part '{name}': a name has letters, digits, '.', '_', '+' and '-' only")


def _refuse_replaced(options: PrepareOptions, names: Sequence[str]) -> Callable[[Path], None]:
    """What refuses audio in a place that is replaced; manifests in such a place are refused at once.

    Raises:
        UserError: a manifest is in such a place.
    """
    replaced = [place.resolve() for name in names for place in part_places(options.out_dir, name)]

    @lru_cache(maxsize=256)
    def around(folder: Path) -> set[Path]:
        return {folder.resolve(), *folder.resolve().parents}

    def refuse(path: Path) -> None:
        folders = around(path.parent)
        for place in replaced:
            is_within = place in folders or (place.name == path.name and place == path.resolve())
            if is_within and path.exists():
                raise UserError(
                    f"{path}: would be lost, as `kdasr prepare` replaces {place}: give another --out"
                )

    for path in (path for name in names for path in options.cuts.get(name, ())):
        refuse(path)
    return refuse


def _warn_of_shared(parts: Sequence[Part], options: PrepareOptions) -> None:
    """Name ids that several parts have: perhaps the same speech, perhaps only the same name."""
    for one, other in combinations(parts, 2):
        shared = np.intersect1d(one.digests(), other.digests(), assume_unique=True)
        if len(shared):
            heard = options.is_train(one.name) != options.is_train(other.name)
            names = (name for name in one.ids() if place_of(shared, name) is not None)
            log.warning(
                "%s and %s: %d id(s) are in both%s: %s",
                one.name, other.name, len(shared),
                ", so that perhaps the same speech is trained on and scored" if heard else "",
                quote(nsmallest(SHOWN, names), len(shared)),
            )  # fmt: skip


def _check_options(options: PrepareOptions) -> None:
    if options.parts:
        _check_train_parts(options, options.parts)
    if options.normalize is not None:
        check_rule(options.normalize, "text.normalize")
    wrong = [speed for speed in options.speeds if not 0.5 <= speed <= 2.0]
    if wrong or not options.speeds:
        raise UserError(f"--speed: factors between 0.5 and 2, such as 0.9,1.0,1.1; found {wrong or 'none'}")
    if options.jobs < 1:
        raise UserError(f"--jobs: at least 1, found {options.jobs}")


def _settings(part: Part, corpus: Corpus, options: PrepareOptions) -> dict[str, Any]:
    return {
        **corpus.settings(),
        "fingerprint": part.fingerprint,
        "train": options.is_train(part.name),
        "speeds": options.speeds_of(part.name),
        "on_the_fly": options.on_the_fly,
        **({"keep_empty": True} if options.keep_empty and part.empty else {}),
    }


def _write_stats(out_dir: Path, record: dict[str, Any]) -> None:
    stats = FeatureStats()
    for entry in record["parts"].values():
        if entry["settings"]["train"]:
            stats.merge(FeatureStats.from_json(entry["stats"]))
    if stats.num_frames == 0:
        log.warning("%s: no training part prepared yet, so no %s", out_dir, STATS)
        return
    write_json(out_dir / STATS, stats.summary())
