"""The page in a real browser: what it shows is what the recognizer hears."""

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
import soundfile
from headless_browser import Browser, Tab, browser, find_browser
from numpy.typing import NDArray
from serving_helpers import Served, recognized, serving
from tone_spotter import WORDS, make_spotter, spoken

from kdasr.nn.context import Context
from kdasr.recognition.endpoint import EndpointRules
from kdasr.serving.access import Access, Token

PROGRAM = find_browser()
pytestmark = pytest.mark.skipif(
    PROGRAM is None, reason="no Chromium; install one, or name it in KDASR_BROWSER"
)

AUDIO = np.concatenate(
    [
        spoken([2, 0], [6000, 8000]),
        np.zeros(30000, np.float32),
        spoken([1, 3], [5000, 7000]),
        np.zeros(8000, np.float32),
    ]
)
TEXT = [f"{WORDS[2]} {WORDS[0]}", f"{WORDS[1]} {WORDS[3]}"]
LINES = (
    "[...document.querySelectorAll('.text')].map((t) => [...t.querySelectorAll('p')].map("
    "(p) => [...p.querySelectorAll('span')].map((s) => s.textContent).join(' ')))"
)


def example() -> tuple[NDArray[np.float32], int]:
    return AUDIO, 16000


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One browser for all; its microphone plays `AUDIO` at 44.1 kHz from the moment that it is opened."""
    assert PROGRAM is not None
    folder = tmp_path_factory.mktemp("browser")
    from kdasr.recognition.resample import resample

    soundfile.write(folder / "microphone.wav", resample(AUDIO, 16000, 44100), 44100, subtype="PCM_16")
    with browser(PROGRAM, folder / "profile", folder / "microphone.wav") as running:
        yield running


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    """A student and its teacher."""
    models = {
        "student": make_spotter(Context(left=8, chunk=4), endpoints=EndpointRules()),
        "teacher": make_spotter(Context.full()),
    }
    with serving(models, example=example) as server:
        yield server


def opened(chromium: Browser, served: Served):  # type: ignore[no-untyped-def]
    return chromium.tab(f"http://127.0.0.1:{served.port}/")


def ready(tab: Tab) -> None:
    tab.wait("document.getElementById('status').textContent === 'ready'")


def done(tab: Tab) -> None:
    tab.wait("document.getElementById('status').textContent.startsWith('done')")


def check_quiet(tab: Tab, served: Served) -> None:
    """Nothing went wrong, and nobody else was asked."""
    assert tab.problems == []
    own = (f"http://127.0.0.1:{served.port}/", f"ws://127.0.0.1:{served.port}/", "blob:", "data:")
    assert [url for url in tab.requests if not url.startswith(own)] == []


def test_microphone_shows_the_words_of_both_models(chromium: Browser, served: Served) -> None:
    with opened(chromium, served) as tab:
        ready(tab)
        assert tab.run("[...document.querySelectorAll('section button')].every((b) => b.disabled)")
        tab.run("document.getElementById('mic').click()")
        tab.wait(f"JSON.stringify({LINES}[0]) === {json.dumps(json.dumps(TEXT, separators=(',', ':')))}")
        tab.run("document.getElementById('stop').click()")
        done(tab)
        assert tab.run(LINES) == [TEXT, TEXT]
        assert tab.run("[...document.querySelectorAll('section button')].every((b) => !b.disabled)")
        assert tab.run("document.querySelectorAll('.open').length") == 0
        delays = tab.run("transcripts.map((t) => parseFloat(t.fields.first.textContent))")
        assert 0 < delays[0] < delays[1]
        assert tab.run("spectrogram.columns.some((c) => Math.max(...c) > 100)")
        check_quiet(tab, served)


def test_two_tabs_upload_and_download_at_once(chromium: Browser, served: Served, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "talk.wav", AUDIO, 16000, subtype="PCM_16")
    with opened(chromium, served) as first, opened(chromium, served) as second:
        for tab in (first, second):
            ready(tab)
            tab.run("document.getElementById('paced').checked = false")
        first.upload("#file", tmp_path / "talk.wav")
        second.run("document.getElementById('example').click()")
        for tab in (first, second):
            done(tab)
            assert tab.run(LINES) == [TEXT, TEXT]
            check_quiet(tab, served)
        expected = recognized(served.service.models[0].recognizer, AUDIO)
        saved = json.loads(first.run("transcripts[0].content('json')"))
        assert [(w["word"], w["start"], w["end"]) for s in saved["segments"] for w in s["words"]] == [
            (word.text, word.start, word.end) for segment in expected for word in segment.words
        ]
        assert first.run("transcripts[0].content('txt')") == "\n".join([*TEXT, ""])
        cues = first.run("transcripts[0].content('srt')").split("\n\n")
        assert [cue.strip().splitlines()[2] for cue in cues] == TEXT
        start = expected[0].words[0].start
        assert cues[0].splitlines()[1].startswith(f"00:00:0{int(start)},{round(1000 * (start % 1)):03d} --> ")


def test_dropped_connection_is_taken_up(chromium: Browser, served: Served) -> None:
    with opened(chromium, served) as tab:
        ready(tab)
        tab.run("document.getElementById('example').click()")
        tab.wait("connection && connection.heard > 2")
        tab.run("connection.socket.close()")
        tab.wait("connection.drops === 1")
        done(tab)
        assert tab.run(f"{LINES}[0].join(' ')") == " ".join(TEXT)
        assert tab.run("transcripts[0].segments.at(-1).words.at(-1).end") == pytest.approx(
            recognized(served.service.models[0].recognizer, AUDIO)[-1].words[-1].end, abs=0.09
        )


def test_page_asks_for_the_token(chromium: Browser) -> None:
    secret = "jackdaws-love-my/+sphinx"
    access = Access(token=Token(secret))
    recognizer = make_spotter(Context(left=8, chunk=4), endpoints=EndpointRules())
    with serving({"student": recognizer}, example=example, access=access) as server:
        with opened(chromium, server) as tab:
            tab.wait("!document.getElementById('ask').hidden")
            assert tab.run("document.getElementById('mic').disabled") is True
            enter = "document.getElementById('token').value = {}; document.getElementById('enter').click()"
            tab.run(enter.format("'wrong'"))
            tab.wait("document.getElementById('status').textContent === 'the token is wrong'")
            tab.run(enter.format(json.dumps(secret)))
            ready(tab)
            assert tab.run("document.getElementById('ask').hidden") is True
            tab.run("document.getElementById('paced').checked = false")
            tab.run("document.getElementById('example').click()")
            done(tab)
            assert tab.run(LINES) == [TEXT]
        with chromium.tab(f"http://127.0.0.1:{server.port}/#token={quote(secret, safe='')}") as tab:
            ready(tab)
            assert "token" not in tab.run("location.href")


def test_page_says_what_is_wrong(chromium: Browser, served: Served, tmp_path: Path) -> None:
    (tmp_path / "talk.wav").write_bytes(b"no audio")
    with opened(chromium, served) as tab:
        ready(tab)
        tab.upload("#file", tmp_path / "talk.wav")
        tab.wait("document.getElementById('status').className === 'error'")
        assert tab.run("document.getElementById('status').textContent").startswith("talk.wav: ")
        assert tab.run("document.getElementById('mic').disabled") is False
