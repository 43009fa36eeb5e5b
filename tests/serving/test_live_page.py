"""The page in a real browser: what it shows is what the recognizer hears."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
import soundfile
from experiment_folder import run, write_experiment
from headless_browser import Browser, Tab, browser, find_browser
from numpy.typing import NDArray
from serving_helpers import Served, recognized, serving
from streaming_helpers import bursts
from tone_spotter import WORDS, make_spotter, spoken, spotter_parts

from kdasr.cli.stream import command as stream_command
from kdasr.nn.context import Context
from kdasr.recognition.endpoint import EndpointRules
from kdasr.recognition.resample import resample
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
def microphone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`AUDIO` at 44.1 kHz."""
    path = tmp_path_factory.mktemp("browser") / "microphone.wav"
    soundfile.write(path, resample(AUDIO, 16000, 44100), 44100, subtype="PCM_16")
    return path


@pytest.fixture(scope="module")
def chromium(microphone: Path) -> Iterator[Browser]:
    """One browser for all; its microphone plays the file from the moment that it is opened."""
    assert PROGRAM is not None
    with browser(PROGRAM, microphone.with_name("profile"), microphone) as running:
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


@contextmanager
def serve_command(folder: Path) -> Iterator[str]:
    """The address of `kdasr serve`, in a process of its own."""
    command = [sys.executable, "-m", "kdasr", "serve", str(folder), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        found = re.search(r"http://\S+", process.stdout.readline())
        try:
            assert found is not None
            yield found[0]
        finally:
            process.terminate()


def said_by_stream(folder: Path, file: Path) -> list[dict[str, Any]]:
    """The segments that `kdasr stream` prints."""
    lines = run(stream_command, folder, file, "--endpoints", "--json").output.splitlines()
    return [json.loads(line) for line in lines]


def test_words_are_those_of_the_command(chromium: Browser, tmp_path: Path) -> None:
    folder, pause = write_experiment(tmp_path / "exp"), np.zeros(40000, np.float32)
    audio = np.concatenate([bursts(3.0, 3), pause, bursts(2.0, 5)])
    soundfile.write(tmp_path / "talk.wav", audio, 16000, subtype="PCM_16")
    expected = said_by_stream(folder, tmp_path / "talk.wav")
    assert sum(len(segment["words"]) for segment in expected) > 3
    with serve_command(folder) as url, chromium.tab(url) as tab:
        ready(tab)
        tab.run("document.getElementById('paced').checked = false")
        tab.upload("#file", tmp_path / "talk.wav")
        done(tab)
        assert tab.run(f"{LINES}[0]") == [segment["text"] for segment in expected]
        saved = json.loads(tab.run("transcripts[0].content('json')"))["segments"]
    keys = ("word", "start", "end")
    assert [[tuple(word[key] for key in keys) for word in segment["words"]] for segment in saved] == [
        [tuple(word[key] for key in keys) for word in segment["words"]] for segment in expected
    ]
    assert [word["confidence"] for segment in saved for word in segment["words"]] == pytest.approx(
        [word["confidence"] for segment in expected for word in segment["words"]], abs=0.01
    )


def test_microphone_shows_the_words_of_both_models(
    chromium: Browser, served: Served, microphone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(
            "kdasr.cli.stream.load_recognizable", lambda *_, **__: spotter_parts(Context(left=8, chunk=4))
        )
        assert [segment["text"] for segment in said_by_stream(tmp_path, microphone)] == TEXT
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


def test_hours_cost_the_page_no_more_than_minutes(chromium: Browser, served: Served) -> None:
    times = "start: 4 * i, end: 4 * i + 1, shown: 4 * i + 2, latency: i"
    word = f"{{word: 'W' + i, {times}, confidence: 0.9, final: true}}"
    heard = (
        "{type: 'final', chunk_latency: 0.01, rtf: 0.02, decoded: 4 * i, start: 4 * i, continues_word: false"
    )
    with opened(chromium, served) as tab:
        ready(tab)
        tab.run(
            "for (let i = 0; i < 3000; i++)"
            f" transcripts[0].hear({heard}, text: 'W' + i, words: [{word}]}}, 0)"
        )
        lines = tab.run(f"{LINES}[0]")
        assert lines[0] == "" and lines[1:] == [f"W{i}" for i in range(2800, 3000)]
        first = "document.querySelector('.text p').textContent"
        assert tab.run(first) == "2,800 earlier segments are in the copy and the downloads."
        assert tab.run("document.querySelector('.text time').textContent") == "3:06:40"
        assert tab.run("document.getElementById('spoken').children.length") == 20
        assert tab.run("transcripts[0].delays.length") == 1000
        assert tab.run("transcripts[0].fields.median.textContent") == "2500.00 s"
        found = "transcripts[0].within({}, {}).map((s) => s.text)"
        assert tab.run(found.format(8000, 8009)) == ["W2000", "W2001", "W2002"]
        assert tab.run(found.format(8003, 8003)) == []
        assert tab.run("transcripts[0].content('txt')").split() == [f"W{i}" for i in range(3000)]
        tab.run("spectrogram.column = () => new Uint8Array(BANDS).fill(7)")
        tab.run("for (let i = 0; i < 7000; i++) spectrogram.push(new Float32Array(PACKET))")
        assert 60_000 <= tab.run("spectrogram.columns.length") <= 61_000
        length = tab.run("spectrogram.length")
        assert length == pytest.approx(70_000, abs=4)
        assert tab.run(f"[spectrogram.at(100), spectrogram.at({length - 1})[0]]") == [None, 7]
        tab.wait("Number(document.getElementById('place').min) > 90")
        assert tab.run("document.getElementById('clock').textContent") == "11:39"
        check_quiet(tab, served)


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


HEARD = "chunk_latency: 0.01, rtf: 0.02, start: 0"


def heard_words(*words: tuple[str, float]) -> str:
    """The words of a message, each of a second and with its start."""
    return json.dumps(
        [
            {"word": word, "start": start, "end": start + 1, "shown": start + 1.2, "latency": 0.2}
            | {"confidence": 0.9, "final": False}
            for word, start in words
        ]
    )


def test_words_whose_audio_is_gone_stay_when_a_connection_drops(chromium: Browser, served: Served) -> None:
    """After an open segment and an outage that are longer than what the page keeps."""
    words = heard_words(("ONE", 2), ("TWO", 4), ("THREE", 9.5))
    message = f"{{type: 'partial', {HEARD}, decoded: 10, continues_word: false, text: '', words: {words}}}"
    with opened(chromium, served) as tab:
        ready(tab)
        tab.run(f"transcripts[0].hear({message}, 0)")
        tab.run("transcripts[0].rewind(10)")
        assert tab.run("transcripts[0].content('txt')") == "ONE TWO\n"
        assert tab.run(f"{LINES}[0]") == ["ONE TWO"]
        # Where the audio is kept from the start of the segment, it is heard again.
        tab.run("transcripts[0].clear()")
        tab.run(f"transcripts[0].hear({message}, 0)")
        tab.run("transcripts[0].rewind(0)")
        assert tab.run("transcripts[0].content('txt')") == "\n"


def test_a_word_that_a_segment_cuts_is_one_word_in_subtitles(chromium: Browser, served: Served) -> None:
    head, rest = heard_words(("GOOD", 1), ("MOR", 2)), heard_words(("NING", 3), ("ALL", 4))
    with opened(chromium, served) as tab:
        ready(tab)
        for words, continues in ((head, "false"), (rest, "true")):
            tab.run(
                f"transcripts[0].hear({{type: 'final', {HEARD}, decoded: 5, continues_word: {continues},"
                f" text: 'any', words: {words}}}, 0)"
            )
        cues = tab.run("transcripts[0].content('srt')").strip().split("\n\n")
        assert [cue.splitlines()[1:] for cue in cues] == [
            ["00:00:01,000 --> 00:00:05,300", "GOOD MORNING ALL"]
        ]


def test_one_source_at_a_time(chromium: Browser, served: Served) -> None:
    """What is pressed while a file is read, or the browser asks for the microphone, begins nothing."""
    with opened(chromium, served) as tab:
        ready(tab)
        tab.run("document.getElementById('paced').checked = false")
        tab.run("$('example').click(); startMic(); $('example').click()")
        assert tab.run("$('mic').disabled && $('example').disabled && $('file').disabled") is True
        done(tab)
        assert tab.run(LINES) == [TEXT, TEXT]
        assert tab.run("Math.round(spectrogram.length / 10)") == round(len(AUDIO) / 1600)
        tab.run("startMic(); startMic()")
        tab.wait("connection && connection.heard > 1")
        opened_sockets = [url for url in tab.requests if url.startswith("ws:")]
        assert len(opened_sockets) == 2
        tab.run("$('stop').click()")
        done(tab)


def test_microphone_that_is_gone_ends_the_stream(chromium: Browser, served: Served) -> None:
    with opened(chromium, served) as tab:
        ready(tab)
        tab.run(
            "(() => { const devices = navigator.mediaDevices, ask = devices.getUserMedia.bind(devices);"
            " devices.getUserMedia = async (wanted) => (window.heard = await ask(wanted)); })()"
        )
        tab.run("$('mic').click()")
        tab.wait("connection && connection.heard > 1")
        tab.run("heard.getTracks()[0].dispatchEvent(new Event('ended'))")
        done(tab)
        assert tab.run("heard.getTracks()[0].readyState") == "ended"
        assert tab.run("source === null && !$('mic').disabled") is True


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
