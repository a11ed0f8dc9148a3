"""HTTP by uvicorn, with head and body of a response sent in one piece: one system call and one packet, not two.

And with a bound on size and time of a request's head, which uvicorn has not: whoever sends one has shown no key yet.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_BYTES = 2**16  # of a head, beside what came in one piece with its first byte
HEAD_SECONDS = 10.0  # a client that asks nothing, or does not end the head of what it asks, is let go


class WholeResponses(HttpToolsProtocol):
    """uvicorn's own protocol on a transport that gathers, for clients that say within bounds what they ask."""

    _in_head = False
    _head_bytes = 0
    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Begin a connection."""
        self._gathering = Gathering(transport)
        super().connection_made(self._gathering)  # type: ignore[arg-type]  # it stands in for one
        self._late = self.loop.call_later(HEAD_SECONDS, self._gathering.close)

    def connection_lost(self, exc: Exception | None) -> None:
        """End a connection."""
        self._in_time()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what a client sends; one whose head is too large is refused."""
        was_in_head = self._in_head
        super().data_received(data)
        if was_in_head and self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES:
                self.send_400_response(f"The head of the request is larger than {HEAD_BYTES} bytes.")
                return
        # uvicorn's own clock ends with the first byte, whatever it is of.
        if self._late is None and (self.cycle is None or self.cycle.response_complete):
            self._late = self.loop.call_later(HEAD_SECONDS, self._gathering.close)

    def on_message_begin(self) -> None:
        """Begin the head of a request."""
        self._in_head, self._head_bytes = True, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """End the head of a request."""
        self._in_head = False
        self._in_time()
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        """End a response; one without a body is sent now."""
        self._gathering.flush()
        super().on_response_complete()

    def _in_time(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None


class Gathering:
    """A transport that holds the head of a response back until what comes next is written, or the response has ended."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._head = b""
        self.resume_reading = transport.resume_reading  # asked for each request
        self.is_closing = transport.is_closing

    def write(self, data: bytes) -> None:
        """Write data, or keep it if it is a head."""
        if self._head:
            data, self._head = self._head + data, b""
        elif data.startswith(b"HTTP/1.1 ") and not data.startswith(b"HTTP/1.1 100"):
            self._head = data
            return
        self._transport.write(data)

    def flush(self) -> None:
        """Write what is held back."""
        if self._head:
            self.write(b"")

    def close(self) -> None:
        """Write what is held back, then close."""
        self.flush()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
