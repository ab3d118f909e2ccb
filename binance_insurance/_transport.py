"""One attempt, one answer: the only place where bytes go out and foreign errors come in.

What aiohttp, the operating system and TLS raise is translated here, once, to the most specific
error of ours, with the original chained. Whether an error proves that nothing was sent decides
whether its weight comes back, so in doubt it is not a `ConnectError`.
"""

from __future__ import annotations

import asyncio
import ssl
import weakref
from abc import ABC, abstractmethod
from functools import lru_cache
from math import inf
from typing import TYPE_CHECKING, TypedDict

import aiohttp
from msgspec import Struct
from yarl import URL

from ._ended import end_connection, end_generator
from ._text import one_line, without_password
from ._timeouts import Timeouts
from .errors import ConnectError, RequestTimeoutError, TransportError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

    from aiohttp import (
        ClientHandlerType,
        ClientMiddlewareType,
        ClientRequest,
        ClientResponse,
        StreamReader,
    )
    from aiohttp.connector import Connection

ClientSession = aiohttp.ClientSession  # so that no other module names aiohttp

MAX_BODY = 8 * 1024 * 1024
_CONNECT_TIMEOUT = 5.0
# Hosts that cannot be spelled in DNS are a UnicodeError.
_FOREIGN = (aiohttp.ClientError, OSError, ssl.SSLError, UnicodeError)
# After these, aiohttp sends a GET request again by itself.
_SENT_AGAIN = (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError)


class Answer(Struct, frozen=True, gc=False):
    """One answer.

    Attributes:
        status: the HTTP status.
        headers: the headers, in any case.
        body: the whole decompressed body; empty if it did not arrive whole.
        failure: why the body did not arrive whole, or None. Status and headers count even so.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    failure: TransportError | None = None


class Transport:
    """Sends GET requests on an aiohttp session, its own or a shared one.

    Args:
        base_url: scheme and host of the exchange; a path in it is kept.
        session: a session to use and not to close; None makes one at the first request.
        attempt_timeout: seconds for a whole attempt, connecting included.
        max_connections: connections of its own session.

    Raises:
        ValueError: base_url is not an http(s) URL.
    """

    def __init__(
        self,
        base_url: str,
        session: aiohttp.ClientSession | None,
        *,
        attempt_timeout: float,
        max_connections: int,
    ) -> None:
        url = URL(base_url)
        if url.scheme not in {"http", "https"} or not url.host:
            shown = one_line(without_password(base_url))
            raise ValueError(f"base_url must be an http or https URL, not {shown!r}")
        self._api = url.with_query(None).with_fragment(None) / "fapi/v1"
        self._url = lru_cache(maxsize=4096)(self._build_url)
        self._session = session
        self._keeper: AsyncGenerator[aiohttp.ClientSession] | None = None
        self._holder: weakref.finalize[..., Transport] | None = None
        self._max_connections = max_connections
        self._timeouts = Timeouts(attempt_timeout)
        self._connect_timeout = _connect_timeout(min(_CONNECT_TIMEOUT, attempt_timeout))
        self._options: _Options = (
            {"allow_redirects": False}
            if session is None
            else _options_for(session, self._connect_timeout)
        )

    async def get(self, endpoint: str, symbol: str | None) -> Answer:
        """Ask once and read the answer.

        Args:
            endpoint: the last part of the path, such as `insuranceBalance`.
            symbol: the query parameter, or None.

        Raises:
            ConnectError: nothing was sent.
            RequestTimeoutError: no answer in time.
            TransportError: the connection broke before an answer.
        """
        session = self._session
        if session is None or session.closed:
            session = await self._open(symbol)
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine runs in a task
        response: aiohttp.ClientResponse | None = None
        self._timeouts.start(task)
        try:
            response = await session.request("GET", self._url(endpoint, symbol), **self._options)
            content = response.content
            # Most answers are here at once.
            body = content.read_nowait() if content.is_eof() else await _read(content)
            return Answer(response.status, response.headers, body)
        except _FOREIGN as error:
            cause: BaseException = error
            failure = _translate(error, symbol)
        except asyncio.CancelledError as error:
            if not self._timeouts.stop(task) or task.uncancel():
                raise
            cause = error
            seconds = self._timeouts.seconds
            failure = RequestTimeoutError(
                f"no complete answer within {seconds:.3g} s", symbol=symbol
            )
        finally:
            self._timeouts.stop(task)
            if response is not None and not response.closed:  # it is when read to its end
                response.close()
        if response is None:
            raise failure from cause
        failure.__cause__ = cause
        return Answer(response.status, response.headers, b"", failure)

    def restart(self, *, forked: bool) -> None:
        """Leave what belonged to a loop that has ended, or to the parent of a forked process.

        A session that was given is left as it is.
        """
        self._timeouts.close()
        keeper, session = self._keeper, self._session
        if keeper is None or session is None:
            return
        self._keeper = self._session = None
        if isinstance(session.connector, _Connector):
            session.connector.end(forked=forked)
        end_generator(keeper)  # its session counts as closed now

    async def aclose(self) -> None:
        """Close the session if it is our own."""
        self._timeouts.close()
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            self._session = None
            await keeper.aclose()

    async def _open(self, symbol: str | None) -> aiohttp.ClientSession:
        """Open our own session; once more where its event loop has closed it."""
        if self._session is not None and self._keeper is None:
            raise ConnectError("the aiohttp session that was given is closed", symbol=symbol)
        self._keeper = _keep_session(self._max_connections, self._connect_timeout)
        # Held from outside as well, so that the garbage collector takes the session's owner
        # first. Then asyncio finishes the generator, which closes the session.
        if self._holder is not None:
            self._holder.detach()
        self._holder = weakref.finalize(self, _let_go, self._keeper)
        self._holder.atexit = False
        self._session = await anext(self._keeper)
        return self._session

    def _build_url(self, endpoint: str, symbol: str | None) -> URL:
        url = self._api / endpoint
        return url if symbol is None else url.with_query(symbol=symbol)


class _Connector(aiohttp.TCPConnector):
    """The connections of our own session, which can be left behind without their loop."""

    def end(self, *, forked: bool) -> None:
        """Close all connections by hand, or leave them to the parent of a forked process."""
        self._closed = True  # so that nothing else closes them
        idle = [protocol for each in self._conns.values() for protocol, _ in each]
        for protocol in () if forked else (*idle, *self._acquired):
            end_connection(protocol.transport)


class _InterruptedError(aiohttp.ClientError):
    """The connection broke after the request went out.

    aiohttp would send the request again by itself, at a weight that nobody counts, since it does
    so when a kept-alive connection breaks before the answer. The exchange may have counted the
    request by then, so sending again is the retry policy's to decide: aiohttp gets this error
    instead, which it leaves alone.
    """


class _SendOnce(aiohttp.ClientResponse):
    """The response of our own session: for one that cannot start, nothing is sent again.

    It costs a request less than a middleware does.
    """

    async def start(self, connection: Connection) -> aiohttp.ClientResponse:
        try:
            # Named, since super() would look it up at each request.
            return await aiohttp.ClientResponse.start(self, connection)
        except _SENT_AGAIN as error:
            raise _interrupted(error) from error


async def _send_once(request: ClientRequest, send: ClientHandlerType) -> aiohttp.ClientResponse:
    """Do as `_SendOnce` does, as a middleware, on a session that was given."""
    try:
        return await send(request)
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
        raise
    except _SENT_AGAIN as error:
        raise _interrupted(error) from error


def _interrupted(error: aiohttp.ClientConnectionError) -> _InterruptedError:
    return _InterruptedError(str(error) or "the exchange closed the connection")


class PaysWeight(ABC):
    """A middleware that takes request weight; a client, which takes it itself, leaves it out."""

    @abstractmethod
    async def __call__(self, request: ClientRequest, send: ClientHandlerType) -> ClientResponse:
        """Take weight for a request and send it."""


class _Options(TypedDict, total=False):
    """What a request says beyond what its session says already."""

    timeout: aiohttp.ClientTimeout
    allow_redirects: bool
    raise_for_status: bool
    auto_decompress: bool
    middlewares: tuple[ClientMiddlewareType, ...]


def _options_for(session: aiohttp.ClientSession, timeout: aiohttp.ClientTimeout) -> _Options:
    """Say what a session that was given may say otherwise."""
    # A request's middlewares replace its session's, so those go along.
    given: tuple[ClientMiddlewareType, ...] = getattr(session, "_middlewares", ())
    own = (each for each in given if not isinstance(each, PaysWeight))
    return {
        "timeout": timeout,
        "allow_redirects": False,
        "raise_for_status": False,
        "auto_decompress": True,
        "middlewares": (*own, _send_once),
    }


async def _keep_session(
    max_connections: int, timeout: aiohttp.ClientTimeout
) -> AsyncGenerator[aiohttp.ClientSession]:
    """Open a session and close it when closed itself.

    Also when a client is forgotten, or its loop ends first: asyncio finishes generators then.
    """
    session = aiohttp.ClientSession(
        connector=_Connector(limit=max_connections),
        cookie_jar=aiohttp.DummyCookieJar(),
        response_class=_SendOnce,
        timeout=timeout,
    )
    try:
        yield session
    finally:
        await session.close()


def _let_go(keeper: AsyncGenerator[aiohttp.ClientSession]) -> None:
    """Drop the last reference to a generator."""


def _connect_timeout(seconds: float) -> aiohttp.ClientTimeout:
    # aiohttp would round what is longer than the threshold up to a full second of its clock.
    return aiohttp.ClientTimeout(total=None, connect=seconds, ceil_threshold=inf)


class _TooLargeError(aiohttp.ClientPayloadError):
    """The body is larger than any answer of the exchange."""


async def _read(content: StreamReader) -> bytes:
    """Read the body in pieces, so that one too large is dropped before it fills the memory."""
    body = await content.readany()
    while not content.at_eof():
        body += await content.readany()
        if len(body) > MAX_BODY:
            break
    if len(body) > MAX_BODY:
        raise _TooLargeError
    return body


def _translate(error: Exception, symbol: str | None) -> TransportError:
    why = _why(error)
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return ConnectError(f"no connection in time: {why}", symbol=symbol)
    if isinstance(error, aiohttp.ClientSSLError):
        return ConnectError(f"no trusted TLS connection: {why}", symbol=symbol)
    if isinstance(error, aiohttp.ClientConnectorError):
        why = _why(error.os_error)
        return ConnectError(f"cannot connect to {error.host}:{error.port}: {why}", symbol=symbol)
    if isinstance(error, (aiohttp.InvalidURL, UnicodeError)):
        return ConnectError(f"cannot connect: {why}", symbol=symbol)
    if isinstance(error, TimeoutError):  # of a shared session's own making
        return RequestTimeoutError(f"no complete answer in time: {why}", symbol=symbol)
    if isinstance(error, _TooLargeError):
        return TransportError(f"the answer is larger than {MAX_BODY >> 20} MiB", symbol=symbol)
    if isinstance(error, aiohttp.ClientPayloadError):
        return TransportError(f"the answer was cut off: {why}", symbol=symbol)
    return TransportError(f"the connection broke: {why}", symbol=symbol)


def _why(error: Exception) -> str:
    """Say in one line what went wrong, without the name of a class."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return f"{error.host}:{error.port}: {_why(error.certificate_error)}"
    if isinstance(error, (aiohttp.ClientPayloadError, UnicodeError)):  # whose text has the cause's
        error = error.__cause__ if isinstance(error.__cause__, Exception) else error
    return " ".join(str(error).split()) or "no reason is given"
