"""The kinds of file that are no text: audio, manifests of cuts, tokenizers, checkpoints, graphs."""

import gzip
import io
import json
import math
import random
import wave
from pathlib import Path
from typing import Any

import numpy as np

from torture_parts.base import PART, digest
from torture_parts.kinds import Kind, heard, heard_by_export
from torture_parts.mutate import BINARY, NUMBER_VALUES, change_bytes, change_value


class Flac(Kind):
    """A flac of a corpus: through `prepare`'s reader and through that of `stream`."""

    name = "audio (flac)"
    oracle = "the samples and the rate of the unmutated file: its format has check sums"

    @property
    def victim(self) -> Path:
        return self.base.chapter / "200-1-0000.flac"

    @property
    def foreign(self) -> Path:
        return self.base.chapter / "200-1.trans.txt"

    def mutate(self, content: bytes, rng: random.Random) -> tuple[str, bytes]:
        return change_bytes(content, BINARY, self.foreign.read_bytes(), rng)

    def read(self, scratch: Path) -> Any:
        return read_twice(self.victim)


class Wav(Flac):
    """A wav of a corpus."""

    name = "audio (wav)"
    oracle = "what Python's wave module reads, of a file that is as long as it says"

    @property
    def victim(self) -> Path:
        return self.base.chapter / "200-1-0003.wav"

    def right(self, content: bytes, value: Any, whole: Any) -> str | None:
        if value == whole:
            return None
        try:
            with wave.open(io.BytesIO(content)) as file:
                rate, channels, width = file.getframerate(), file.getnchannels(), file.getsampwidth()
                samples = file.readframes(file.getnframes())
        except (wave.Error, EOFError):
            return f"taken as {value}, which Python's wave module refuses"
        if width != 2:
            return f"{8 * width} bits, from a damaged header"
        if len(content) < int.from_bytes(content[4:8], "little") + 8 and content[4:8] != b"\xff\xff\xff\xff":
            return "shorter than it says"
        samples_NC = np.frombuffer(samples, "<i2")[: len(samples) // 2 // channels * channels].reshape(
            -1, channels
        )
        if channels > 1:
            return (
                None if value[0] == rate and value[1] == channels else f"{value[:2]}, not {(rate, channels)}"
            )
        return super().right(
            content, value, [rate, channels, len(samples_NC), digest(samples_NC[:, 0] / np.float32(32768))]
        )


def read_twice(path: Path) -> list[Any]:
    """Rate, channels, samples and their digest, which both readers have to give alike."""
    from kdasr.common.errors import UserError
    from kdasr.data.audio_reading import fault_in_samples, read_audio, read_header
    from kdasr.streaming.audio import load_audio

    refused: UserError | None = None
    try:
        header = read_header(path)
        samples_NC, rate = read_audio(path)
        fault = fault_in_samples(samples_NC)
        if fault:
            raise UserError(fault)
        corpus = [rate, samples_NC.shape[1], len(samples_NC), digest(samples_NC[:, 0])]
        if (header.sample_rate, header.channels, header.num_samples) != tuple(corpus[:3]):
            return ["header and samples differ", header, corpus]
    except UserError as error:
        refused = error
    try:
        samples_N, rate = load_audio(path)
        stream = [rate, 1, len(samples_N), digest(samples_N)]
    except UserError:
        stream = []
    if refused:
        if stream and len(stream) == 4:
            # A stream may end early, as its source may; it says what it heard.
            raise refused
        raise refused
    return corpus if corpus[1] > 1 or stream == corpus else ["prepare and stream differ", corpus, stream]


class Cuts(Kind):
    """A Lhotse manifest, through the readers of `decode` and of `export --check`."""

    name = "manifest"
    oracle = (
        "the cuts that Python's gzip and json read: their ids, words, and samples of the file at their times"
    )

    @property
    def victim(self) -> Path:
        return self.base.data / f"cuts_{PART}.jsonl.gz"

    @property
    def foreign(self) -> Path:
        return self.base.data / "manifests" / f"librispeech_supervisions_{PART}.jsonl.gz"

    def mutate(self, content: bytes, rng: random.Random) -> tuple[str, bytes]:
        kind = rng.random()
        if kind < 0.3:
            return change_bytes(content, BINARY, self.foreign.read_bytes(), rng)
        text = gzip.decompress(content)
        if kind < 0.6:
            what, changed = super().mutate(text, rng)
            return f"{what} within", gzip.compress(changed, mtime=0)
        lines = [json.loads(line) for line in text.splitlines()]
        place = rng.randrange(len(lines))
        what, lines[place] = change_value(lines[place], rng)
        return what, gzip.compress("".join(json.dumps(line) + "\n" for line in lines).encode(), mtime=0)

    def read(self, scratch: Path) -> Any:
        from kdasr.data.bad import BadUtterance
        from kdasr.data.folder import load_cuts
        from kdasr.data.tokenizer import Tokenizer
        from kdasr.streaming.evaluate import load_recording
        from kdasr.streaming.part_run import sound_recordings

        tokenizer = Tokenizer.load(self.base.exp / "tokens")
        bad: list[BadUtterance] = []
        found = sound_recordings(
            load_cuts(self.base.data, PART), lambda cut: load_recording(cut, tokenizer), bad
        )
        return {
            item.id: [
                item.ref,
                digest(np.asarray(item.samples_N[:])),
                len(item.samples_N),
                [(word.word, word.start, word.end) for word in item.ref_words],
            ]
            for item in found
        }

    def right(self, content: bytes, value: Any, whole: Any) -> str | None:
        from kdasr.data.tokenizer import Tokenizer

        normalize = Tokenizer.load(self.base.exp / "tokens").normalize
        try:
            rows = [
                json.loads(line) for line in gzip.decompress(content).decode().split("\n") if line.strip()
            ]
        except (OSError, EOFError, ValueError) as error:
            return f"taken, though it cannot be read: {error}"
        by_id = {row["id"]: row for row in rows}
        if len(by_id) != len(rows):
            return "taken, though an id is there twice"
        for name, (ref, samples, count, words) in value.items():
            row = by_id.get(name)
            if row is None:
                return f"'{name}' is not in it"
            texts = [item.get("text") for item in row.get("supervisions") or []]
            if ref != normalize(texts[0] if texts and texts[0] else "").split():
                return f"{name}: words {ref}"
            fault = self._fault_in_samples(row, samples, count)
            if fault:
                return f"{name}: {fault}"
            if any(not (0 <= start <= end <= count / 16000 + 0.11) for _, start, end in words):
                return f"{name}: word times {words}"
        return None

    def _fault_in_samples(self, row: dict[str, Any], samples: str, count: int) -> str | None:
        """Whether these are the samples of the file, from the start of the cut on, for its duration."""
        import soundfile

        path = self.base.data / row["recording"]["sources"][0]["source"]
        audio_N, _ = soundfile.read(path, dtype="float32")
        start = row.get("start", 0.0)
        if (
            isinstance(start, bool)
            or not isinstance(start, int | float)
            or not math.isfinite(start)
            or start < 0
        ):
            return f"taken with start {start}"
        first = round(start * 16000)
        if digest(audio_N[first : first + count]) != samples:
            return "other samples than those of the file"
        wanted = row.get("duration")
        if not isinstance(wanted, int | float) or abs(count / 16000 - wanted) > 0.01:
            return f"{count} samples for a duration of {wanted}"
        return None


class Pieces(Kind):
    """The SentencePiece model of a system, which is also read as that of a data folder."""

    name = "tokens"
    oracle = "of a system: its own model only; of data: a model that can be asked, or a refusal"

    @property
    def victim(self) -> Path:
        return self.base.exp / "tokens" / "bpe.model"

    @property
    def foreign(self) -> Path:
        return self.base.exp / "tokens" / "tokens.txt"

    def mutate(self, content: bytes, rng: random.Random) -> tuple[str, bytes]:
        return change_bytes(content, BINARY, self.foreign.read_bytes(), rng)

    def read(self, scratch: Path) -> Any:
        from kdasr.checkpoint import load_bundle
        from kdasr.common.errors import UserError
        from kdasr.data.tokenizer import Tokenizer

        refused: UserError | None = None
        try:
            load_bundle(self.base.exp)
            system = "taken"
        except UserError as error:
            system, refused = "refused", error
        try:
            tokenizer = Tokenizer.load(self.victim)
            texts = ["ONE TWO THREE", "Straße \u00e9 \u4e00", "", " ", "SEVEN" * 50]
            spelt = [tokenizer.decode(tokenizer.encode(text)) for text in texts]
            pieces = [tokenizer.piece(index) for index in range(tokenizer.vocab_size)]
            data = [tokenizer.normalize(texts[0]), spelt[0], spelt[4] == texts[4], len(pieces)]
        except UserError as error:
            if refused:
                raise
            data = [str(error)]
        return [system, *data]

    def right(self, content: bytes, value: Any, whole: Any) -> str | None:
        same = content == self.whole_content
        if (value[0] == "taken") != same:
            return f"the system's tokenizer is {value[0]}"
        return None if (same and value == whole) or not same else f"{value}, not {whole}"

    whole_content = b""


class TokenTable(Kind):
    """`tokens.txt` of an export."""

    name = "tokens.txt"
    oracle = "the unmutated recogniser"

    @property
    def victim(self) -> Path:
        return self.base.bundle / "tokens.txt"

    @property
    def foreign(self) -> Path:
        return self.base.bundle / "README.md"

    def read(self, scratch: Path) -> Any:
        return heard_by_export(self.base)


class Graph(TokenTable):
    """A graph of an export; in half of the trials the manifest has the digest of the mutated one."""

    name = "export graph"
    oracle = "the unmutated recogniser; with the mutated graph's own digest, one that answers at all"

    @property
    def victim(self) -> Path:
        return self.base.bundle / "joiner.onnx"

    def mutate(self, content: bytes, rng: random.Random) -> tuple[str, bytes]:
        what, changed = change_bytes(content, BINARY, self.foreign.read_bytes(), rng)
        self.signed = rng.random() < 0.5
        return f"{what}{', signed' if self.signed else ''}", changed

    def read(self, scratch: Path) -> Any:
        from kdasr.common.files import read_json, sha256, write_json

        path = self.base.bundle / "manifest.json"
        before = path.read_bytes()
        try:
            if self.signed:
                manifest = read_json(path)
                manifest["files"][self.victim.name] = sha256(self.victim)
                write_json(path, manifest)
            return heard_by_export(self.base)
        finally:
            path.write_bytes(before)

    def right(self, content: bytes, value: Any, whole: Any) -> str | None:
        if self.signed:
            return None
        return super().right(content, value, whole)

    signed = False


class Checkpoint(Kind):
    """A checkpoint, through `load_bundle` and a recogniser."""

    name = "checkpoint"
    oracle = "the unmutated weights, which hear the same; facts as they are stored, if they can be true"

    @property
    def victim(self) -> Path:
        return self.base.exp / "checkpoints" / "last.pt"

    @property
    def foreign(self) -> Path:
        return self.base.exp / "tokens" / "bpe.model"

    def mutate(self, content: bytes, rng: random.Random) -> tuple[str, bytes]:
        import torch

        if rng.random() < 0.5:
            return change_bytes(content, BINARY, self.foreign.read_bytes(), rng)
        payload = torch.load(io.BytesIO(content), weights_only=True)
        if rng.random() < 0.5:
            name = rng.choice(list(payload["model"]))
            tensor = payload["model"][name]
            what = rng.choice(["nan", "inf", "shape", "type", "gone", "text"])
            if what in ("nan", "inf") and tensor.is_floating_point():
                tensor.view(-1)[rng.randrange(tensor.numel())] = float(what)
            elif what == "shape":
                payload["model"][name] = tensor.reshape(-1)[:-1]
            elif what == "type":
                payload["model"][name] = tensor.to(torch.complex64)
            elif what == "gone":
                del payload["model"][name]
            else:
                payload["model"][name] = "x"
            what = f"{name}: {what}"
        else:
            model = payload.pop("model")
            what, payload = change_value(payload, rng)
            payload["model"] = model if rng.random() < 0.95 else rng.choice((None, [], *NUMBER_VALUES))
        saved = io.BytesIO()
        torch.save(payload, saved)
        return what, saved.getvalue()

    def read(self, scratch: Path) -> Any:
        from kdasr.checkpoint import average_checkpoints, load_bundle

        bundle = load_bundle(self.base.exp)
        average_checkpoints([self.victim])
        weights = {name: digest(tensor.numpy()) for name, tensor in bundle.model.state_dict().items()}
        return {
            "weights": digest(weights),
            "heard": heard(bundle),
            "context": str(bundle.context),
            "config": digest(str(bundle.model.config)),
            "name": bundle.name,
            "train_steps": bundle.train_steps,
        }

    def right(self, content: bytes, value: Any, whole: Any) -> str | None:
        import torch

        payload = torch.load(io.BytesIO(content), weights_only=True)
        wanted = {**whole, "name": payload["system"], "train_steps": payload["train_steps"]}
        if (
            not isinstance(payload["system"], str)
            or type(payload["train_steps"]) is not int
            or payload["train_steps"] < 0
        ):
            return f"system {payload['system']!r}, train_steps {payload['train_steps']!r}"
        if payload["context"] != {
            "left": 8,
            "chunk": 4,
            "right": 0,
        }:  # another one that the model can run under
            wanted["context"], wanted["heard"] = str(value["context"]), value["heard"]
            if any(type(number) is not int for number in payload["context"].values()):
                return f"context {payload['context']}"
        if payload["model_config"].get("encoder", {}).get("dropout") != 0.0:
            wanted["config"] = value["config"]
        return super().right(content, value, wanted)
