"""A bundle is whole or it is refused; exporting writes all of it or nothing."""

import json
import re
import shlex
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import click
import onnx
import pytest
import torch
from click.testing import CliRunner
from export_helpers import bursts, write_cuts
from lhotse import CutSet

from kdasr.bundle import load_bundle
from kdasr.cli.contexts import parse_context
from kdasr.cli.export import command
from kdasr.cli.main import cli
from kdasr.cli.paths import ExperimentPath, InputPath
from kdasr.common.calibration import Calibration
from kdasr.common.errors import UserError
from kdasr.common.files import sha256
from kdasr.export import build
from kdasr.export.agreement import GraphShapes, check_agreement
from kdasr.export.build import export_bundle, find_current
from kdasr.export.bundle import REVISION, BundleFolder, open_bundle
from kdasr.export.card import Content, _reproduction_lines, write_card
from kdasr.export.facts import collect_facts
from kdasr.export.graph import JoinerGraph
from kdasr.export.publication import Publication
from kdasr.export.reference import client_rules
from kdasr.export.runtime import load_exported
from kdasr.models.predictors.lstm import LstmConfig
from kdasr.nn.context import Context


@pytest.fixture
def copy(student, tmp_path: Path) -> Path:
    return shutil.copytree(student.bundle.folder, tmp_path / "bundle")


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["encoder.onnx", "joiner.int8.onnx", "tokens.txt"])
def test_a_missing_file_is_named(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(UserError, match=f"{name}: missing"):
        open_bundle(copy)


@pytest.mark.parametrize("name", ["decoder.onnx", "tokens.txt"])
def test_a_file_of_another_export_is_named(copy: Path, name: str) -> None:
    path = copy / name
    if name == "tokens.txt":
        path.write_text(path.read_text(encoding="utf-8").replace(" 5\n", " 55\n"), encoding="utf-8")
    else:
        shutil.copy(copy / "encoder.onnx", path)
    with pytest.raises(UserError, match=f"{name}: not the file"):
        open_bundle(copy)


def test_another_version_is_named(copy: Path) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps({**manifest, "version": 99, "kdasr": "7.1"}))
    with pytest.raises(UserError, match=r"version 99, exported by kdasr 7\.1"):
        open_bundle(copy)


@pytest.mark.parametrize("content", [None, "{", "[]", '{"format": "something else"}'])
def test_a_folder_without_a_manifest_is_no_bundle(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(UserError, match="not an exported bundle"):
        open_bundle(tmp_path)


def rewrite(folder: Path, **changes: object) -> None:
    """Change the manifest; None takes an entry away."""
    manifest = {**json.loads((folder / "manifest.json").read_text()), **changes}
    kept = {name: value for name, value in manifest.items() if value is not None}
    (folder / "manifest.json").write_text(json.dumps(kept))


@pytest.mark.parametrize("name", ["files", "context", "params", "system", "train_steps"])
@pytest.mark.parametrize("value", [None, [], True, 2.5])
def test_a_manifest_that_lacks_something_names_it(copy: Path, name: str, value: object) -> None:
    rewrite(copy, **{name: value})
    with pytest.raises(UserError, match=rf"manifest\.json: (has no )?'{name}'"):
        open_bundle(copy)


@pytest.mark.parametrize(
    "context",
    [
        {"left": 8, "chunk": 4},
        {"left": 8, "chunk": "4", "right": 0},
        {"left": 8, "chunk": 0, "right": 0},
        {"left": 8, "chunk": -1, "right": 0},
    ],
)
def test_a_context_that_is_none_is_refused(copy: Path, context: dict[str, object]) -> None:
    rewrite(copy, context=context)
    with pytest.raises(UserError, match=r"manifest\.json: 'context' is .*: .*(expected|needs|takes)"):
        open_bundle(copy)


@pytest.mark.parametrize("name", ["encoder.onnx", "decoder.onnx", "joiner.int8.onnx", "tokens.txt"])
def test_every_file_has_to_have_its_digest(copy: Path, name: str) -> None:
    digests = open_bundle(copy).manifest["files"]
    rewrite(copy, files={other: digest for other, digest in digests.items() if other != name})
    with pytest.raises(UserError, match=f"'files' lacks {name}"):
        open_bundle(copy)
    rewrite(copy, files={**digests, f"../{name}": digests[name]})
    with pytest.raises(UserError, match=rf"'files' names '\.\./{name}'"):
        open_bundle(copy)


@pytest.mark.parametrize("int8", [False, True], ids=["float32", "int8"])
@pytest.mark.parametrize(
    ("context", "fault"),
    [
        ({"left": 8, "chunk": 3, "right": 0}, "15 feature frames per window, but {} has 19"),
        ({"left": 8, "chunk": 3, "right": 1}, "3 encoder frames per chunk, but {} has 4"),
        ({"left": 7, "chunk": 4, "right": 0}, "15 rows of the attention cache, but {} has 17"),
        ({"left": -1, "chunk": -1, "right": 0}, "{} is no graph for whole utterances"),
    ],
)
def test_a_context_that_is_not_the_graphs_is_found_on_opening(
    copy: Path, context: dict[str, int], fault: str, int8: bool
) -> None:
    rewrite(copy, context=context)
    with pytest.raises(UserError) as caught:
        load_exported(copy, int8=int8)
    assert "manifest.json: context" in str(caught.value)
    assert fault.format("encoder.int8.onnx" if int8 else "encoder.onnx") in str(caught.value)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda lines: lines[:-1], "pieces, but joiner.onnx knows"),
        (lambda lines: [*lines[:-1], "piece"], "expected a piece and its id"),
        (lambda lines: [*lines[:-1], lines[0]], "are not 0 to"),
    ],
)
def test_pieces_that_are_not_the_joiners_are_found_on_opening(copy: Path, change, fault: str) -> None:
    lines = (copy / "tokens.txt").read_text(encoding="utf-8").splitlines()
    (copy / "tokens.txt").write_text("\n".join(change(lines)), encoding="utf-8")
    digests = json.loads((copy / "manifest.json").read_text())["files"]
    rewrite(copy, files={**digests, "tokens.txt": sha256(copy / "tokens.txt")})
    with pytest.raises(UserError, match=f"tokens.txt: .*{fault}"):
        load_exported(copy)


def test_references_are_normalized_as_the_exported_pieces_are(copy: Path) -> None:
    pieces = load_exported(copy).tokenizer
    assert (pieces.normalization, pieces.normalize("CAFE\u0301\u200b\uff11")) == ("nmt_nfkc", "CAFÉ 1")
    for rule, spelled in (("identity", "CAFE\u0301\u200b\uff11"), ("custom", "CAFE\u0301\u200b\uff11")):
        rewrite(copy, normalization=rule)
        pieces = load_exported(copy).tokenizer
        assert (pieces.normalization, pieces.normalize("CAFE\u0301\u200b\uff11")) == ("identity", spelled)


def test_a_piece_may_hold_what_looks_like_the_end_of_a_line(tmp_path: Path) -> None:
    pieces = ["<blk>", "a\x85b", "\u2028", "\x0c", "c\rd"]
    table = "".join(f"{piece} {index}\n" for index, piece in enumerate(pieces))
    (tmp_path / "tokens.txt").write_bytes(table.encode())
    assert BundleFolder(tmp_path, {}).pieces() == pieces


@pytest.mark.parametrize("wrong", ["swapped", "convolution"])
def test_graphs_that_are_no_encoder_of_ours_are_refused(student, wrong: str) -> None:
    streams = ["N", 1]
    caches = [[2, 17, "N", 32], [2, 3 if wrong == "convolution" else 2, "N", 32]]
    encoder = GraphShapes([["N", 19, 80], *caches, ["N"]], [["N", 4, 32], caches[0], [2, 2, "N", 32]])
    joiner = GraphShapes([streams, streams], [["N", student.system.tokenizer.vocab_size]])
    first = joiner if wrong == "swapped" else encoder
    with pytest.raises(UserError, match=r"encoder\.onnx: (not an encoder|caches that do not fit)"):
        check_agreement(student.bundle, first, joiner, int8=False)


def test_a_graph_that_leaves_counting_to_its_client_forgets_at_an_endpoint(student) -> None:
    """As all conformers did before their states counted; sherpa-onnx counts from 0 again there."""
    earlier = replace(student.bundle, manifest={**student.bundle.manifest, "encoder": {"type": "conformer"}})
    assert student.bundle.keeps_encoder and not earlier.keeps_encoder
    assert client_rules(student.bundle).keep_encoder and not client_rules(earlier).keep_encoder
    assert student.bundle.manifest["revision"] == REVISION
    caches = [[2, 16, "N", 16], [2, 2, "N", 16]]
    encoder = GraphShapes([["N", 19, 80], *caches, ["N"]], [["N", 4, 16], *caches])
    joiner = GraphShapes([["N", 16]] * 2, [["N", student.system.tokenizer.vocab_size]])
    check_agreement(earlier, encoder, joiner, int8=False)
    with pytest.raises(UserError, match="17 rows of the attention cache"):
        check_agreement(student.bundle, encoder, joiner, int8=False)


def test_int8_that_was_not_exported(other) -> None:
    with pytest.raises(UserError, match="without int8"):
        load_exported(other.bundle.folder, int8=True)


def test_an_encoder_that_has_no_contract_is_refused(student, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(student.system.model.encoder.config, "type", "lstm")
    with pytest.raises(UserError, match="has an encoder of type 'lstm'; only those of type conformer or zip"):
        export_bundle(student.system, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_predictor_with_a_memory_is_refused(student, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(student.system.model.config, "predictor", LstmConfig())
    with pytest.raises(UserError, match="has a predictor of type 'lstm'; sherpa-onnx's contract has a state"):
        export_bundle(student.system, tmp_path / "out")
    assert not list(tmp_path.iterdir())


class WrongJoiner(JoinerGraph):
    """A graph that differs from the model."""

    def forward(self, encoded_NJ: torch.Tensor, predicted_NJ: torch.Tensor) -> torch.Tensor:
        return super().forward(encoded_NJ, predicted_NJ) + 2e-4


def test_a_graph_that_differs_from_the_model_is_not_written(
    student, same_encoder, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = everything(copy.parent)
    monkeypatch.setattr(build, "JoinerGraph", WrongJoiner)
    with pytest.raises(UserError, match=r"float32 graphs differ from the model: joiner 0\.0002"):
        export_bundle(student.system, copy)
    assert everything(copy.parent) == before
    with pytest.raises(UserError, match="differ"):
        export_bundle(student.system, copy.parent / "new")
    assert everything(copy.parent) == before and not (copy.parent / "new").exists()


def test_folders_that_hold_something_else_are_refused(student, copy: Path, tmp_path: Path) -> None:
    (copy / "my-notes.txt").write_text("keep me")
    (tmp_path / "file").write_text("keep me too")
    with pytest.raises(UserError, match=r"my-notes\.txt"):
        export_bundle(student.system, copy)
    with pytest.raises(UserError, match="file of that name"):
        export_bundle(student.system, tmp_path / "file")
    with pytest.raises(UserError, match="averaged"):
        export_bundle(student.system, student.system.path.parent)
    assert (copy / "my-notes.txt").read_text() == "keep me"


def test_a_place_that_cannot_be_written_is_named(
    student, same_encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("keep me")
    with pytest.raises(UserError, match=r"--out .*/file/out: cannot be written: .*"):
        export_bundle(student.system, tmp_path / "file" / "out")

    def refuse(**_: object) -> str:
        raise PermissionError(13, "Permission denied", str(tmp_path / ".out.x.partial"))

    monkeypatch.setattr(build.tempfile, "mkdtemp", refuse)
    with pytest.raises(UserError, match=r"--out .*/out: cannot be written: Permission denied$"):
        export_bundle(student.system, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_damaged_manifest_makes_no_file_an_exports_own(student, copy: Path) -> None:
    rewrite(copy, files=7)
    with pytest.raises(UserError, match=r"'decoder\.int8\.onnx', which is not of an export"):
        export_bundle(student.system, copy)


def test_a_bundle_is_replaced_as_a_whole(student, same_encoder, copy: Path) -> None:
    assert find_current(student.system, copy, int8=True) is not None
    assert find_current(student.system, copy, int8=False) is None
    assert find_current(replace(student.system, train_steps=8), copy, int8=True) is None
    manifest = json.loads((copy / "manifest.json").read_text())
    earlier = {name: value for name, value in manifest.items() if name != "revision"}
    (copy / "manifest.json").write_text(json.dumps(earlier))
    assert open_bundle(copy) and find_current(student.system, copy, int8=True) is None
    export_bundle(student.system, copy)
    assert not open_bundle(copy).has_int8
    names = {"README.md", "decoder.onnx", "encoder.onnx", "joiner.onnx", "manifest.json", "tokens.txt"}
    assert {path.name for path in copy.iterdir()} == names
    assert [path.name for path in copy.parent.iterdir()] == ["bundle"]


def test_the_card_says_what_the_student_is(student, same_encoder, tmp_path: Path) -> None:
    folder = shutil.copytree(student.folder, tmp_path / "exp")
    system = load_bundle(folder)
    trained = "/somewhere/bin/kdasr train --config /somewhere/conf/demo.yaml --exp /somewhere/exp/student"
    command = [*trained.split(), "--override", "data.dir=/somewhere/data/demo"]
    (folder / "environment.json").write_text(json.dumps({"git": "0123abc", "command": command}))
    learnt = trained.replace("student", "teacher").split()
    teacher = tmp_path / "teacher"
    (teacher / "checkpoints").mkdir(parents=True)
    (teacher / "checkpoints" / "averaged.pt").touch()
    (teacher / "environment.json").write_text(json.dumps({"command": learnt}))
    (teacher / "config.yaml").write_text("objective: {teacher: ../exp}\n")  # a mistake: it names its student
    data = "dir: /somewhere/data/demo, train_parts: [train-clean-100], min_seconds: 0.3, max_seconds: 12"
    origins = "stages: [{init_from: teacher}], objective: {teacher: teacher, more_teachers: [gone]}"
    (folder / "config.yaml").write_text(f"{{data: {{{data}}}, {origins}}}\n")
    summary = {"mode": "streaming", "wer": 12.345, "cer": 4.5, "num_utterances": 96, "num_words": 590}
    summary |= {
        "context": str(system.context),
        "first_token_ms": {"mean": 149.7},
        "first_word_ms": {"mean": 361.2},
    }
    of_others = {
        "dev-clean": {"checkpoint_sha256": "older"},
        "dev-other": {"context": "left=2 chunk=1 right=0"},
        "dev-biased": {"biasing_sha256": "phrases"},
        "dev-lm": {"language_model": {"scale": 0.3}},
        "dev-some": {"max_utterances": 2},
        "dev-calibrated": {"calibrated_blank_penalty": 1.0},
        "dev-tail": {"tail_seconds": 0.5},
        "dev-cut": {"endpoint_rules": {"rule3_min_utterance_length": 20.0}},
    }
    for part in ("test-clean", *of_others):
        target = folder / "decode" / "streaming" / part
        target.mkdir(parents=True)
        row = {**summary, "part": part, "checkpoint_sha256": sha256(system.path), **of_others.get(part, {})}
        (target / "summary.json").write_text(json.dumps(row))
    # Of `kdasr decode --all-contexts`: the own context once more, and another one.
    under = [("chunk-4", "test-clean", system.context), ("chunk-4", "test-other", system.context)]
    for name, part, context in (*under, ("chunk-2", "test-more", Context(8, 2))):
        target = folder / "contexts" / name / "streaming" / part
        target.mkdir(parents=True)
        row = {**summary, "part": part, "checkpoint_sha256": sha256(system.path), "context": str(context)}
        (target / "summary.json").write_text(json.dumps(row))
    counts = [{"sub": 1, "ins": 0, "del": 0, "words": 8}, {"sub": 0, "ins": 0, "del": 0, "words": 8}]
    scores = [{"id": f"{speaker}-1-1", "errors": counts[speaker % 2]} for speaker in range(100)]
    measured = folder / "decode" / "streaming" / "test-clean" / "utterances.jsonl"
    measured.write_text("".join(f"{json.dumps(score)}\n" for score in scores))
    joined = {"part": "test-clean", "context": str(system.context), "checkpoint_sha256": sha256(system.path)}
    joined |= {"search": "beam beam=8"}
    condition = {"gap_s": 1.0, "noise": "quiet", "endpoints": True, "wer": 3.25, "wer_ci": [1, 5.5]}
    condition |= {"single_wer": 2.0, "words": 489, "longest_seconds": 297.5}
    (folder / "decode" / "long-form" / "test-clean").mkdir(parents=True)
    (folder / "decode" / "long-form" / "test-clean" / "summary.json").write_text(
        json.dumps({**joined, "conditions": [condition], "max_utterances": 80})
    )
    bundle = export_bundle(system, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    # Windows of 19 feature frames: the last one ends at 180 + 17.5 ms, and sherpa-onnx waits for one more.
    for fact in (
        "left=8 chunk=4 right=0",
        "160 ms",
        "197.5 ms",
        "207.5 ms",
        "0123abc",
        "demo: train-clean-100",
        "0.3 to 12 s",
        "| license | not stated",
        "| test-clean | beam beam=8 | 1 s, quiet | at endpoints | 3.25 (1.00 to 5.50) | 2.00 | 298 | 489 |",
        "kdasr train --config conf/demo.yaml --exp exp/teacher\n"
        "kdasr average exp/teacher\n"
        "kdasr train --config conf/demo.yaml --exp exp/student --override data.dir=data/demo\n",
        "kdasr decode exp/student --data DATA --parts 'test-clean test-other' --long-form\n",
        "kdasr export exp/student --out DIR\n",
    ):
        assert fact in card, fact
    row = re.search(
        r"\| test-clean \| streaming \| greedy \| 12\.35 \((.*) to (.*)\) \| 4\.50 \| 361 \| 150 \| 96 \|",
        card,
    )
    assert row is not None
    # Half of 100 speakers have 12.5 % errors: the mean, 6.25, has a standard error of 0.625.
    assert [float(row[1]), float(row[2])] == pytest.approx([6.25 - 1.23, 6.25 + 1.23], abs=0.3)
    assert "dev-" not in card and "/somewhere" not in card
    assert bundle.manifest["parity"]["float32"]["encoder"] < 1e-4
    assert [row["part"] for row in bundle.manifest["results"]] == ["test-clean", "test-other"]


@pytest.mark.parametrize(("steps", "said"), [(0, "not known"), (7, "7 steps; by what is not known")])
def test_the_card_of_a_model_from_elsewhere_claims_nothing(
    student, tmp_path: Path, steps: int, said: str
) -> None:
    system = replace(student.system, train_steps=steps)
    facts = {**collect_facts(system), **Publication().facts}
    write_card(tmp_path / "README.md", system, Content(facts, {}))
    card = (tmp_path / "README.md").read_text()
    assert f"| training | {said} |" in card
    assert "by kdasr at commit" not in card
    assert "not measured before the export" in card and "parts above" not in card


def test_the_commands_of_a_card_are_those_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each with the options that it needs, and no others."""
    for kind in (ExperimentPath, InputPath):
        monkeypatch.setattr(kind, "convert", lambda self, value, *_: Path(value))
    facts = {
        "training_commands": [
            ["kdasr", "train", "--exp", "exp/teacher"],
            ["kdasr", "train", "--exp", "exp/student"],
            ["kdasr", "average", "exp/student"],
        ],
        "results": [{"part": "test-clean"}, {"part": "test-other"}],
        "long_form": [{"part": "test-clean"}],
        "calibration": None,
        "blank_penalty": 1.0,
        "chosen_context": str(Context(left=32, chunk=4, right=4)),
        "commit": "0123abc",
    }
    lines = _reproduction_lines(facts, {"int8": None})  # type: ignore[dict-item]
    commands = [shlex.split(line)[1:] for line in lines if line.startswith("kdasr ")]
    verbs = ["train", "train", "average", "calibrate", "decode", "decode", "export"]
    assert [words[0] for words in commands] == verbs
    assert all(words[1] == "exp/student" for words in commands[2:])
    for verb, *options in commands[2:]:
        verb_command = cli.get_command(click.Context(cli), verb)  # type: ignore[attr-defined]
        context = verb_command.make_context(verb, options)
        assert context.params.get("parts") in (None, "DEV_PARTS", "test-clean test-other")
        if verb != "calibrate" and "context" in context.params:
            assert parse_context(context.params["context"]) == Context(left=32, chunk=4, right=4)


def test_manifests_to_check_with_are_named_when_they_are_none(student, tmp_path: Path) -> None:
    def check(path: Path) -> str:
        result = CliRunner().invoke(command, ["--check", str(student.bundle.folder), str(path)])
        assert isinstance(result.exception, UserError), result.exception
        return str(result.exception)

    for content, fault in (
        ("", ": no utterances"),
        ("garbage", ": not a manifest (Expecting value"),
        ("{}", ", item 1: a manifest of something else"),
    ):
        (tmp_path / "cuts.jsonl").write_text(content)
        assert f"cuts.jsonl{fault}" in check(tmp_path / "cuts.jsonl")
    manifest = write_cuts(tmp_path, [bursts(0.5)])
    cuts = CutSet.from_file(manifest).to_eager()
    for cut in cuts:
        cut.recording.sources[0].source = "nowhere/0.wav"
    cuts.to_file(manifest)
    message = check(manifest)
    assert "nowhere/0.wav: audio of 'cut-0' not found (paths in the manifest are relative to" in message


@pytest.mark.parametrize(
    ("arguments", "culprit"),
    [
        (["."], "--out"),
        (["nowhere"], "nowhere: not there; expected the folder of a system"),
        (["one", "two", "--out", "x"], "one system"),
        (["--check", ".", "cuts", "--out", "x"], "leave out --out"),
        (["--check", "nowhere", "cuts"], "nowhere"),
    ],
)
def test_wrong_arguments_name_the_culprit(arguments: list[str], culprit: str) -> None:
    result = CliRunner().invoke(command, arguments)
    assert isinstance(result.exception, UserError) and culprit in str(result.exception)


def test_a_context_may_be_chosen_for_an_export(student, tmp_path: Path) -> None:
    arguments = [str(student.folder), "--out", str(tmp_path / "out")]
    chosen = Context(left=4, chunk=2, right=1)
    result = CliRunner().invoke(command, [*arguments, "--context", "left=4,chunk=2,right=1"])
    assert result.exit_code == 0, result.output
    assert open_bundle(tmp_path / "out").context == chosen != student.system.context
    again = CliRunner().invoke(command, [*arguments, "--context", "left=4,chunk=2,right=1"])
    assert "already exported" in again.output
    whole = tmp_path / "whole"
    result = CliRunner().invoke(command, [str(student.folder), "--out", str(whole), "--context", "full"])
    assert result.exit_code == 0 and open_bundle(whole).context == Context.full()


def test_the_calibration_goes_with_the_bundle(copy: Path, student) -> None:
    assert open_bundle(copy).calibration is None
    manifest = json.loads((copy / "manifest.json").read_text())
    calibration = Calibration(1.25, -2.0)
    (copy / "manifest.json").write_text(json.dumps({**manifest, "calibration": asdict(calibration)}))
    assert load_exported(copy).calibration == calibration
    system = replace(student.system, calibration=calibration)
    assert find_current(system, copy, int8=True) is not None
    assert find_current(student.system, copy, int8=True) is None  # it would be written without
    (copy / "manifest.json").write_text(json.dumps({**manifest, "calibration": "none"}))
    with pytest.raises(UserError, match=r"manifest\.json: calibration 'none'"):
        load_exported(copy)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("blank_penalty", value) for value in ("1", [], True, float("nan"), float("inf"))),
        *(("normalization", value) for value in (3, [], {}, "nmt_n\u0301fkc", "nkfc")),
        *((name, -1) for name in ("params", "train_steps")),
    ],
)
def test_a_fact_that_cannot_be_true_is_named(copy: Path, name: str, value: object) -> None:
    rewrite(copy, **{name: value})
    with pytest.raises(UserError, match=rf"manifest\.json: '{name}' is "):
        open_bundle(copy)


@pytest.mark.parametrize("name", ["encoder.onnx", "decoder.onnx", "joiner.onnx"])
@pytest.mark.parametrize("content", [b"", b"\0" * 100, None, "other", "no text"])
def test_a_graph_that_cannot_be_run_is_named(copy: Path, name: str, content: bytes | str | None) -> None:
    """Its digest is right: it was damaged before the manifest was written, or made by another program."""
    path, digests = copy / name, open_bundle(copy).manifest["files"]
    if content == "other":
        shutil.copy(copy / ("joiner.onnx" if name == "decoder.onnx" else "decoder.onnx"), path)
    elif content == "no text":  # the name of its first input, wherever it stands
        input_name = onnx.load(path).graph.input[0].name.encode()
        path.write_bytes(path.read_bytes().replace(input_name, b"\xb3" + input_name[1:]))
    else:
        path.write_bytes(path.read_bytes()[:-50] if content is None else content)
    rewrite(copy, files={**digests, name: sha256(path)})
    with pytest.raises(UserError, match=name.replace(".", r"\.")) as caught:
        load_exported(copy)
    assert "\n" not in str(caught.value)
