"""Who gets a stream: tokens, addresses, TLS; and that nothing but the server's own pages is served."""

import base64
import http.client
import json
import shutil
import ssl
import subprocess
import tracemalloc
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from serving_helpers import PATIENCE, Served, received, send, serving, wait_for
from tone_spotter import WORDS, make_spotter, spoken
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from kdasr.common.errors import UserError
from kdasr.nn.context import Context
from kdasr.serving.access import Access, Addresses, Token, read_token
from kdasr.serving.server import Address

CONTEXT = Context(left=8, chunk=4)
SECRET = "jackdaws-love-my/+sphinx"
AUDIO = spoken([1, 3], [4000, 6000])
TEXT = f"{WORDS[1]} {WORDS[3]}"


def last_text(socket) -> str:  # type: ignore[no-untyped-def]
    """The words of a client on `/` that sends `AUDIO`."""
    send(socket, AUDIO)
    socket.send("Done")
    return str(received(socket)[0][-2]["text"])


def status(served: Served, path: str, **headers: str) -> int:
    request = urllib.request.Request(f"http://127.0.0.1:{served.port}{path}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_token_opens_streams_and_metrics() -> None:
    in_url = base64.urlsafe_b64encode(SECRET.encode()).decode().rstrip("=")
    with serving(make_spotter(CONTEXT), access=Access(token=Token(SECRET))) as served:
        for wrong in ({}, {"Authorization": "Bearer jackdaws"}, {"Authorization": "Basic !"}):
            for path in ("/", "/v1"):
                with pytest.raises(InvalidStatus) as refused, served.connect(path, additional_headers=wrong):
                    pass
                assert refused.value.response.status_code == 401
                assert json.loads(refused.value.response.body)["code"] == "token"
        with served.connect(additional_headers={"Authorization": f"Bearer {SECRET}"}) as socket:
            assert last_text(socket) == TEXT
        # What sherpa-onnx's Python client makes of --server-addr anyone:TOKEN@127.0.0.1
        password = SECRET.replace("/", "%2F").replace("+", "%2B")
        with connect(f"ws://anyone:{password}@127.0.0.1:{served.port}", open_timeout=PATIENCE) as socket:
            assert last_text(socket) == TEXT
        with served.connect("/v1", subprotocols=["kdasr", f"kdasr-token.{in_url}"]) as socket:
            assert socket.subprotocol == "kdasr"
        assert [status(served, path) for path in ("/", "/health", "/metrics")] == [200, 200, 401]
        right, wrong = f"Bearer {SECRET}", "Bearer jackdaws"
        assert [status(served, path, Authorization=right) for path in ("/health", "/metrics")] == [200, 200]
        assert status(served, "/health", Authorization=wrong) == 401


def test_token_comes_from_a_file_or_the_environment(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(f"{SECRET}\n")
    assert read_token(path, {}) == read_token(None, {"KDASR_TOKEN": SECRET}) == Token(SECRET)
    assert not read_token(None, {})
    assert SECRET not in repr(Access(token=Token(SECRET)))
    for content in ("", "short\n", f"{SECRET} {SECRET}", "ä" * 20):
        path.write_text(content)
        with pytest.raises(UserError, match="at least 16 printable"):
            read_token(path, {})
    with pytest.raises(UserError, match=r"--token-file .*none: No such file"):
        read_token(tmp_path / "none", {})


def test_addresses_are_counted_apart() -> None:
    now = 100.0
    addresses = Addresses(2, 3, lambda: now)
    with addresses.stream("a"), addresses.stream("a"):
        refusal = addresses.refusal("a")
        assert refusal is not None and "2 streams are open" in refusal[0]
        assert addresses.refusal("b") is None
    assert addresses.refusal("a") is None
    now = 130.0
    with addresses.stream("a"):
        pass
    refusal = addresses.refusal("a")
    assert refusal is not None and "3 streams were opened" in refusal[0]
    assert 30 <= refusal[1] <= 31
    now = 100.0 + 60.6
    assert addresses.refusal("a") is None


def test_addresses_that_open_nothing_leave_nothing_behind() -> None:
    """Whoever comes under ever new addresses while the server is full does not fill its memory."""
    addresses = Addresses(2, 3)
    tracemalloc.start()
    try:
        assert not any(addresses.refusal(f"2001:db8::{number:x}") for number in range(2000))
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert held < 100_000


def test_address_with_too_many_streams_gets_429() -> None:
    access = Access(addresses=Addresses(1, None))
    with serving(make_spotter(CONTEXT), access=access) as served:
        with served.connect() as first:
            with pytest.raises(InvalidStatus) as refused, served.connect("/v1"):
                pass
            assert refused.value.response.status_code == 429
            assert int(refused.value.response.headers["Retry-After"]) > 0
            assert last_text(first) == TEXT
        wait_for(lambda: served.service.num_streams == 0)
        with served.connect() as second:
            assert last_text(second) == TEXT


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make a certificate with")
def test_tls_from_files(tmp_path: Path) -> None:
    certificate, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=localhost",
    ]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    address = Address(port=0, certificate=certificate, key=key)
    assert address.url(1234) == "https://127.0.0.1:1234/"
    trusted = ssl.create_default_context(cafile=str(certificate))
    with serving(make_spotter(CONTEXT), address=address) as served:
        with connect(f"wss://127.0.0.1:{served.port}", ssl=trusted, open_timeout=PATIENCE) as socket:
            assert last_text(socket) == TEXT
        with urllib.request.urlopen(f"https://127.0.0.1:{served.port}/", context=trusted) as response:
            assert b"<!doctype html>" in response.read()
        with pytest.raises((OSError, http.client.HTTPException)):
            status(served, "/")  # without TLS
    certificate.write_text("no certificate")
    with pytest.raises(UserError, match="--certificate"), serving(make_spotter(CONTEXT), address=address):
        pass


def test_no_path_leads_to_a_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    up = "../" * 12 + str(tmp_path / "secret").lstrip("/")
    paths = [f"/{up}", "/" + up.replace("../", "%2e%2e/"), f"//{tmp_path}/secret", "/page.html", "/health/.."]
    with serving(make_spotter(CONTEXT)) as served:
        for path in paths:
            connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=PATIENCE)
            connection.request("GET", path)  # as it is: urllib would tidy it up
            assert connection.getresponse().status == 404, path
            connection.close()
        for method in ("POST", "PUT", "DELETE"):
            connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=PATIENCE)
            connection.request(method, "/", body=np.zeros(10).tobytes())
            assert connection.getresponse().status == 405
            connection.close()
