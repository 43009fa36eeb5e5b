"""What `kdasr distill` was asked for, and whether that can be."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdasr.bundle import Bundle, load_bundle
from kdasr.checkpoint import refuse_model
from kdasr.common.configio import load_yaml
from kdasr.common.errors import UserError
from kdasr.common.files import read_object
from kdasr.experiment.student_start import student_sizes
from kdasr.export.build import check_exportable
from kdasr.models.encoders.base import Geometry
from kdasr.models.transducer.transducer_config import TransducerConfig
from kdasr.nn.context import Context

WORK = "distill"
"""Of the student's folder: recipe, first weights, what the teacher said of the dev parts, logs, stamps."""
RECIPE, ASKED = "recipe.yaml", "options.json"
TEACHER = "teacher"
"""Its name in the report of the student."""
SECTIONS = ("model", "data", "training", "objective")
"""Of a student's file."""


@dataclass(frozen=True, kw_only=True)
class DistillOptions:
    """What `kdasr distill` was asked for."""

    teacher: Path
    out: Path
    """The student's experiment folder."""
    data: Path
    """Prepared data, or where they are to be prepared."""
    chunk_ms: int = 320
    left_ms: int = 2560
    lookahead_ms: int = 0
    student: Path | None = None
    """A file with the options of the student that differ; None: the teacher's sizes."""
    passes: float = 8.0
    """How often the training data are heard, all stages together; at least `FEWEST_STEPS`."""
    processes: int = 1
    """Training processes, one per GPU."""
    overrides: tuple[str, ...] = ()

    @property
    def work(self) -> Path:
        """Where all lies that is not the student's own."""
        return self.out / WORK

    @property
    def recipe(self) -> Path:
        """The configuration that is trained."""
        return self.work / RECIPE

    @property
    def name(self) -> str:
        """Of the system."""
        return self.out.resolve().name

    def asked(self) -> dict[str, Any]:
        """What decides the student, as the next call compares it."""
        changes = {} if self.student is None else load_yaml(self.student)
        return {
            "--teacher": str(self.teacher.resolve()),
            "--chunk-ms": self.chunk_ms,
            "--left-ms": self.left_ms,
            "--lookahead-ms": self.lookahead_ms,
            "--student": changes,
            "--passes": self.passes,
            "--override": list(self.overrides),
        }


def check_folder(options: DistillOptions) -> None:
    """Refuse a folder that holds something else, or a student of other options.

    Raises:
        UserError: naming the option, or what is there.
    """
    path, asked = options.work / ASKED, options.asked()
    if path.is_file():
        for name, value in read_object(path).items():
            if asked.get(name) != value:
                raise UserError(
                    f"{options.out} holds a student of {name} {value}, this is {name} {asked.get(name)}: "
                    "give another --out, or remove that folder"
                )
    else:
        refuse_model(options.out)


def open_teacher(options: DistillOptions) -> Bundle:
    """
    Raises:
        UserError: no teacher there, one that is the student itself, or a student of its name.
    """
    if options.teacher.resolve() == options.out.resolve():
        raise UserError(f"--teacher and --out are the same folder: {options.out}")
    if options.name == TEACHER:
        raise UserError(f"--out {options.out}: '{TEACHER}' is the teacher's name in the report")
    return load_bundle(options.teacher, as_trained=True)


def student_changes(options: DistillOptions) -> dict[str, Any]:
    """What the student's file says.

    Raises:
        UserError: no such file, or a section that is none of a student's.
    """
    changes = {} if options.student is None else load_yaml(options.student)
    for name, section in changes.items():
        if name not in SECTIONS:
            raise UserError(f"{options.student}: section '{name}'; expected one of {', '.join(SECTIONS)}")
        if not isinstance(section, Mapping):
            raise UserError(f"{options.student}: {name}: expected a mapping of options")
    return changes


def sizes_and_context(options: DistillOptions, teacher: TransducerConfig) -> tuple[TransducerConfig, Context]:
    """The student's sizes and its context.

    Raises:
        UserError: sizes that no model has, or times that are no frames of this encoder.
    """
    source = str(options.student or options.teacher)
    sizes = student_sizes(teacher, student_changes(options).get("model") or {}, source)
    sizes.encoder.check(sizes.num_features)
    geometry = sizes.geometry
    context = Context(
        left=_frames("--left-ms", options.left_ms, geometry),
        chunk=_frames("--chunk-ms", options.chunk_ms, geometry),
        right=_frames("--lookahead-ms", options.lookahead_ms, geometry),
    )
    sizes.encoder.check_context(context)
    check_exportable(sizes, context)
    return sizes, context


def _frames(option: str, milliseconds: int, geometry: Geometry) -> int:
    frame_ms = round(1000 * geometry.frame_seconds)
    if milliseconds % frame_ms:
        raise UserError(f"{option} {milliseconds}: the student's frames are {frame_ms} ms: give a multiple")
    return milliseconds // frame_ms
