"""What data a training began with, wherever they lie, so that it goes on with these and no others."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lhotse import Recording
from lhotse.cut import MonoCut

from kdasr.common.errors import UserError
from kdasr.common.files import read_object, write_json
from kdasr.common.logging import get_logger
from kdasr.data.augment import NoiseMixer
from kdasr.data.data_config import DataConfig, ReverbConfig
from kdasr.data.features import SAMPLE_RATE, FeatureStats
from kdasr.data.folder import load_record
from kdasr.data.reverb import Reverb
from kdasr.data.usable import cut_text
from kdasr.data.word_times import aligned_words

log = get_logger(__name__)

DATA = "data.json"
"""Of an experiment folder: what its data were when it began."""
CLOSE = 0.1
"""Difference of a mean log energy that rounding on another machine does not make, and other audio does."""

Description = dict[str, Any]
"""Plain values: a count of `utterances`, `sentences` or `files`, a `digest`, perhaps the features' `mean`."""


def describe_cuts(cuts: Iterable[MonoCut], data_dir: Path, parts: Sequence[str] = ()) -> Description:
    """Ids, lengths, transcripts and word times of some cuts in their order; no paths.

    With `parts` also the mean of their features, where `kdasr prepare` has it: the same utterances with
    noise in them are other data.
    """
    digest, count = hashlib.sha256(), 0
    for cut in cuts:
        words = [(word, round(start, 3), round(end, 3)) for word, start, end in aligned_words(cut)]
        line = (cut.id, round(cut.duration * SAMPLE_RATE), cut_text(cut), words)
        digest.update(repr(line).encode())
        count += 1
    found: Description = {"utterances": count, "digest": digest.hexdigest()}
    entries = (load_record(data_dir) or {"parts": {}})["parts"]
    stats = FeatureStats()
    for part in parts:
        stats.merge(FeatureStats.from_json(entries[part]["stats"]))
    return found | ({"mean": stats.summary()["mean"]} if stats.num_frames else {})


def describe_files(files: Sequence[Path], root: Path) -> Description:
    """Names and sizes of some files below a folder."""
    lines = sorted(f"{file.relative_to(root)} {file.stat().st_size}" for file in files)
    return {"files": len(files), "digest": _digest_of(lines)}


def _describe_responses(config: ReverbConfig) -> Description:
    """Names and sizes of recorded room impulse responses: files below a folder, or those of a manifest."""
    found = Reverb(config).responses or []
    files = [response for response in found if isinstance(response, Path)]
    if files:
        return describe_files(files, Path(str(config.responses)))
    lines = [f"{response.id} {response.num_samples}" for response in found if isinstance(response, Recording)]
    return {"files": len(lines), "digest": _digest_of(sorted(lines))}


def _digest_of(lines: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def describe_data(
    config: DataConfig, cuts: Mapping[str, Iterable[MonoCut]], unpaired: Sequence[str] = ()
) -> dict[str, Description]:
    """What `check_same_data` compares: the `training`, `dev` and perhaps `unpaired` cuts, noise and rooms."""
    parts = {"training": config.train_parts, "dev": config.dev_parts, "unpaired": unpaired}
    found = {name: describe_cuts(some, Path(config.dir), parts[name]) for name, some in cuts.items()}
    if config.noise.musan_dir is not None:
        found["noise"] = describe_files(NoiseMixer(config.noise).files, Path(config.noise.musan_dir))
    if config.reverb.probability > 0 and config.reverb.responses is not None:
        found["reverb"] = _describe_responses(config.reverb)
    return found


def check_same_data(exp_dir: Path, found: Mapping[str, Description], source: str) -> None:
    """Remember what a training begins with, or check that it goes on with the same.

    Args:
        exp_dir: the experiment folder.
        found: the descriptions by what they are of, such as `training`.
        source: what the message begins with: the option that says where the data lie, and its value.

    Raises:
        UserError: other data than those that it began with.
    """
    path = exp_dir / DATA
    if not path.is_file():
        write_json(path, found)
        return
    began = read_object(path)
    for name, now in found.items():
        difference = _difference(began.get(name, now), now)
        if difference is not None:
            raise UserError(f"{source}: not the {name} data that {exp_dir} began with: {difference}")
    write_json(path, {**found, **began})


def _difference(then: Description, now: Description) -> str | None:
    for kind in ("utterances", "sentences", "files"):
        if then.get(kind) != now.get(kind):
            return f"{now.get(kind)} {kind}, {then.get(kind)} then"
    if then["digest"] != now["digest"]:
        return "other names, lengths, transcripts, word times or order"
    means = zip(then.get("mean", []), now.get("mean", []), strict=False)
    if any(abs(left - right) > CLOSE for left, right in means):
        return "the same transcripts with other features (their mean is another)"
    return None
