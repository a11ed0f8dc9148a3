"""HTTP by uvicorn, with head and body of a response sent in one piece: one system call and one packet, not two."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class WholeResponses(HttpToolsProtocol):
    """uvicorn's own protocol on a transport that gathers."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Begin a connection."""
        self._gathering = Gathering(transport)
        super().connection_made(self._gathering)  # type: ignore[arg-type]  # it stands in for one

    def on_response_complete(self) -> None:
        """End a response; one without a body is sent now."""
        self._gathering.flush()
        super().on_response_complete()


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
