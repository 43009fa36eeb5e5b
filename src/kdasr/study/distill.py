"""`kdasr distill`: from an offline teacher to an exported streaming student: first weights, jobs, summary."""

from collections.abc import Mapping, Sequence
from typing import Any

from kdasr.bundle import Bundle
from kdasr.checkpoint import AVERAGED, FOLDER
from kdasr.common.errors import UserError
from kdasr.common.files import read_object, sha256
from kdasr.data.tokenizer import Tokenizer
from kdasr.experiment.config import ExperimentConfig
from kdasr.experiment.student_start import Start, write_start
from kdasr.experiment.transducer_trainer import build_model
from kdasr.nn.context import Context
from kdasr.study.distill_options import TEACHER, DistillOptions
from kdasr.study.distill_recipe import parts_of
from kdasr.study.jobs import KDASR, STREAMS, data_digest
from kdasr.study.stamps import StampedJob, Stamps
from kdasr.study.trained_run import check_decoded


def start_student(options: DistillOptions, config: ExperimentConfig, teacher: Bundle) -> Start:
    """Write the student's first weights.

    Raises:
        UserError: the data have other pieces than the teacher.
    """
    import torch

    tokenizer = Tokenizer.load(options.data / "tokens")
    if tokenizer.fingerprint != teacher.tokenizer.fingerprint:
        raise UserError(
            f"{options.data / 'tokens'}: not the pieces of the teacher {teacher.path}: run kdasr tokens "
            f"--data {options.data} --from {options.teacher / 'tokens'}"
        )
    torch.manual_seed(config.seed)
    student = build_model(config, tokenizer)
    return write_start(student, teacher, config.contexts[0], options.work / "start")


def list_jobs(options: DistillOptions, teacher: Bundle) -> list[StampedJob]:
    """Training, decoding, export, check and report, each after what it needs.

    Raises:
        UserError: the student began with another teacher, or with other data to train on or to choose by.
    """
    train, dev, test = parts_of(options.data)
    heard_data, told_data = (data_digest(options.data, names) for names in ([*train, *dev], [*dev, *test]))
    taught = sha256(teacher.path)
    _check_begun(options, "data", heard_data, f"{options.data}: not the training and dev data")
    _check_begun(options, "teacher", taught, f"{teacher.path}: not the weights of the teacher")
    out, data, parts = str(options.out), str(options.data), " ".join([*dev, *test])
    export, heard = options.out / "export", options.work / TEACHER / "decode"
    cuts = tuple(str(options.data / f"cuts_{part}.jsonl.gz") for part in (test or dev))
    mode = "offline" if teacher.context.is_full else "streaming"
    decoded = ("--data", data, "--parts", parts)
    return [
        _job(
            options,
            "Training: hidden states, then output distributions",
            "train",
            [_training_command(options), ("average", out)],
            made_of={"data": heard_data, "teacher": taught},
            outputs=[options.out / FOLDER / AVERAGED],
        ),
        _job(
            options,
            "Decoding",
            "decode-student",
            [
                ("calibrate", out, "--data", data, "--parts", " ".join(dev)),
                ("decode", out, "--streams", str(STREAMS), *decoded),
            ],
            made_of={"data": told_data},
            needs=["train"],
            outputs=[options.out / "decode" / "streaming" / part / "summary.json" for part in dev],
        ),
        _job(
            options,
            "Decoding",
            "decode-teacher",
            [("decode", str(teacher.path), "--mode", mode, "--out", str(heard), *decoded)],
            made_of={"data": told_data, "teacher": taught},
            outputs=[heard / mode / part / "summary.json" for part in dev],
        ),
        _job(
            options,
            "Export",
            "export",
            [("export", out, "--out", str(export), "--int8")],
            needs=["decode-student"],
            outputs=[export / "manifest.json"],
        ),
        _job(
            options,
            "Export",
            "check-export",
            [("export", "--check", str(export), *cuts, "--against", out)],
            needs=["export"],
        ),
        _job(
            options,
            "Report",
            "report",
            [("report", out, str(options.work / TEACHER), "--data", data)],
            needs=["decode-student", "decode-teacher"],
            after=["check-export"],
            outputs=[options.out / "report" / "index.html"],
        ),
    ]


def has_begun(options: DistillOptions) -> bool:
    """Whether the student's training has begun, from the first weights that are there."""
    return Stamps(options.work / "stamps").read("train") is not None


def _check_begun(options: DistillOptions, what: str, digest: str, problem: str) -> None:
    """Refuse to go on with a training that began with another digest of `what` it is made of."""
    begun = Stamps(options.work / "stamps").read("train")
    if begun is not None and begun.settings.get(what, digest) != digest:
        raise UserError(f"{problem} that {options.out} began with: give another --out, or remove that folder")


def _training_command(options: DistillOptions) -> tuple[str, ...]:
    changed = (word for override in options.overrides for word in ("--override", override))
    recipe = ("--config", str(options.recipe), "--system", options.name, "--exp", str(options.out))
    return ("train", *recipe, *changed)


def _job(
    options: DistillOptions,
    stage: str,
    name: str,
    verbs: Sequence[tuple[str, ...]],
    *,
    made_of: Mapping[str, str] | None = None,
    **further: Any,
) -> StampedJob:
    """A job of some verbs of kdasr, which runs again when they, the recipe or the digests of what it is
    `made_of` have changed. A stamp without one of these digests is of before they were noted.
    """
    processes = ("-m", "torch.distributed.run", "--nproc-per-node", str(options.processes), "-m", "kdasr")
    many = (KDASR[0], *processes) if options.processes > 1 else KDASR
    commands = [(*(many if verb[0] == "train" else KDASR), *verb) for verb in verbs]
    recipe = options.recipe.read_text(encoding="utf-8")
    digests = dict(made_of or {})
    settings = {"commands": [list(verb) for verb in verbs], "recipe": recipe, **digests}
    return StampedJob(
        name=name,
        commands=commands,
        stage=stage,
        settings=settings,
        reread=lambda noted: {**digests, **noted},
        **further,
    )


def summary_lines(options: DistillOptions, context: Context) -> list[str]:
    """Word errors of teacher and student, the student's latency, and where everything is.

    Raises:
        UserError: a part was decoded again in another way: see `check_decoded`; `context` is the student's.
    """
    _, dev, test = parts_of(options.data)
    lines = []
    for part in [*dev, *test]:
        folder = options.out / "decode" / "streaming" / part
        student = read_object(folder / "summary.json")
        check_decoded(student, folder, context)
        found = sorted((options.work / TEACHER / "decode").glob(f"*/{part}/summary.json"))
        wers = [read_object(found[0])["wer"] if found else None, student["wer"]]
        teacher, own = ("-" if wer is None else f"{wer:.2f} %" for wer in wers)
        lines.append(f"{part}: WER of the teacher {teacher}, of the student {own}{_first_word(student)}")
    lines.append(f"student: {options.out}; for sherpa-onnx: {options.out / 'export'}")
    lines.append(f"report: {options.out / 'report' / 'index.html'}")
    return lines


def _first_word(summary: dict[str, Any]) -> str:
    first = summary.get("first_word_ms") or {}
    if first.get("mean") is None:
        return ""
    return f", first words after {first['mean']:.0f} ms ({100 * first['coverage']:.0f} % of them are right)"
