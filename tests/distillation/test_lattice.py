import torch

from kdasr.distillation.lattice import LatticeBuilder, PrunedLattice
from kdasr.distillation.objective_config import RnntConfig
from kdasr.distillation.terms.hidden_mse import partner_layer
from kdasr.losses.lattice.teacher_band import teacher_band
from kdasr.nn.context import Context
from kdasr.testing import dummy_batch, tiny_model


def build_lattice() -> tuple[LatticeBuilder, PrunedLattice]:
    model, batch = tiny_model(), dummy_batch()
    builder = LatticeBuilder(RnntConfig(backend="native", prune_range=3))
    output = model(batch.features_BTF, batch.feature_lens_B, batch.tokens_BS, Context.full())
    return builder, builder.build(model, output, batch, train_simple=False, warm=True)


def test_valid_nodes_are_those_of_the_utterance() -> None:
    _, lattice = build_lattice()
    batch = dummy_batch()
    expected = [
        [[t < t_end and s <= s_end for s in states] for t, states in enumerate(frames)]
        for frames, (_, _, s_end, t_end) in zip(
            lattice.ranges_BTK.tolist(), lattice.boundary_B4.tolist(), strict=True
        )
    ]
    assert lattice.valid.tolist() == expected
    assert lattice.boundary_B4[:, 2].tolist() == batch.token_lens_B.tolist()


def test_the_joint_gives_the_joiners_logits() -> None:
    _, lattice = build_lattice()
    model, batch = tiny_model(), dummy_batch()
    output = model(batch.features_BTF, batch.feature_lens_B, batch.tokens_BS, Context.full())
    frames, states = (
        model.joiner.project_encoder(output.encoded_BTD),
        model.joiner.project_predictor(output.predicted_BSD),
    )
    num_frames, num_states = frames.shape[1], states.shape[1]
    for b, t, s in ((0, 0, 0), (0, 9, 2), (1, 4, 1), (2, 2, 0)):
        rows = torch.tensor([b * num_frames + t]), torch.tensor([b * num_states + s])
        torch.testing.assert_close(
            lattice.joint.logits_of(*rows)[0], model.joiner(frames[b, t], states[b, s])
        )


def test_occupation_counts_the_nodes_of_a_path() -> None:
    """A regular path leaves T nodes by blanks and S by symbols."""
    builder, lattice = build_lattice()
    occupation = builder.evaluate(
        lattice,
        warm=True,
    ).occupation_BTK
    steps = (lattice.boundary_B4[:, 2] + lattice.boundary_B4[:, 3]).float()
    torch.testing.assert_close(occupation.sum((1, 2)), steps)


def test_delay_penalty_is_paid_by_frame_for_each_piece() -> None:
    """The loss's slope by it: minus the expected sum of `(frames - 1) / 2 - t` over the pieces of a path."""
    _, lattice = build_lattice()
    plain, penalized = (
        LatticeBuilder(RnntConfig(backend="native", delay_penalty=penalty)) for penalty in (0.0, 1e-3)
    )
    before, after = (
        builder.evaluate(
            lattice,
            warm=True,
        ).rnnt_B
        for builder in (plain, penalized)
    )
    band = teacher_band(lattice.joint, lattice.tokens_BS, lattice.ranges_BTK, 0, lattice.boundary_B4)
    emits_BT = band.totals().symbol_grad_BTK.sum(2)
    early_BT = (lattice.boundary_B4[:, 3:4] - 1) / 2 - torch.arange(emits_BT.shape[1])
    expected_B = -(emits_BT * early_BT).sum(1)
    assert (expected_B.abs() > 1).any()
    torch.testing.assert_close((after - before) / 1e-3, expected_B, rtol=0.02, atol=0.05)
    cold = penalized.evaluate(
        lattice,
        warm=False,
    ).rnnt_B
    assert torch.equal(cold, before)


def test_partner_layers_are_evenly_spaced_and_end_together() -> None:
    assert [partner_layer(i, 4, 4) for i in range(4)] == [0, 1, 2, 3]
    assert [partner_layer(i, 4, 8) for i in range(4)] == [1, 3, 5, 7]
    assert [partner_layer(i, 6, 3) for i in range(6)] == [0, 0, 1, 1, 1, 2]
    assert partner_layer(0, 12, 2) == 0
