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
    max_queue_seconds: float = 10.0
    """Audio of one stream that waits to be decoded; beyond it the server reads no more from that client."""
    idle_seconds: float = 60.0
    """Without audio for so long, a stream is finished as if the client had said so."""
    send_seconds: float = 20.0
    """A client that takes no message for so long is cut off."""
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
