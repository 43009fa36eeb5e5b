"""What filters measure, how labels are written, and how long recordings are cut: values and laws."""

# Shapes: N samples.

from math import inf

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from whisper_stand_in import speech

from kdasr.common.errors import UserError
from kdasr.data.text_units import units
from kdasr.data.tokenizer import Tokenizer, train_tokenizer
from kdasr.labeling.activity import active_seconds
from kdasr.labeling.base import HeardWord, Label, Speech
from kdasr.labeling.filters import Candidate, compression_ratio, filters_of, most_repeats, verdicts
from kdasr.labeling.pieces import cut_at_pauses, join_labels, label_in_pieces
from kdasr.labeling.spoken import spoken
from kdasr.labeling.writing import LabelWriting
from kdasr.testing import tone


@pytest.mark.parametrize(
    ("words", "repeats"),
    [
        ("", 0),
        ("A B C", 1),
        ("A A B", 2),
        ("NO NO NO I SAID", 3),
        ("I AM SORRY I AM SORRY I AM SORRY", 3),
        ("A B A B A C", 2),
        ("SO I AM I AM I AM I AM", 4),
    ],
)
def test_words_that_are_said_in_a_row(words: str, repeats: int) -> None:
    assert most_repeats(words.split()) == repeats


DROPS = {
    "empty": Candidate(5.0, 4.0, ""),
    "spelling": Candidate(2.0, 1.5, "A B C", unknown="ж"),
    "language": Candidate(2.0, 1.5, "A B C", language="de"),
    "activity": Candidate(2.0, 0.0, "THANK YOU"),
    "rate": Candidate(10.0, 3.0, "A B C D E"),
    "repeats": Candidate(2.0, 1.5, "NO NO NO"),
    "compression": Candidate(20.0, 15.0, " ".join(["A B C D E F G H I"] * 3 + ["X Y Z A W E R T"] * 3)),
    "score": Candidate(2.0, 1.5, "A B C", score=-1.01),
    "no-speech": Candidate(2.0, 1.5, "A B C", no_speech=0.7),
    "agreement": Candidate(2.0, 1.5, "A B C", other="A B D"),
}


@pytest.mark.parametrize("name", DROPS)
def test_each_filter_drops_what_it_is_for_and_can_be_off(name: str) -> None:
    chosen = filters_of(["language=en,fr", "compression=1.5"])
    assert [entry.name for entry in chosen] == list(DROPS)

    def dropped_by(*settings: str) -> set[str]:
        found = filters_of(["language=en,fr", "compression=1.5", *settings])
        return {entry.name for entry, _, keeps in verdicts(found, DROPS[name]) if not keeps}

    assert dropped_by() - {"repeats"} == {name} - {"repeats"} and name in dropped_by()
    assert name not in dropped_by(f"{name}=off")
    good = Candidate(2.0, 1.5, "A B C", -0.2, 0.1, "en", "A B C")
    assert all(keeps for _, _, keeps in verdicts(chosen, good))
    # What a labeler does not say drops nothing.
    assert all(keeps for _, _, keeps in verdicts(chosen, Candidate(2.0, 1.5, "A B C")))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        # Article 1 of the declaration of human rights, at about 5 Chinese, 7 Japanese and 14 Thai
        # characters a second
        ("人人生而自由 在尊严和权利上一律平等", 3.5),
        ("すべての人間は生まれながらにして自由でありかつ尊厳と権利とについて平等である", 5.5),
        ("มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ", 4.5),
    ],
)
def test_writing_without_spaces_is_kept_and_compared_by_characters(text: str, seconds: float) -> None:
    def dropped_by(item: Candidate) -> set[str]:
        return {entry.name for entry, _, keeps in verdicts(filters_of(), item) if not keeps}

    one_other = text[:-1] + text[0]
    assert dropped_by(Candidate(seconds, seconds, text, other=one_other)) == set()
    assert dropped_by(Candidate(seconds, seconds, text, other=text[::-1])) == {"agreement"}
    assert dropped_by(Candidate(20 * seconds, seconds, text)) == {"rate"}
    assert dropped_by(Candidate(seconds / 5, seconds / 5, text)) == {"rate", "activity"}
    assert "repeats" in dropped_by(Candidate(2.0, 2.0, 3 * text[:4]))


@pytest.mark.parametrize("text", ["rate=4:1", "rate=2", "score=low", "score=nan", "repeats=1:2"])
def test_thresholds_of_another_form_are_refused(text: str) -> None:
    with pytest.raises(UserError, match=f"--filter {text}: expected"):
        filters_of([text])


def test_the_compression_ratio_is_whispers() -> None:
    # faster-whisper 1.2.1 says 2.35 of this hallucination, which it writes with a leading space.
    text = " I'm sorry, I'm sorry, I'm sorry, I'm sorry, I'm sorry."
    assert compression_ratio(text.strip()) == pytest.approx(2.35, abs=0.005)
    assert compression_ratio("") == 0.0


@pytest.mark.parametrize("level", [0.0, 1e-3, 0.1, 0.5])
def test_silence_and_noise_of_any_level_are_no_activity(level: float) -> None:
    noise_N = (level * np.random.default_rng(3).standard_normal(160000)).astype(np.float32)
    assert active_seconds(noise_N) == 0.0


def test_activity_is_where_something_is_heard() -> None:
    quiet_N = (1e-4 * np.random.default_rng(3).standard_normal(80000)).astype(np.float32)
    heard_N = np.concatenate([quiet_N, speech(4.0, 1), quiet_N])
    assert active_seconds(heard_N) == pytest.approx(4.0, abs=0.3)
    assert active_seconds(heard_N[:0]) == 0.0
    # The level of the recording changes nothing.
    assert active_seconds(0.05 * heard_N) == pytest.approx(active_seconds(heard_N), abs=0.2)


@settings(max_examples=30, deadline=None)
@given(st.floats(0.0, 9.0), st.floats(0.2, 4.0), st.integers(0, 9))
def test_pieces_follow_each_other_without_a_gap(seconds: float, longest: float, seed: int) -> None:
    samples_N = tone(seconds, seed)
    bounds = cut_at_pauses(samples_N, longest)
    assert sum(end - begin for begin, end in bounds) == len(samples_N)
    assert [begin for begin, _ in bounds] == [0, *(end for _, end in bounds[:-1])][: len(bounds)]
    assert all(0 < end - begin <= longest * 16000 for begin, end in bounds)


def test_a_long_recording_is_cut_in_its_pause_and_its_labels_are_joined() -> None:
    pause_N = np.zeros(8000, np.float32)
    samples_N = np.concatenate([tone(3.0, 1), pause_N, tone(2.5, 2)])
    ((_, cut), (_, end)) = cut_at_pauses(samples_N, 4.0)
    assert 3.0 < cut / 16000 < 3.5 and end == len(samples_N)

    def say_length(pieces: list[Speech]) -> list[Label]:
        texts = [f"n{len(piece.samples_N)} x" for piece in pieces]
        return [Label(text, -0.5, words=[HeardWord(text, 0.5, 1.0)]) for text in texts]

    empty = Speech("empty", samples_N[:0])
    found, nothing = label_in_pieces([Speech("long", samples_N), empty], 4.0, say_length)
    assert found.text == f"n{cut} x n{len(samples_N) - cut} x" and found.score == -0.5
    assert [word.start for word in found.words] == [0.5, round(cut / 16000 + 0.5, 4)]
    assert nothing == join_labels([]) and nothing.text == ""


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        (("你好世界", "再见"), "你好世界再见"),
        (("你好。", "「再见」"), "你好。「再见」"),
        (("สวัสดี", "ครับ"), "สวัสดีครับ"),
        (("안녕 세계", "네 네"), "안녕 세계 네 네"),
        (("你好 OK", "OK 再见"), "你好 OK OK 再见"),
    ],
)
def test_labels_of_pieces_are_joined_as_their_writing_is(parts: tuple[str, str], text: str) -> None:
    """Without spaces where it has none; scores count by what stands for words there."""
    first, second = (Label(part, value) for part, value in zip(parts, (-0.3, -0.6), strict=True))
    joined = join_labels([(0.0, first), (1.0, second)])
    assert joined.text == text
    sizes = [len(units(part)) for part in parts]
    assert joined.score == pytest.approx((-0.3 * sizes[0] - 0.6 * sizes[1]) / sum(sizes))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Mr. Hale paid $5 in 1907.", "mister hale paid five dollars in nineteen oh seven"),
        ("It cost $1.50, or 20%.", "it cost one dollar and fifty cents or twenty percent"),
        ("The 21st, 1,234 men", "the twenty first one thousand two hundred and thirty four men"),
        ("Tom & 3.5 miles", "tom and three point five miles"),
        ("At 7:05 in the 1860s", "at seven oh five in the eighteen sixties"),
        ("$2 million for B2", "two million dollars for b two"),
        ("$1.5 million, or £2.5", "one point five million dollars or two point five pounds"),
        ("$10,00 million", "one thousand million dollars"),
        ("Dr. Smith, St. Ives", "doctor smith saint ives"),
    ],
)  # fmt: skip
def test_figures_are_written_as_they_are_spoken(text: str, said: str) -> None:
    assert LabelWriting()(text, "en") == said
    # A language that nobody writes out keeps its figures.
    assert spoken(text, None) == text and spoken(text, "tlh") == text


@pytest.mark.parametrize(
    ("language", "text", "said"),
    [
        ("de", "3,5 von 1.907,2", "drei Komma fünf von eintausendneunhundertsieben Komma zwei"),
        ("fr-FR", "1\u202f500 euros, 1,200", "mille cinq cents euros, mille deux cents"),
        ("es", "3.5", "tres punto cinco"),
        ("ja", "1,234 3.5", "千二百三十四 三点五"),
        ("ja", "私は25個です", "私は二十五個です"),
        ("th", "มี25คน", "มียี่สิบห้าคน"),
    ],
)  # fmt: skip
def test_decimals_and_thousands_are_marked_as_the_language_does(language: str, text: str, said: str) -> None:
    assert " ".join(spoken(text, language).split()) == said


@pytest.mark.parametrize(("text", "language"), [("1,907", "am"), ("9" * 12, "am"), ("9" * 12, "te")])
def test_numbers_that_nothing_writes_out_stay_figures(text: str, language: str) -> None:
    assert spoken(text, language).strip() == text
    assert spoken("$" + 400 * "9", "en").split() == 400 * ["nine"] + ["dollars"]


PANGRAM = "quickly vex jump brawny glaze"
ALPHABETS = {
    f"CAFE DON'T STOP HIM {PANGRAM.upper()}": ("DON'T STOP FIVE", "numbers, marks ', upper, nmt_nfkc"),
    f"cafe dont stop him {PANGRAM}": ("dont stop five", "numbers, no marks, lower, nmt_nfkc"),
    f"Don't stop, Him! 0123456789 {PANGRAM}.": ("Don't stop! 5", "marks !',., nmt_nfkc"),
}


@pytest.mark.parametrize("letters", ALPHABETS)
def test_labels_are_written_as_the_pieces_spell(letters: str, tmp_path) -> None:
    written, name = ALPHABETS[letters]
    tokenizer: Tokenizer = train_tokenizer([letters] * 5, 64, tmp_path, at_most=True, model_type="char")
    writing = LabelWriting(tokenizer)
    assert writing.name == name
    text = writing("Don\u2019t stop! 5", "en")
    assert text == written
    assert tokenizer.decode(tokenizer.encode(text)) == text == writing(text, "en")
    assert writing.unknown(text) == "" and writing.unknown(writing("жук", "ru")).lower() == "жук"


def test_infinite_rates_are_dropped_and_zero_is_kept() -> None:
    (activity,) = [entry for entry in filters_of() if entry.name == "activity"]
    assert not activity.keeps(inf) and activity.keeps(None)
