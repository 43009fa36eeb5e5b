"""The client of `warm_kdasr`: runs a command by its server, as if it were that command."""

import json
import os
import signal
import socket
import sys

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def call(place: str, arguments: list[str]) -> int:
    """Have the server at a socket run a command; its exit status, negative where a signal ended it."""
    ignored = [number for number in FORWARDED if signal.getsignal(number) == signal.SIG_IGN]
    request = {
        "arguments": arguments,
        "folder": os.getcwd(),  # noqa: PTH109 - pathlib takes as long as all else here
        "environment": dict(os.environ),
        "ignored": ignored,
    }
    content = json.dumps(request).encode()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(place)
        socket.send_fds(connection, [len(content).to_bytes(4, "big")], [0, 1, 2])
        connection.sendall(content)
        for number in FORWARDED:  # those that are ignored as well: a command may heed them
            signal.signal(number, lambda number, _: connection.sendall(bytes([number])))
        status = connection.recv(4)
    return int.from_bytes(status, "big", signed=True) if status else 1


if __name__ == "__main__":
    found = call(sys.argv[1], sys.argv[2:])
    if found < 0:
        if -found in FORWARDED:
            signal.signal(-found, signal.SIG_DFL)
        os.kill(os.getpid(), -found)
    sys.exit(found)
