"""What the server allows one client, and all of them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds of the server; times in seconds. The defaults are those of `kdasr serve`."""

    max_streams: int = 100
    """Streams at a time; a client beyond them gets HTTP 503 and may try again."""
    max_batch: int = 64
    """Streams decoded at a time."""
    max_message_bytes: int = 1 << 20
    """Of one message: 16 s of float32 at 16 kHz."""
    max_messages_per_second: float = 1000.0
    """Of one client; after a second's worth at once, the server reads them no faster."""
    max_queue_seconds: float = 10.0
    """Audio of one stream that waits to be decoded; beyond it the server reads no more from that client."""
    idle_seconds: float = 60.0
    """Without audio for so long, a stream is finished as if the client had said so."""
    send_seconds: float = 20.0
    """A client that takes no message for so long is cut off."""
    ping_seconds: float = 20.0
    """A client that says nothing is pinged so often."""
    pong_seconds: float = 40.0
    """One that answers no ping for so long, and sends nothing else, has gone."""
    start_seconds: float = 10.0
    """From the connection to a complete request, and on `/v1` to the start message."""
    drain_seconds: float = 10.0
    """From a request to stop to the end of the last stream."""
    max_phrases: int = 500
    """Biasing phrases of one stream."""
    max_phrase_chars: int = 200
    """Characters of one of them."""
    retry_seconds: int = 5
    """What a client is told to wait for when the server is full."""


class Pace:
    """Lets events through at a rate, after a burst of one second's worth."""

    def __init__(self, per_second: float) -> None:
        self._interval = 1 / per_second
        self._due = 0.0
        """When the events so far would have come at the rate."""

    def delay(self, now: float) -> float:
        """Seconds to wait before the next event, which comes at `now` (s, of any clock), is handled."""
        self._due = max(self._due, now) + self._interval
        return max(0.0, self._due - now - 1.0)
