"""Loaded by every Python process below a test: refuses each connection that would leave the machine, and writes it down."""

import os
import sys

LOOPBACK = ("127.", "::1", "localhost", "0.0.0.0", "::ffff:127.")


def _refuse(event: str, arguments: tuple[object, ...]) -> None:
    if event == "socket.connect":
        address = arguments[1]
        if not isinstance(address, tuple):
            return  # a Unix socket
        host = str(address[0])
    elif event in {"socket.getaddrinfo", "socket.gethostbyname"}:
        host = str(arguments[0] or "localhost")
        if isinstance(arguments[0], bytes):
            host = arguments[0].decode()
    else:
        return
    if not host.startswith(LOOPBACK) and host != os.uname().nodename:
        with open(os.environ["OUTSIDE_LOG"], "a") as log:
            log.write(f"{event} {host} by {sys.argv[:3]}\n")
        raise OSError(101, f"refused by the test: {event} {host}")


sys.addaudithook(_refuse)
