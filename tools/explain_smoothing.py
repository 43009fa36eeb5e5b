"""Where the output divergence pulls: on blanks, on the right piece or elsewhere, by how sure the teacher is.

    python tools/explain_smoothing.py exp/demo/two-stage --teacher exp/demo/teacher --data data/demo

For each way of smoothing (`SETTINGS`, under `objective.output`), the share of the gradient by the student's
logits (sum of absolute values over classes, weighted as in the loss) at nodes at which the teacher's best
class is the blank, the node's next piece, or another piece; and the share at nodes at which the teacher's
best class has probability above 0.99. Also `T^2`, its mean over nodes as they are weighted. The utterances
are those of a dev part, as validation hears them.

Shapes: B utterances, T frames, K states of the band, N nodes, V classes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import click
import torch
from benchmarking import require, run_tool
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor

from kdasr.bundle import load_bundle
from kdasr.data.data_config import DataConfig
from kdasr.data.loader import load_cuts, valid_batches
from kdasr.distillation.alignment import AlignedTeacher
from kdasr.distillation.lattice import BLANK, LatticeBuilder, PrunedLattice
from kdasr.distillation.objective_config import RnntConfig
from kdasr.distillation.teacher import TransducerTeacher
from kdasr.distillation.terms.output_kl import OutputConfig, OutputTerm
from kdasr.losses.lattice.joiner import NodeLogits
from kdasr.losses.lattice.joint import joint_losses
from kdasr.losses.lattice.nodes import Nodes
from kdasr.report.style import MUTED, figure_style, save_png, system_styles, value_axis

SETTINGS: dict[str, dict[str, Any]] = {
    "exponent 1 (smooths nothing)": {"rule": "fixed", "exponent": 1.0},
    "fixed 0.7": {"rule": "fixed", "exponent": 0.7},
    "entropy": {"rule": "entropy"},
    "entropy, no T^2": {"rule": "entropy", "temperature_squared": False},
    "entropy, exponent at least 0.5": {"rule": "entropy", "min_exponent": 0.5},
    "entropy, weights occupation_nonblank": {"rule": "entropy", "node_weights": "occupation_nonblank"},
    "entropy, weights occupation_entropy": {"rule": "entropy", "node_weights": "occupation_entropy"},
    "entropy among symbols": {"rule": "entropy", "classes": "symbols"},
    "entropy among symbols, exponent at least 0.5": {
        "rule": "entropy",
        "classes": "symbols",
        "min_exponent": 0.5,
    },
    "confidence 0.7": {"rule": "confidence", "exponent": 0.7},
    "confidence 0.5": {"rule": "confidence", "exponent": 0.5},
    "confidence 0.5 among symbols (the default)": {
        "rule": "confidence",
        "exponent": 0.5,
        "classes": "symbols",
    },
}
SURE = 0.99
KINDS = ("blank", "next piece", "other piece")


@dataclass
class Mass:
    """Gradient by what the teacher says of a node."""

    by_kind: Tensor
    """Of blank, next piece, other piece; by whether the teacher is sure: no, yes."""
    scale: float
    """Weighted sum of T^2."""
    weight: float

    def row(self, name: str) -> str:
        shares = self.shares()
        cells = [f"{share:.0f}" for share in (*shares.sum(1).tolist(), float(shares[:, 1].sum()))]
        return f"| {' | '.join([name, *cells, f'{self.scale / (self.weight or 1.0):.1f}'])} |"

    def shares(self) -> Tensor:
        """`by_kind` in percent of their sum."""
        return 100 * self.by_kind / (float(self.by_kind.sum()) or 1.0)


@click.command()
@click.argument("student", type=click.Path(path_type=Path))
@click.option("--teacher", type=click.Path(path_type=Path), required=True, help="Experiment folder.")
@click.option("--data", type=click.Path(path_type=Path), required=True)
@click.option("--part", default="dev-other", show_default=True)
@click.option("--batches", default=4, show_default=True, help="Batches of up to 60 s.")
@click.option("--plot", type=click.Path(path_type=Path), help="Draw the table into this PNG file.")
def main(student: Path, teacher: Path, data: Path, part: str, batches: int, plot: Path | None) -> None:
    """Print a table: percent of the gradient."""
    require(student, teacher, data)
    torch.set_num_threads(1)
    masses = {name: Mass(torch.zeros(len(KINDS), 2), 0.0, 0.0) for name in SETTINGS}
    for lattice, logits in lattices(student, teacher, data, part, batches):
        for name, options in SETTINGS.items():
            add(
                masses[name],
                OutputTerm(OutputConfig(**{"classes": "full", **options}), "regular"),
                lattice,
                logits,
            )
    click.echo(
        f"| smoothing | {' | '.join(KINDS)} | teacher above {SURE} | mean T^2 |\n|---|---|---|---|---|---|"
    )
    for name, mass in masses.items():
        click.echo(mass.row(name))
    if plot is not None:
        save_png(draw(masses), plot)


def draw(masses: dict[str, Mass]) -> Figure:
    """A bar per way of smoothing: what the teacher says of a node, paler where it is sure."""
    styles = system_styles(KINDS)
    with figure_style():
        figure = Figure(figsize=(8.0, 0.9 + 0.32 * len(masses)), layout="constrained")
        axes = figure.add_subplot()
        value_axis(axes)
        for place, mass in enumerate(masses.values()):
            left = 0.0
            for kind, shares in zip(KINDS, mass.shares().tolist(), strict=True):
                for share, alpha in zip(shares, (1.0, 0.45), strict=True):
                    color = styles[kind].color.light
                    axes.barh(place, share, left=left, height=0.7, color=color, alpha=alpha, linewidth=0)
                    left += share
        axes.set_yticks(range(len(masses)), list(masses))
        axes.invert_yaxis()
        axes.set_xlim(0, 100)
        axes.set_xlabel("% of the gradient by the student's logits")
        bars = [Patch(color=styles[kind].color.light, label=kind) for kind in KINDS]
        pale = Patch(color=MUTED.light, alpha=0.45, label=f"teacher above {SURE} (paler)")
        figure.legend(
            handles=[*bars, pale],
            title="the teacher's best class",
            loc="outside upper center",
            ncols=4,
            frameon=False,
        )
    return figure


def lattices(
    student: Path, teacher: Path, data: Path, part: str, batches: int
) -> Iterator[tuple[PrunedLattice, NodeLogits]]:
    """Pruned lattices of some batches, and the teacher on their nodes."""
    own, other = load_bundle(student), load_bundle(teacher)
    model = own.model.eval()
    foreign = TransducerTeacher(other.model.eval(), other.context)
    builder = LatticeBuilder(RnntConfig(backend="native"))
    cuts = load_cuts(data, part)
    for batch in islice(valid_batches(cuts, own.tokenizer, DataConfig(), model.geometry.num_frames), batches):
        with torch.no_grad():
            output = model(batch.features_BTF, batch.feature_lens_B, batch.tokens_BS, own.context)
            lattice = builder.build(model, output, batch, train_simple=False, warm=True)
            answer = foreign.encode(batch)
        num_frames = output.encoded_BTD.shape[1]
        aligned = AlignedTeacher([answer], num_frames, output.lens_B, model.geometry.frame_seconds)
        yield lattice, aligned.nodes()


@torch.no_grad()
def add(mass: Mass, term: OutputTerm, lattice: PrunedLattice, teacher: NodeLogits) -> None:
    """Add the gradient of a batch's nodes."""
    divergence = term.on_nodes(lattice, teacher)
    found = joint_losses(
        lattice.joint, lattice.tokens_BS, lattice.ranges_BTK, BLANK, lattice.boundary_B4, nodes=[divergence]
    )
    assert found.occupation_BTK is not None
    weights_BTK = divergence.weigh(found.occupation_BTK) * lattice.valid
    b_N, t_N, k_N = (weights_BTK > 0).nonzero(as_tuple=True)
    num_frames = weights_BTK.shape[1]
    pieces_N = lattice.ranges_BTK[b_N, t_N, k_N]
    states = lattice.joint.lm_BSD.shape[1]
    nodes = Nodes(b_N, b_N * num_frames + t_N, b_N * states + pieces_N, weights_BTK[b_N, t_N, k_N])
    divergence.begin(nodes)
    values = divergence.evaluate(lattice.joint.logits_of(nodes.frames_N, nodes.states_N), nodes, True)
    assert values.gradient_NV is not None
    pull_N = values.gradient_NV.abs().sum(1)
    best_N = teacher.logits_of(nodes.frames_N, nodes.states_N).softmax(1).max(1)
    next_N = torch.nn.functional.pad(lattice.tokens_BS, (0, 1))[b_N, pieces_N]
    kinds_N = torch.where(best_N.indices == BLANK, 0, torch.where(best_N.indices == next_N, 1, 2))
    cells_N = 2 * kinds_N + (best_N.values > SURE).long()
    mass.by_kind.view(-1).index_add_(0, cells_N, pull_N)
    mass.scale += float((nodes.weights_N / values.exponent_N.square()).sum())
    mass.weight += float(nodes.weights_N.sum())


if __name__ == "__main__":
    run_tool(main)
