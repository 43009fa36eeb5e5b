"""Who may open a stream: pages by their origin, clients by a token, addresses by how much they ask for."""

import base64
import binascii
import hmac
import os
import re
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from kdasr.common.errors import UserError

LOOPBACK = ("localhost", "127.0.0.1", "::1")
SUBPROTOCOL = "kdasr"
"""What a page asks for beside its token, and what the server agrees to."""
_TOKEN_PREFIX = "kdasr-token."
_SHORTEST_TOKEN = 16
_MOST_ADDRESSES = 10_000
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#@\s]+")


@dataclass(frozen=True)
class Origins:
    """Which web pages may open streams. Programs send no origin, and may always."""

    allowed: tuple[str, ...] = ()
    """Origins such as `https://example.org`; `*` is all of them."""
    is_local: bool = True
    """Whether the server listens to this machine alone: then the server's own page is one of a loopback name,
    so that no other name that leads here will do."""

    def __post_init__(self) -> None:
        """
        Raises:
            UserError: what no browser sends as an origin.
        """
        for origin in self.allowed:
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise UserError(
                    f"--allow-origin {origin}: expected scheme, name and perhaps port, such as "
                    "https://example.org, or *"
                )

    def allows(self, origin: str, host: str) -> bool:
        """Whether a page of `origin` may, when it asks for `host` (name and port)."""
        if "*" in self.allowed or origin in map(_as_sent, self.allowed):
            return True
        try:
            parts = urlsplit(origin)
            is_own = parts.netloc.lower() == host.lower() and bool(host)
            return is_own and (not self.is_local or parts.hostname in LOOPBACK)
        except ValueError:
            return False


def _as_sent(origin: str) -> str:
    """An origin as browsers send it: in lower case, without the port that its scheme has anyway."""
    scheme, _, host = origin.lower().partition("://")
    usual = {"http": ":80", "https": ":443"}.get(scheme)
    return f"{scheme}://{host.removesuffix(usual) if usual else host}"


@dataclass(frozen=True)
class Token:
    """A secret that clients must send; empty: none is asked for."""

    secret: str = field(default="", repr=False)

    def __bool__(self) -> bool:
        return bool(self.secret)

    def admits(self, headers: Mapping[str, str]) -> bool:
        """Whether a request has the token.

        As `Authorization: Bearer TOKEN`, as the password of `Authorization: Basic` (what clients make of
        `ws://anyone:TOKEN@host`), or, from pages, which cannot set headers, among the WebSocket's
        subprotocols in base64url.
        """
        if not self.secret:
            return True
        # All of them are compared, each in a time that says nothing about the secret.
        matches = [self._is(given) for given in _given(headers)]
        return any(matches)

    def _is(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(errors="surrogateescape"), self.secret.encode())


def _given(headers: Mapping[str, str]) -> Iterator[str]:
    """Everything in the headers of a request that may be the token."""
    kind, _, value = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        yield value.strip()
    elif kind.lower() == "basic":
        yield _decoded(value.strip()).partition(":")[2]
    for name in headers.get("sec-websocket-protocol", "").split(","):
        if name.strip().startswith(_TOKEN_PREFIX):
            yield _decoded(name.strip().removeprefix(_TOKEN_PREFIX))


def _decoded(text: str) -> str:
    """Base64 of either alphabet, with or without padding; empty if it is none."""
    try:
        plain = text.rstrip("=").replace("-", "+").replace("_", "/")
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True).decode()
    except (binascii.Error, ValueError):
        return ""


def read_token(path: Path | None, environment: Mapping[str, str] = os.environ) -> Token:
    """The token in the first line of a file, else in the environment's KDASR_TOKEN, else none.

    Raises:
        UserError: the file cannot be read, or the token is too short or has characters that headers lack.
    """
    if path is None:
        secret, source = environment.get("KDASR_TOKEN", ""), "KDASR_TOKEN"
        if not secret:
            return Token()
    else:
        source = f"--token-file {path}"
        try:
            secret = path.read_text(encoding="utf-8").partition("\n")[0].strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{source}: {getattr(error, 'strerror', None) or 'not a text file'}") from None
    if len(secret) < _SHORTEST_TOKEN or not all("!" <= char <= "~" for char in secret):
        raise UserError(
            f"{source}: expected at least {_SHORTEST_TOKEN} printable ASCII characters without spaces"
        )
    return Token(secret)


class Addresses:
    """How many streams each client address has open, and has opened within the last minute."""

    def __init__(
        self, max_streams: int | None, max_starts: int | None, now: Callable[[], float] = time.monotonic
    ) -> None:
        """
        Args:
            max_streams: of one address at a time; None: no limit.
            max_starts: of one address within a minute; None: no limit.
            now: the clock, in seconds.
        """
        self._max_streams, self._max_starts, self._now = max_streams, max_starts, now
        self._open: Counter[str] = Counter()
        self._starts: dict[str, deque[float]] = {}

    def refusal(self, address: str) -> tuple[str, int] | None:
        """Why the address gets no stream now, in words, and in how many seconds it may try again."""
        if self._max_streams is not None and self._open[address] >= self._max_streams:
            return f"{self._max_streams} streams are open from this address", 5
        if self._max_starts is not None and address in self._starts:
            starts = self._recent(address)
            if len(starts) >= self._max_starts:
                wait = max(1, round(starts[0] + 60.5 - self._now()))
                return f"{self._max_starts} streams were opened from this address within a minute", wait
        return None

    @contextmanager
    def stream(self, address: str) -> Iterator[None]:
        """Count a stream while it is open."""
        self._open[address] += 1
        if self._max_starts is not None:
            self._recent(address).append(self._now())
            self._forget()
        try:
            yield
        finally:
            self._open[address] -= 1
            if not self._open[address]:
                del self._open[address]

    def _recent(self, address: str) -> deque[float]:
        starts = self._starts.setdefault(address, deque())
        while starts and starts[0] <= self._now() - 60:
            starts.popleft()
        return starts

    def _forget(self) -> None:
        """Addresses that opened nothing for a minute; otherwise the table would only grow."""
        if len(self._starts) > _MOST_ADDRESSES:
            for address in list(self._starts):
                if not self._recent(address):
                    del self._starts[address]


@dataclass(frozen=True)
class Access:
    """All of them."""

    origins: Origins = field(default_factory=Origins)
    token: Token = field(default_factory=Token)
    addresses: Addresses = field(default_factory=lambda: Addresses(None, None))


def agreed_subprotocol(offered: Iterable[str]) -> str | None:
    """What the server answers to the subprotocols of a client: browsers need an answer if they offer any."""
    return SUBPROTOCOL if SUBPROTOCOL in offered else None
