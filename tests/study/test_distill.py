"""One command: from an imported offline teacher to a student that sherpa-onnx hears as we do."""

import gzip
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import soundfile
import torch
import yaml
from click.testing import CliRunner, Result
from icefall_layout import Layout
from lhotse import CutSet, Recording
from nemo_files import nemo_members, spelling, write_nemo
from study_helpers import write_data

from kdasr.bundle import load_bundle
from kdasr.cli.main import cli
from kdasr.common import job_runner
from kdasr.common.errors import UserError
from kdasr.common.files import write_json, write_text
from kdasr.common.job_runner import Outcome, Record, RunOptions, Say
from kdasr.data.folder import RECORD, VERSION, load_cuts
from kdasr.experiment.student_start import student_sizes, weights_of_teacher
from kdasr.interop.icefall import ImportOptions, import_icefall
from kdasr.interop.nemo import NemoOptions, import_nemo
from kdasr.models.encoders.conformer import ConformerConfig
from kdasr.models.encoders.tiny import tiny_encoder
from kdasr.models.predictors.lstm import LstmConfig
from kdasr.models.predictors.stateless import StatelessConfig
from kdasr.models.transducer.build import build_transducer
from kdasr.models.transducer.model import Transducer
from kdasr.models.transducer.transducer_config import TransducerConfig
from kdasr.nn.context import Context
from kdasr.study.distill import has_begun, list_jobs
from kdasr.study.distill_options import ASKED, DistillOptions
from kdasr.study.distill_recipe import FEWEST_STEPS, hours_to_hear, write_recipe
from kdasr.study.jobs import KDASR
from kdasr.study.stamps import StampedJob, Stamps
from kdasr.testing import dummy_cuts, random_text, tiny_tokenizer


def write_cuts(folder: Path, part: str, count: int, seed: int) -> Path:
    """A manifest of recordings on the disk, with transcripts and word times of `dummy_cuts`."""
    folder.mkdir(parents=True, exist_ok=True)
    cuts = []
    for cut in dummy_cuts(count, 1.0, 2.0, seed=seed, with_features=False):
        path = folder / f"{part}-{cut.id}.wav"
        soundfile.write(path, cut.load_audio()[0], 16000, subtype="FLOAT")
        written = Recording.from_file(path).to_cut().with_id(f"{part}-{cut.id}")
        [said] = cut.supervisions
        written.supervisions = [said.with_offset(0.0)]
        written.supervisions[0].recording_id = written.recording_id
        written.supervisions[0].id = written.id
        written.supervisions[0].duration = written.duration
        cuts.append(written)
    CutSet.from_cuts(cuts).to_file(folder / f"{part}.jsonl.gz")
    return folder / f"{part}.jsonl.gz"


@pytest.fixture(scope="module")
def nemo_teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An experiment folder with a random FastConformer of NeMo's layout."""
    folder = tmp_path_factory.mktemp("nemo")
    texts = [random_text(4, seed) for seed in range(50)]
    file = write_nemo(folder / "model.nemo", spelling(nemo_members(), texts, 24))
    import_nemo(NemoOptions(checkpoint=file, out=folder / "exp"))
    return folder / "exp"


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An experiment folder with a random Zipformer2 of icefall's layout."""
    folder = tmp_path_factory.mktemp("teacher")
    tiny_tokenizer(folder / "lang")
    checkpoint = Layout(layers=(1, 1)).save_epoch(folder / "epoch-1.pt")
    import_icefall(ImportOptions(checkpoint=checkpoint, tokens=folder / "lang", out=folder / "exp"))
    return folder / "exp"


def distill(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["distill", *map(str, arguments)])


def run_here(
    jobs: Sequence[StampedJob], _options: RunOptions, record: Record[StampedJob], say: Say
) -> Outcome:
    """`run_jobs` in this process: to start Python for every command takes longer than the commands."""
    outcome = Outcome(unchanged=sorted(record.finished(jobs)))
    for job in jobs:
        if job.name in outcome.unchanged:
            continue
        assert outcome.complete.issuperset(job.needs), job.name
        record.begin(job)
        for command in job.commands:
            said = CliRunner().invoke(cli, list(command[len(KDASR) :]))
            assert said.exit_code == 0, (command, said.output, said.exception)
            say(said.output)
        assert record.end(job) == ""
        outcome.finished.append(job.name)
    return outcome


@pytest.mark.usefixtures("operators_once")
def test_one_command_leads_from_the_teacher_to_a_checked_export(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_runner, "run_jobs", run_here)
    train, dev = write_cuts(tmp_path, "train", 8, seed=1), write_cuts(tmp_path, "dev", 2, seed=2)
    out = tmp_path / "student"
    small = tmp_path / "student.yaml"
    small.write_text(
        yaml.safe_dump(
            {
                "data": {"num_buckets": 1},
                "training": {"accelerator": "cpu"},
            }
        )
    )
    steps = ["data.max_duration=10.0", "data.speed_perturbation=[1.0]"]
    steps += ["stages.0.num_hours=0.005", "stages.1.num_hours=0.005", "training.validate_hours=0.005"]
    asked = ["--teacher", teacher, "--cuts", f"train={train}", "--cuts", f"dev={dev}", "--out", out]
    asked += ["--chunk-ms", 320, "--left-ms", 640, "--student", small]
    asked += [word for step in steps for word in ("--override", step)]
    mistyped = distill(*asked, "--override", "data.nope=3")
    assert "option 'data.nope'" in str(mistyped.exception) and not (out / "distill" / "data").exists()
    result = distill(*asked)  # what was refused has made no student yet
    assert result.exit_code == 0, (result.output, result.exception)
    assert len(load_cuts(out / "distill" / "data", "train")) == 8  # one speed, by --override
    first = yaml.safe_load((out / "distill" / "recipe.yaml").read_text())["systems"]["student"]["stages"][0]
    assert first["num_hours"] == pytest.approx(0.75 * FEWEST_STEPS * 10 / 3600, abs=1e-3)
    assert "all 0.1" in result.output and "parameters are the teacher's" in result.output
    assert "2 of 2 utterances identical" in result.output
    assert "dev: WER of the teacher" in result.output
    student = load_bundle(out)
    assert (student.name, student.context) == ("student", Context(left=16, chunk=8))
    assert student.model.config.encoder.causal  # type: ignore[attr-defined]
    rows = json.loads((out / "report" / "results.json").read_text())
    assert {row["system"] for row in rows} == {"teacher", "student"}
    before = (out / "checkpoints" / "averaged.pt").stat().st_mtime_ns
    again = distill(*asked)
    assert again.exit_code == 0 and "identical" not in again.output
    assert (out / "checkpoints" / "averaged.pt").stat().st_mtime_ns == before
    other = distill(*asked, "--chunk-ms", 640)
    assert isinstance(other.exception, UserError)
    assert "holds a student of --chunk-ms 320, this is --chunk-ms 640" in str(other.exception)
    summary = out / "decode" / "streaming" / "dev" / "summary.json"
    write_json(summary, {**json.loads(summary.read_text()), "max_utterances": 1})  # by `kdasr decode`
    assert "dev: decoded with --max-utterances 1: remove that" in str(distill(*asked).exception)


def test_another_teacher_or_other_data_are_no_finished_work(tmp_path: Path) -> None:
    data, names = write_data(tmp_path / "data"), ("train-clean-100", "dev-clean", "test-clean")
    write_json(data / RECORD, {"version": VERSION, "parts": {name: {"settings": {}} for name in names}})
    options = DistillOptions(teacher=tmp_path / "teacher", out=tmp_path / "student", data=data)
    system = {"contexts": [{"left": 8, "chunk": 4}], "stages": [{"name": "hidden", "num_steps": 2}]}
    written = {"data": {"dir": "where/they/were"}, "systems": {"student": system}}
    write_text(options.recipe, yaml.safe_dump(written))
    write_json(options.work / ASKED, options.asked())
    heard: Any = SimpleNamespace(path=tmp_path / "best.pt", context=Context.full())
    heard.path.write_bytes(b"weights")
    assert write_recipe(options, heard, {}).data.dir == str(data)

    stamps = Stamps(options.work / "stamps")

    def settings() -> dict[str, Any]:
        return {job.name: job.settings for job in list_jobs(options, heard)}

    for part, jobs in (
        ("train-clean-100", {"train"}),
        ("dev-clean", {"train", "decode-student", "decode-teacher"}),
        ("test-clean", {"decode-student", "decode-teacher"}),
    ):
        before = settings()
        stamps.write(next(job for job in list_jobs(options, heard) if job.name == "train"), "1", True)
        (data / f"cuts_{part}.jsonl.gz").write_bytes(gzip.compress(b"other speech"))
        if "train" in jobs:
            with pytest.raises(UserError, match=r"data: not the training and dev data that .*student began"):
                settings()
            stamps.path("train").unlink()
        assert {name for name, found in settings().items() if found != before[name]} == jobs

    # A stamp of before the teacher was noted counts; with weights trained anew in the same file, none does.
    jobs = list_jobs(options, heard)
    train = next(job for job in jobs if job.name == "train")
    known = {key: value for key, value in train.settings.items() if key != "teacher"}
    stamps.write(replace(train, settings=known, outputs=[]), "1", True)
    assert stamps.finished([replace(train, outputs=[])]) == {"train"} and has_begun(options)
    stamps.write(train, "1", True)
    heard.path.write_bytes(b"other weights")
    with pytest.raises(UserError, match=r"best\.pt: not the weights of the teacher that .*student began"):
        list_jobs(options, heard)


@pytest.mark.usefixtures("operators_once")
def test_a_teacher_of_nemo_has_a_streaming_student_with_other_features_and_rate(
    nemo_teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_runner, "run_jobs", run_here)
    train, dev = write_cuts(tmp_path, "train", 8, seed=1), write_cuts(tmp_path, "dev", 2, seed=2)
    out, small = tmp_path / "student", tmp_path / "student.yaml"
    settings = {
        "data": {"max_duration": 10.0, "num_buckets": 1, "speed_perturbation": [1.0]},
        "training": {"accelerator": "cpu"},
    }
    small.write_text(yaml.safe_dump(settings))
    steps = ["stages.0.num_hours=0.005", "stages.1.num_hours=0.005", "training.validate_hours=0.005"]
    asked = ["--teacher", nemo_teacher, "--cuts", f"train={train}", "--cuts", f"dev={dev}", "--out", out]
    asked += ["--left-ms", 640, "--student", small]
    result = distill(*asked, *(word for step in steps for word in ("--override", step)))
    assert result.exit_code == 0, (result.output, result.exception)
    assert "dev: WER of the teacher" in result.output
    assert "2 of 2 utterances identical" in result.output
    student, taught = load_bundle(out).model, load_bundle(nemo_teacher).model
    assert (student.geometry.stride, taught.geometry.stride) == (4, 8)
    assert student.config.predictor == StatelessConfig(dim=12) and student.joiner.activation == "tanh"
    encoder = student.config.encoder
    assert isinstance(encoder, ConformerConfig)
    assert (encoder.num_layers, encoder.dim, encoder.num_heads, encoder.ffn_dim) == (2, 16, 2, 32)


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["--chunk-ms", 330], "--chunk-ms 330: the student's frames are 40 ms: give a multiple"),
        (["--lookahead-ms", 160], "has no look-ahead"),
        (["--student", "missing.yaml"], "missing.yaml: no such configuration file"),
        (["--student", "{models: {}}"], "section 'models'; expected one of model, data, training"),
        (["--student", "{model: 3}"], "model: expected a mapping"),
        (
            ["--student", "{model: {encoder: {encoder_dim: [8, 8, 8]}}}"],
            "has 2 values; expected one, or one for each of the 3 stacks",
        ),
        (["--student", "{model: {encoder: {causal: false}}}"], "causal=true for chunks"),
        (["--student", "{model: {encoder: {downsampling_factor: [1, 8]}}}"], "chunk must be a multiple of 4"),
        (["--data", "empty"], "no part named train"),
        (["--out", "other/teacher"], "'teacher' is the teacher's name in the report"),
    ],
    ids=str,
)
def test_what_cannot_be_distilled_is_named(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[Any], fault: str
) -> None:
    monkeypatch.chdir(tmp_path)
    if str(arguments[1]).startswith("{"):
        (tmp_path / "student.yaml").write_text(arguments[1])
        arguments = ["--student", "student.yaml"]
        if "downsampling" in (tmp_path / "student.yaml").read_text():
            arguments += ["--chunk-ms", 80]
    (tmp_path / "empty").mkdir()
    for part in ("train", "dev"):
        (tmp_path / f"{part}.jsonl.gz").touch()
    cuts = ["--cuts", "train=train.jsonl.gz", "--cuts", "dev=dev.jsonl.gz"]
    given = [] if "--data" in arguments else cuts
    result = distill("--teacher", teacher, "--out", tmp_path / "out", *given, *arguments)
    assert isinstance(result.exception, UserError)
    assert fault in str(result.exception)
    assert not (tmp_path / "out" / "checkpoints").exists()


def conformer(num_layers: int, seed: int, dim: int = 16) -> Transducer:
    torch.manual_seed(seed)
    encoder = tiny_encoder()
    encoder.num_layers, encoder.dim = num_layers, dim  # type: ignore[attr-defined]
    return build_transducer(TransducerConfig(80, 24, encoder, StatelessConfig(dim=16), joiner_dim=16))


def test_a_student_with_fewer_layers_takes_those_at_the_same_depth() -> None:
    teacher, student = conformer(6, seed=1), conformer(3, seed=2)
    found = weights_of_teacher(student, teacher)
    assert set(found) == set(student.state_dict())
    name, layers = "feed_in.expand.weight", teacher.encoder.layers
    for layer, partner in ((0, 1), (1, 3), (2, 5)):
        expected = layers[partner].state_dict()[name]  # type: ignore[index, union-attr]
        assert torch.equal(found[f"encoder.layers.{layer}.{name}"], expected)


def test_a_student_of_other_widths_takes_what_has_the_same_shape() -> None:
    found = weights_of_teacher(conformer(2, seed=2, dim=32), conformer(2, seed=1))
    assert "predictor.embedding.weight" in found and "joiner.output.weight" in found
    assert "encoder.layers.0.feed_in.expand.weight" not in found


def test_a_student_of_a_teacher_with_a_memory_has_none_and_starts_from_the_encoder() -> None:
    torch.manual_seed(1)
    sizes = TransducerConfig(80, 24, tiny_encoder(), LstmConfig(dim=12), joiner_dim=16)
    teacher = build_transducer(sizes)
    config = student_sizes(sizes, {}, "test")
    assert config.predictor == StatelessConfig(dim=12)
    found = weights_of_teacher(build_transducer(config), teacher)
    assert {name.split(".")[0] for name in found} == {"encoder", "simple_am", "ctc_head"}
    assert sum(name.startswith("encoder.") for name in found) == len(teacher.encoder.state_dict())
    named = student_sizes(sizes, {"predictor": {"type": "lstm", "num_layers": 2}}, "test")
    assert named.predictor == LstmConfig(dim=320, num_layers=2)


def test_a_zipformer_student_of_a_zipformer_starts_as_the_teacher(teacher: Path) -> None:
    bundle = load_bundle(teacher)
    sizes = student_sizes(bundle.model.config, {}, "test")
    student = build_transducer(sizes).eval()
    student.load_state_dict(weights_of_teacher(student, bundle.model))
    features_BTF, lens_B = torch.randn(2, 97, 80), torch.tensor([97, 60])
    expected = bundle.model.encode(features_BTF, lens_B, Context.full())
    found = student.encode(features_BTF, lens_B, Context.full())
    assert torch.allclose(found.encoded_BTD, expected.encoded_BTD, atol=1e-5)


def test_a_student_of_another_type_has_its_own_sizes(teacher: Path) -> None:
    config = load_bundle(teacher).model.config
    sizes = student_sizes(config, {"encoder": {"type": "conformer", "num_layers": 2}}, "test")
    assert (sizes.encoder.type, sizes.joiner_dim) == ("conformer", config.joiner_dim)
    back = student_sizes(sizes, {"encoder": {"type": "zipformer2"}}, "test")
    assert back.encoder.causal  # type: ignore[attr-defined]


def test_the_schedule_follows_from_the_hours_of_speech() -> None:
    assert hours_to_hear(960, 600, passes=8) == 7680
    assert hours_to_hear(0.1, 60, passes=8) == FEWEST_STEPS * 60 / 3600
