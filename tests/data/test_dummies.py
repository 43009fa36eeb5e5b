"""`kdasr.testing`: what other tests take for granted."""

from pathlib import Path

import torch

from kdasr.data.features import num_feature_frames
from kdasr.testing import dummy_batch, dummy_cuts, tiny_config, tiny_model, write_corpus


def test_a_dummy_batch_is_ragged_with_loud_padding() -> None:
    batch = dummy_batch(batch_size=5, vocab=7, max_frames=60, padding=9.0)
    beyond_BT = torch.arange(60) >= batch.feature_lens_B[:, None]
    assert len(set(batch.feature_lens_B.tolist())) > 1
    assert batch.features_BTF[beyond_BT].mean() > 8.0
    assert abs(batch.features_BTF[~beyond_BT].mean()) < 0.1
    assert batch.tokens_BS.min() >= 1
    assert batch.tokens_BS.max() < 7
    assert (batch.feature_lens_B[0], batch.token_lens_B[0]) == batch.tokens_BS.new_tensor((60, 6)).unbind()


def test_dummy_batches_follow_their_seed() -> None:
    assert torch.equal(dummy_batch(seed=1).features_BTF, dummy_batch(seed=1).features_BTF)
    assert not torch.equal(dummy_batch(seed=1).features_BTF, dummy_batch(seed=2).features_BTF)


def test_the_tiny_model_follows_its_seed_and_leaves_the_global_one() -> None:
    state = torch.random.get_rng_state()
    one, two, other = tiny_model(seed=1), tiny_model(seed=1), tiny_model(seed=2)
    assert torch.equal(torch.random.get_rng_state(), state)
    pairs = list(zip(one.parameters(), two.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(first, second) for first, second, _ in pairs)
    assert not all(torch.equal(first, third) for first, _, third in pairs)
    assert one.config == tiny_config()


def test_dummy_cuts_have_audio_features_and_words() -> None:
    for cut in dummy_cuts(3):
        assert cut.load_audio().shape == (1, cut.num_samples)
        assert cut.load_features().shape == (num_feature_frames(cut.num_samples), 80)
        assert cut.supervisions[0].text


def test_a_written_corpus_has_the_layout(tmp_path: Path) -> None:
    write_corpus(tmp_path / "c", ("dev-clean",), speakers=1, utterances=2, alignments_dir=tmp_path / "a")
    assert sorted(path.name for path in (tmp_path / "c").rglob("*.*")) == [
        "100-1-0000.flac", "100-1-0001.flac", "100-1.trans.txt",
    ]  # fmt: skip
    assert [path.name for path in (tmp_path / "a").rglob("*.txt")] == ["100-1.alignment.txt"]
