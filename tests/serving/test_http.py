"""The page, health, metrics and who may connect."""

import io
import json
import re
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner
from serving_helpers import Served, serving, v1_stream
from tone_spotter import make_spotter, spoken
from websockets.exceptions import InvalidStatus

from kdasr.cli.serve import command
from kdasr.common.errors import UserError
from kdasr.nn.context import Context
from kdasr.serving.access import Origins
from kdasr.serving.example import SENTENCES, example_speech
from kdasr.serving.lane import Arrivals
from kdasr.serving.server import Address, listen

CONTEXT = Context(left=8, chunk=4)


def get(served: Served, path: str) -> tuple[dict[str, str], bytes]:
    with urllib.request.urlopen(f"http://127.0.0.1:{served.port}{path}", timeout=60) as response:
        return dict(response.headers), response.read()


def test_page_asks_nobody_but_its_server() -> None:
    with serving(make_spotter(CONTEXT)) as served:
        headers, body = get(served, "/")
    page = body.decode()
    assert headers["content-type"].startswith("text/html")
    policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
    assert (policy["default-src"], policy["connect-src"]) == ("'none'", "'self'")
    assert not re.findall(r"https?://|wss?://|@import|\bsrc=|<link(?! rel=\"icon\" href=\"data:,\")", page)


def test_health_and_metrics_count_streams() -> None:
    audio = spoken([1, 3], [4000, 6000])
    models = {"student": make_spotter(CONTEXT), 'the "other"': make_spotter(Context.full())}
    with serving(models, max_streams=3) as served:
        v1_stream(served, audio)
        with served.start_v1():
            health = json.loads(get(served, "/health")[1])
            headers, body = get(served, "/metrics")
    assert health == {
        "status": "ok",
        "streams": 1,
        "max_streams": 3,
        "token": False,
        "models": [{"name": "student", "chunk": 0.16}, {"name": 'the "other"', "chunk": None}],
    }
    assert headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    lines = body.decode().splitlines()
    samples = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert (samples["kdasr_streams"], samples["kdasr_streams_total"]) == ("1", "2")
    assert float(samples['kdasr_audio_seconds_total{model="student"}']) == pytest.approx(len(audio) / 16000)
    assert samples['kdasr_audio_seconds_total{model="the \\"other\\""}'] == "0"
    quantiles = [
        float(samples[f'kdasr_chunk_latency_seconds{{model="student",quantile="{q}"}}'])
        for q in (0.5, 0.9, 0.99)
    ]
    assert quantiles == sorted(quantiles) and quantiles[0] > 0
    described = {line.split()[2] for line in lines if line.startswith("# TYPE")}
    assert {re.match(r"[a-z_]+?(?=_sum|_count|\{|$)", name)[0] for name in samples} <= described  # type: ignore[index]


def test_example_is_speech_with_a_pause() -> None:
    with serving(make_spotter(CONTEXT), example=example_speech) as served:
        samples, rate = soundfile.read(io.BytesIO(get(served, "/example.wav")[1]), dtype="float32")
    loud = np.abs(samples).reshape(-1)[: len(samples) // 1600 * 1600].reshape(-1, 1600).max(axis=1) > 0.01
    runs = [len(run) for run in "".join("01"[int(x)] for x in loud).strip("0").split("1") if run]
    assert rate == 16000
    assert max(runs) >= 12 and len(SENTENCES) == 2
    with serving(make_spotter(CONTEXT)) as served, pytest.raises(urllib.error.HTTPError, match="404"):
        get(served, "/example.wav")


@pytest.mark.parametrize(
    ("origin", "host", "origins", "allowed"),
    [
        ("http://localhost:6006", "localhost:6006", Origins(), True),
        ("http://[::1]:6006", "[::1]:6006", Origins(), True),
        ("http://localhost:80", "localhost:6006", Origins(), False),
        ("https://evil.example", "localhost:6006", Origins(), False),
        ("http://evil.example:6006", "evil.example:6006", Origins(), False),
        ("null", "localhost:6006", Origins(), False),
        ("http://[", "[", Origins(), False),
        ("https://asr.example", "asr.example", Origins(is_local=False), True),
        ("https://asr.example", "127.0.0.1:6006", Origins(("https://asr.example",)), True),
        ("https://asr.example", "127.0.0.1:6006", Origins(("https://ASR.Example:443",)), True),
        ("https://asr.example:8443", "127.0.0.1:6006", Origins(("https://asr.example:443",)), False),
        ("null", "localhost:6006", Origins(("*",)), True),
    ],
)
def test_origins(origin: str, host: str, origins: Origins, allowed: bool) -> None:
    assert origins.allows(origin, host) == allowed


def test_pages_of_others_get_no_stream() -> None:
    with serving(make_spotter(CONTEXT)) as served:
        for path in ("/", "/v1"):
            with pytest.raises(InvalidStatus) as refused, served.connect(path, origin="https://evil.example"):
                pass
            assert refused.value.response.status_code == 403
        with served.connect(origin=f"http://127.0.0.1:{served.port}") as socket:
            socket.send("Done")
        assert 'kdasr_refused_total{reason="origin"} 2' in served.service.metrics.text(served.service.now())


def test_address_taken_or_unknown_is_a_user_error() -> None:
    with listen(Address(port=0)) as listening:
        port = listening.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port}: Address already in use"):
            listen(Address(port=port))
    with pytest.raises(UserError, match=r"--host no\.such\.host\.invalid: "):
        listen(Address("no.such.host.invalid"))
    local = {"127.0.0.1": True, "::1": True, "localhost": True, "0.0.0.0": False, "192.0.2.1": False}
    assert {host: Address(host).is_local for host in local} == local


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--key", "key.pem"], "--key needs --certificate"),
        (["--beam", "4"], "--beam needs --search beam"),
        (["--no-endpoints", "--keep-predictor"], "--keep-predictor needs --endpoints"),
        (["--example", "none.wav"], "none.wav"),
        ([], "no-such-folder"),
    ],
)
def test_command_names_the_mistake(arguments: list[str], message: str, tmp_path: Path) -> None:
    (tmp_path / "key.pem").touch()
    arguments = [str(tmp_path / word) if word == "key.pem" else word for word in arguments]
    folder = tmp_path if arguments else tmp_path / message
    result = CliRunner().invoke(command, [str(folder), *arguments])
    assert isinstance(result.exception, UserError)
    assert message in str(result.exception)


def test_arrivals_forget_what_is_old_and_join_crumbs() -> None:
    arrivals = Arrivals()
    for crumb in range(2000):
        arrivals.add(0.001, crumb / 1000)
    assert len(arrivals._ends) < 250
    assert arrivals.at(0.5) == pytest.approx(0.5, abs=0.02)
    for packet in range(15000):
        arrivals.add(0.02, 2 + packet / 50)
    assert arrivals.seconds == pytest.approx(302)
    assert len(arrivals._ends) < 12000
    assert arrivals.at(301.5) == pytest.approx(301.5, abs=0.03)
    assert 0 < arrivals.at(0.0) < 301.5
