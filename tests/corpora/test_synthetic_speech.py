"""espeak-ng through ctypes, word times, rooms and noise."""

import numpy as np
import pytest

from kdasr.common.errors import UserError
from kdasr.corpora.synthetic.acoustics import reverberate, room_response
from kdasr.corpora.synthetic.alignment import SpokenSpan, align_words, transcript
from kdasr.corpora.synthetic.espeak import Speech, Synthesizer, Voice, WordEvent
from kdasr.corpora.synthetic.noise import active_power, add_noise, colored_noise
from kdasr.corpora.synthetic.voices import (
    FEMALE_VARIANTS,
    MALE_VARIANTS,
    SEEN_ACCENTS,
    UNSEEN_ACCENTS,
)

VOICE = Voice("gmw/en-US+f2", rate=140)


def test_speech_does_not_depend_on_what_was_spoken_before() -> None:
    synthesizer = Synthesizer()
    first = synthesizer.speak("the sailor carried letters", VOICE)
    synthesizer.speak("another text", Voice("gmw/en+m3", rate=200, pitch=70, pitch_range=10))
    again = synthesizer.speak("the sailor carried letters", VOICE)
    np.testing.assert_array_equal(first.samples_N, again.samples_N)
    assert first.events == again.events


def test_every_voice_speaks() -> None:
    synthesizer = Synthesizer()
    sounds = set()
    for accent in (*SEEN_ACCENTS, *UNSEEN_ACCENTS):
        for variant in (*FEMALE_VARIANTS, *MALE_VARIANTS):
            speech = synthesizer.speak("the farmer forgot nine chairs", Voice(f"gmw/{accent}+{variant}"))
            assert np.abs(speech.samples_N).max() > 0.1
            sounds.add(speech.samples_N.tobytes())
    assert len(sounds) == (len(SEEN_ACCENTS) + len(UNSEEN_ACCENTS)) * (
        len(FEMALE_VARIANTS) + len(MALE_VARIANTS)
    )


def test_an_unknown_voice_is_named() -> None:
    with pytest.raises(UserError, match="gmw/xx"):
        Synthesizer().speak("yellow", Voice("gmw/xx"))


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("espeakng_loader.get_library_path", lambda: "/nowhere/libespeak-ng.so")
    with pytest.raises(UserError, match=r"/nowhere/libespeak-ng\.so"):
        Synthesizer()


def test_a_library_that_does_not_load_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    broken = tmp_path / "libespeak-ng.so"
    broken.write_bytes(b"not a library")
    monkeypatch.setattr("espeakng_loader.get_library_path", lambda: str(broken))
    with pytest.raises(UserError, match="does not load"):
        Synthesizer().speak("yellow", VOICE)


def test_transcripts_are_upper_case_without_punctuation() -> None:
    assert transcript("however, it's the sailor's boat") == "HOWEVER IT'S THE SAILOR'S BOAT"


def test_word_times_of_a_known_signal() -> None:
    """10 samples per second: two words, a joined pair, a pause of 1 s before the last word."""
    samples = np.ones(100, dtype=np.float32)
    samples[:5] = samples[60:70] = samples[95:] = 0.0
    events = [WordEvent(0, 0), WordEvent(4, 20), WordEvent(8, 40), WordEvent(16, 70)]
    spans = align_words("cat saw on the, boat", Speech(samples, 10, events))
    assert spans == [
        SpokenSpan("CAT", 5, 20),
        SpokenSpan("SAW", 20, 40),
        SpokenSpan("ON", 40, 48),
        SpokenSpan("THE", 48, 60),
        SpokenSpan("BOAT", 70, 95),
    ]


@pytest.mark.parametrize("accent", [*SEEN_ACCENTS, *UNSEEN_ACCENTS])
def test_every_word_has_its_own_time(accent: str) -> None:
    text = "in the end, the man of the house was on the road to the sea and it is in a box at the end of it"
    speech = Synthesizer().speak(text, Voice(f"gmw/{accent}+m1"))
    assert len(speech.events) < len(text.split())  # espeak-ng joined some, or this test shows nothing
    spans = align_words(text, speech)
    assert [span.word for span in spans] == transcript(text).split()
    limits = [limit for span in spans for limit in (span.start, span.end)]
    assert limits == sorted(limits)
    assert limits[0] >= 0 and limits[-1] <= len(speech.samples_N)
    assert all(span.end - span.start > 0.02 * speech.sample_rate for span in spans)
    assert spans[3].start - spans[2].end > 0.1 * speech.sample_rate  # the comma


def test_noise_has_the_ratio_that_was_asked_for() -> None:
    rng = np.random.default_rng(0)
    speech = np.concatenate([np.zeros(8000), rng.standard_normal(16000), np.zeros(8000)])
    noise = 7.0 * rng.standard_normal(32000)
    for snr_db in (0.0, 12.0, 30.0):
        added = add_noise(speech, noise, snr_db) - speech
        assert 10 * np.log10(1.0 / np.mean(added**2)) == pytest.approx(snr_db, abs=0.2)


def test_pauses_do_not_count_as_active() -> None:
    tone = np.sin(np.arange(16000))
    assert active_power(np.concatenate([np.zeros(48000), tone])) == pytest.approx(0.5, rel=0.02)


def test_rooms_have_the_ratio_that_was_asked_for() -> None:
    for drr_db in (4.0, 16.0):
        response = room_response(drr_db, 0.3, np.random.default_rng(1))
        ratio = 10 * np.log10(response[0] ** 2 / np.sum(response[1:] ** 2))
        assert ratio == pytest.approx(drr_db, abs=1e-9)
        early, late = np.sum(response[200:1000] ** 2), np.sum(response[4000:] ** 2)
        assert 10 * np.log10(early / late) > 30


def test_reverberation_keeps_the_direct_sound_in_place() -> None:
    click = np.zeros(4000)
    click[500] = 1.0
    heard = reverberate(click, room_response(10.0, 0.2, np.random.default_rng(2)))
    assert len(heard) == len(click)
    assert np.abs(heard[:500]).max() < 1e-9
    assert heard[500] == pytest.approx(1.0)


@pytest.mark.parametrize("slope_db", [-6.0, -3.0, 0.0])
def test_noise_has_its_colour(slope_db: float) -> None:
    noise = colored_noise(160000, slope_db, np.random.default_rng(3))
    power = np.abs(np.fft.rfft(noise)) ** 2
    frequency = np.fft.rfftfreq(len(noise), 1 / 16000)

    def band(low: float) -> float:
        return float(np.mean(power[(frequency > 0.95 * low) & (frequency < 1.05 * low)]))

    assert np.mean(noise**2) == pytest.approx(1.0)
    assert 10 * np.log10(band(4000) / band(500)) == pytest.approx(3 * slope_db, abs=1.0)
