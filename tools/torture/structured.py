"""Files that are whole and say what cannot be: values of another type, missing keys, numbers that are none.

Damaged bytes of a gzipped manifest or of a checkpoint do not get past their check sums. Here a value is
changed within, and the file is written anew as its own program would.
"""

import copy
import gzip
import io
import json
import math
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import soundfile
import torch
import yaml

from kdasr.bundle import load_bundle
from kdasr.common.files import read_json, write_json
from kdasr.data.features import SAMPLE_RATE
from kdasr.data.folder import load_cuts
from kdasr.data.tokenizer import Tokenizer
from kdasr.evaluation.evaluate import load_recording
from kdasr.evaluation.part_run import sound_recordings
from torture.mutations import SEPARATORS, Mutation

NUMBERS = (math.nan, math.inf, -math.inf, -1, 0, 1e308, -1e30, 10**20, 2**31, 0.5, True)
OTHERS: tuple[Any, ...] = (None, "", "x", [], {}, [1, "a"], {"a": None}, "nan", -7)
TENSORS = ("nan", "inf", "shape", "type", "gone", "text")


class Place(NamedTuple):
    """Where a value stands in nested dictionaries and lists."""

    container: Any
    key: Any


def change_value(value: Any, draws: Random) -> Any:
    """A copy of nested dictionaries and lists, in which one key or item is gone, another, or there twice."""
    changed = copy.deepcopy(value)
    container, key = draws.choice(list(_places(changed)))
    old, choice = container[key], draws.random()
    if choice < 0.3:
        del container[key]
    elif isinstance(old, int | float) and choice < 0.85:
        container[key] = draws.choice(NUMBERS)
    elif isinstance(container, list) and choice < 0.5:
        container.insert(key, copy.deepcopy(old))
    elif isinstance(old, str) and choice < 0.6:
        place = draws.randint(0, len(old))
        container[key] = old[:place] + draws.choice(SEPARATORS) + old[place:]
    else:
        container[key] = copy.deepcopy(draws.choice(OTHERS + NUMBERS))
    return changed


def _places(value: Any) -> Iterator[Place]:
    pairs: Any = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for key, inner in pairs:
        yield Place(value, key)
        yield from _places(inner)


def of_json(content: bytes, draws: Random) -> bytes:
    """One value of a JSON file."""
    return json.dumps(change_value(json.loads(content), draws), indent=2).encode()


def of_yaml(content: bytes, draws: Random) -> bytes:
    """One value of a YAML file."""
    return yaml.safe_dump(change_value(yaml.safe_load(content), draws), sort_keys=False).encode()


def of_cuts(content: bytes, draws: Random) -> bytes:
    """One value of one cut; now and then a cut is there twice."""
    rows = [json.loads(line) for line in gzip.decompress(content).splitlines()]
    place = draws.randrange(len(rows))
    if draws.random() < 0.05:
        rows.append(rows[place])
    else:
        rows[place] = change_value(rows[place], draws)
    return gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode(), mtime=0)


def of_checkpoint(content: bytes, draws: Random) -> bytes:
    """One tensor, or one of the other values."""
    payload = torch.load(io.BytesIO(content), weights_only=True)
    model = payload.pop("model")
    if draws.random() < 0.5:
        _change_tensor(model, draws.choice(list(model)), draws)
    else:
        payload = change_value(payload, draws)
        if draws.random() < 0.05:
            model = draws.choice((None, [], *NUMBERS))
    saved = io.BytesIO()
    torch.save({**payload, "model": model}, saved)
    return saved.getvalue()


def _change_tensor(model: dict[str, Any], name: str, draws: Random) -> None:
    tensor, what = model[name], draws.choice(TENSORS)
    if what in ("nan", "inf") and tensor.is_floating_point():
        tensor.view(-1)[draws.randrange(tensor.numel())] = float(what)
    elif what == "shape":
        model[name] = tensor.reshape(-1)[:-1]
    elif what == "type":
        model[name] = tensor.to(torch.complex64)
    elif what == "gone":
        del model[name]
    else:
        model[name] = "x"


OF_VALUES: dict[str, Mutation] = {
    "json": of_json,
    "yaml": of_yaml,
    "cuts": of_cuts,
    "checkpoint": of_checkpoint,
}


def recordings(data: Path, part: str, tokens: Path) -> dict[str, list[Any]]:
    """Words, samples and word times of each utterance of a manifest, as `kdasr decode` takes them."""
    tokenizer = Tokenizer.load(tokens)
    found = sound_recordings(load_cuts(data, part), lambda cut: load_recording(cut, tokenizer), bad=[])
    return {
        item.id: [
            item.ref,
            sha256(item.samples_N[:].tobytes()).hexdigest(),
            len(item.samples_N),
            [[word.start, word.end] for word in item.ref_words],
        ]
        for item in found
    }


def recordings_say(data: Path, tokens: Path) -> Callable[[bytes, Any], bool]:
    """The oracle of `recordings`: ids and words as JSON has them, samples of the file from the start of the
    cut for its duration, word times within them.
    """

    def says(content: bytes, value: dict[str, list[Any]]) -> bool:
        rows = [json.loads(line) for line in gzip.decompress(content).decode().split("\n") if line.strip()]
        by_id = {row["id"]: row for row in rows}
        return len(by_id) == len(rows) and all(_is_true(by_id[name], *item) for name, item in value.items())

    def _is_true(
        row: dict[str, Any], words: list[str], digest: str, count: int, times: list[list[float]]
    ) -> bool:
        normalize = Tokenizer.load(tokens).normalize
        text = next((item.get("text") for item in row.get("supervisions") or []), None) or ""
        path = data / row["recording"]["sources"][0]["source"]
        samples_N, _ = soundfile.read(path, dtype="float32")
        first = round(row["start"] * SAMPLE_RATE)
        return (
            words == normalize(text).split()
            and sha256(samples_N[first : first + count].tobytes()).hexdigest() == digest
            and abs(count / SAMPLE_RATE - row["duration"]) < 0.01
            and all(-0.11 <= start <= end <= row["duration"] + 0.11 for start, end in times)
        )

    return says


def facts(exp: Path) -> dict[str, Any]:
    """What a checkpoint gives besides its weights, whose digest stands for them."""
    bundle = load_bundle(exp)
    digest = sha256()
    for name, tensor in bundle.model.state_dict().items():
        digest.update(name.encode() + tensor.numpy().tobytes())
    context = {"left": bundle.context.left, "chunk": bundle.context.chunk, "right": bundle.context.right}
    return {
        "weights": digest.hexdigest(),
        "context": context,
        "system": bundle.name,
        "steps": bundle.train_steps,
    }


def facts_say(whole: dict[str, Any]) -> Callable[[bytes, Any], bool]:
    """The oracle of `facts`: the weights of the whole file, and facts of the right type, as stored."""

    def says(content: bytes, value: dict[str, Any]) -> bool:
        stored = torch.load(io.BytesIO(content), weights_only=True)
        steps, context = stored["train_steps"], {"right": 0, **stored["context"]}
        told = {"weights": whole["weights"], "context": context, "system": stored["system"], "steps": steps}
        whole_numbers = {type(number) for number in (steps, *context.values())} == {int}
        return value == told and whole_numbers and steps >= 0 and isinstance(stored["system"], str)

    return says


def signed(bundle: Path, graph: str, load: Callable[[], Any]) -> Any:
    """What is loaded when the manifest has the digest of the graph that is there, damaged or not."""
    manifest = bundle / "manifest.json"
    before = manifest.read_bytes()
    try:
        files = {**read_json(manifest)["files"], graph: sha256((bundle / graph).read_bytes()).hexdigest()}
        write_json(manifest, {**read_json(manifest), "files": files})
        return load()
    finally:
        manifest.write_bytes(before)
