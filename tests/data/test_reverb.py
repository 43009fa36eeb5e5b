"""Rooms: the direct sound stays in its place, and the generator of the batch decides everything."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from lhotse import Recording, RecordingSet

from kdasr.common.errors import UserError
from kdasr.data.augment import generator_for
from kdasr.data.channel_augment import AudioChain
from kdasr.data.data_config import DataConfig, ReverbConfig
from kdasr.data.loading import train_strategy
from kdasr.data.reverb import Reverb, drawn_response, in_room
from kdasr.data.same_data import describe_data
from kdasr.testing import dummy_cuts, tone


def response(sign: float = 1.0, delay: int = 700) -> np.ndarray:
    """A direct sound after `delay` samples, and a tail that decays."""
    response_N = np.zeros(8000, np.float32)
    tail = np.random.default_rng(1).normal(0, 0.2, 8000 - delay) * np.exp(-np.arange(8000 - delay) / 1500)
    response_N[delay:] = tail
    response_N[delay] = 1.0
    return sign * response_N


@pytest.fixture
def rooms(tmp_path: Path) -> Path:
    """Two responses at 16 kHz and one at 8 kHz with two channels."""
    folder = tmp_path / "rooms"
    folder.mkdir()
    soundfile.write(folder / "a.wav", response(), 16000, subtype="FLOAT")
    soundfile.write(folder / "b.wav", response(delay=50), 16000, subtype="FLOAT")
    soundfile.write(folder / "c.wav", np.stack([response()] * 2, axis=1), 8000, subtype="FLOAT")
    return folder


@pytest.mark.parametrize("kind", ["recorded", "inverted", "drawn"])
def test_the_direct_sound_stays_where_it_was(kind: str) -> None:
    """So that word times hold; the length and the level stay too."""
    clicks = np.zeros(16000, np.float32)
    clicks[[3000, 9000]] = [0.9, 0.5]
    response_N = drawn_response(3) if kind == "drawn" else response(-1.0 if kind == "inverted" else 1.0)
    heard = in_room(clicks, response_N)
    assert heard.shape == clicks.shape and heard.dtype == np.float32
    assert np.abs(heard).argmax() == 3000 and np.abs(heard[6000:]).argmax() == 3000
    assert np.abs(heard[:2900]).max() < 0.2 * np.abs(heard).max()  # nothing is heard long before it
    assert np.square(heard[3200:8000]).sum() > 0  # the room
    assert np.square(heard).sum() == pytest.approx(np.square(clicks).sum(), rel=1e-3)


def test_a_room_without_walls_changes_nothing() -> None:
    samples = tone(0.5)
    only_direct = np.zeros(400, np.float32)
    only_direct[37] = 0.3
    np.testing.assert_allclose(in_room(samples, only_direct), samples, atol=1e-5)
    for useless in (np.zeros(400, np.float32), np.full(400, np.nan, np.float32), np.zeros(0, np.float32)):
        assert in_room(samples, useless) is samples


def test_the_generator_alone_decides(rooms: Path) -> None:
    samples = torch.from_numpy(tone(0.3))[None]
    state = torch.get_rng_state()
    for responses in (None, str(rooms)):
        reverb = Reverb(ReverbConfig(probability=1.0, responses=responses))
        heard = []
        for key in (1, 2, 1):
            reverb.generator = generator_for(key)
            torch.manual_seed(len(heard))
            heard.append(reverb(samples))
        assert torch.equal(heard[0], heard[2]) and not torch.equal(heard[0], heard[1])
        assert heard[0].shape == samples.shape
    torch.manual_seed(7)
    before = torch.get_rng_state()
    reverb(samples)
    drawn_response(5)
    assert torch.equal(before, torch.get_rng_state())
    torch.set_rng_state(state)


def test_rooms_come_as_often_as_asked(rooms: Path) -> None:
    reverb = Reverb(ReverbConfig(probability=0.3, responses=str(rooms)))
    reverb.generator = generator_for(0)
    samples = torch.from_numpy(tone(0.1))
    count = sum(not torch.equal(reverb(samples), samples) for _ in range(100))
    assert 18 < count < 43
    assert reverb(samples[:0]).shape == (0,)


def test_a_manifest_gives_what_its_folder_gives(rooms: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "rooms.jsonl.gz"
    RecordingSet.from_recordings(map(Recording.from_file, sorted(rooms.glob("*.wav")))).to_file(manifest)
    samples = torch.from_numpy(tone(0.2))
    heard = []
    for responses in (rooms, manifest):
        reverb = Reverb(ReverbConfig(probability=1.0, responses=str(responses)))
        reverb.generator = generator_for(4)
        heard.append([reverb(samples) for _ in range(6)])
        config = DataConfig(dir=str(tmp_path), reverb=ReverbConfig(0.5, str(responses)))
        assert describe_data(config, {})["reverb"]["files"] == 3
    assert all(torch.equal(one, two) for one, two in zip(*heard, strict=True))


def test_rooms_that_cannot_serve_are_named(rooms: Path, tmp_path: Path) -> None:
    def refused(responses: Path) -> str:
        with pytest.raises(UserError) as caught:
            reverb = Reverb(ReverbConfig(probability=1.0, responses=str(responses)))
            reverb(torch.from_numpy(tone(0.1)))
        return str(caught.value)

    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "x.wav").write_bytes(b"no audio")
    (tmp_path / "list.jsonl").write_text("no manifest\n")
    assert "no such folder or manifest" in refused(tmp_path / "nowhere")
    assert "no recordings" in refused(tmp_path / "empty")
    assert "x.wav cannot be read" in refused(tmp_path / "broken")
    assert "not a Lhotse manifest" in refused(tmp_path / "list.jsonl")


def test_rooms_need_audio_and_come_before_noise(rooms: Path, tmp_path: Path) -> None:
    cuts = dummy_cuts(2)
    config = DataConfig(reverb=ReverbConfig(1.0, str(rooms)))
    with pytest.raises(UserError, match=r"data\.reverb\.probability.*data\.on_the_fly: true"):
        train_strategy(cuts, config)
    config.on_the_fly = True
    config.noise.musan_dir = str(rooms)
    _, transform = train_strategy(cuts, config)
    assert isinstance(transform, AudioChain)
    assert [type(one).__name__ for one in transform._transforms] == ["Reverb", "NoiseMixer"]
