"""`stay_connected`: run a session, and open a new connection whenever one is lost."""

from __future__ import annotations

import inspect
import logging
import ssl
from typing import Awaitable, Callable, Iterable, Optional, Union

import trio

from .._io.interrupt import call_sync_or_async, call_unprotected
from .._sansio.compat import Unpack
from .._sansio.errors import DisconnectionTimeout, describe, printable
from .._sansio.handshake import ExtraHeaders, check_headers
from .._sansio.options import check_number, with_signature_of
from .backoff import Backoff, Failure
from .block import ConnectionBlock
from .options import ClientKeywords, ClientOptions, is_open_stream
from .session import Done, Lost, Session, T, run_session
from .target import Target, target_of_url

HeadersFunction = Callable[[], Union[ExtraHeaders, Awaitable[Optional[ExtraHeaders]], None]]
Retry = Callable[[Failure], Union[float, Awaitable[Optional[float]], None]]
OnRetry = Callable[[Failure, float], object]
Wake = Callable[[], Awaitable[object]]

logger = logging.getLogger("trio-websocket")

# The minimum number of seconds to wait, even if `wake` returns earlier. Otherwise, a `wake` that
# always returned at once would make the client reconnect without a pause.
_LEAST_WAIT = 1
# The maximum length of an error's text in a log record.
_MAX_ERROR_TEXT = 300


@with_signature_of(ClientOptions)
@trio.lowlevel.enable_ki_protection
async def stay_connected(
    session: Session[T],
    url: object,
    ssl_context: ssl.SSLContext | None = None,
    *,
    subprotocols: Iterable[str] | None = None,
    extra_headers: ExtraHeaders | HeadersFunction | None = None,
    retry: Retry = Backoff(),  # noqa: B008 # it is immutable
    reset_after: float = 60,
    on_retry: OnRetry | None = None,
    wake: Wake | None = None,
    **options: Unpack[ClientKeywords],
) -> T:
    """Run a session over a connection, and again over a new one whenever the connection is lost.

    ::

        async def session(ws):
            async for message in ws:
                ...

        await stay_connected(session, "wss://example.org/", ping_interval=20)

    The session is *done* if it returned a value other than None, if it returned after calling
    ``ws.aclose()``, or if it returned while the connection was open. In these cases, this function
    closes the connection and returns the session's return value.

    The connection is *lost* if the session returned None after the connection had ended, or if it
    raised :exc:`Reconnect`, this connection's :exc:`ConnectionClosed`, or a Trio channel error
    caused by that. Such exceptions are removed from an exception group; if nothing else is left,
    the connection is lost.

    Any other exception from the session is raised unchanged, after the connection is closed with
    code 1011. This includes ``ConnectionClosed`` from other connections, and ``ConnectionClosed``
    from this one after the session has called ``ws.aclose()``.

    After a loss or a failed attempt to connect, including the first attempt, ``retry`` chooses the
    delay or gives up. This function then logs the failure, calls ``on_retry``, waits for the delay,
    and tries again. Nothing is buffered: a session must resend any messages that a lost connection
    did not deliver.

    If cancelled, the connection is closed with code 1001, without waiting for the server.

    :param session: An async function. It is called with each new connection.
    :param url: As in :func:`open_websocket_url`, or a function without arguments that returns the
        URL. The function is called before each attempt, and may be async. If it raises an
        Exception, the attempt counts as failed.
    :param ssl_context: As in :func:`open_websocket_url`.
    :param subprotocols: As in :func:`open_websocket`.
    :param extra_headers: As in :func:`open_websocket`, or a function without arguments that returns
        the headers. It is called in the same way as ``url``.
    :param retry: A function, which may be async. It is called with a :class:`Failure`, and returns
        the number of seconds to wait, or None to raise ``failure.exception``.
    :param reset_after: Seconds. After a session that lasted at least this long, ``failure.attempt``
        and ``failure.outage_seconds`` start over.
    :param on_retry: A function, which may be async. It is called before each wait, with the
        :class:`Failure` and the delay in seconds.
    :param wake: An async function. It is called during each wait. When it returns, the wait ends
        early, but lasts at least 1 second or the whole delay, whichever is shorter. It is cancelled
        when the delay has passed.
    :param options: See :ref:`options` and :ref:`client-options`. ``stream`` must be a function.
    :returns: The session's return value.
    :raises TypeError: An argument has the wrong type, or ``retry`` returned something other than a
        number or None.
    :raises ValueError: An argument is out of range.
    :raises Exception: The exception that the session, ``retry``, ``on_retry`` or ``wake`` raised;
        or ``failure.exception`` if ``retry`` returned None.
    """
    checked = ClientOptions.of_call(stay_connected, options)
    _check_arguments(session, retry, reset_after, on_retry, wake, checked)
    server = _Server(url, ssl_context, subprotocols, extra_headers, checked)
    outage = _Outage(reset_after)
    while True:
        outcome = await _attempt(server, session)
        if isinstance(outcome, Done):
            return outcome.value
        try:
            delay = await _delay_after(outage.failure(outcome), server.name, retry, on_retry)
        finally:
            del outcome  # its exception would keep the session's variables alive
        await _wait(delay, wake)


async def _attempt(server: _Server, session: Session[T]) -> Done[T] | Lost:
    """Connect and run a session.

    :raises BaseException: The session failed.
    """
    is_open = False
    outcome: Done[T] | Lost | None = None
    try:
        async with ConnectionBlock(await server.target()) as ws:
            is_open = True
            outcome = await run_session(session, ws)
    except Exception as exc:
        if not is_open:
            return Lost(exc, None)
        if outcome is None or not isinstance(exc, DisconnectionTimeout):
            raise
        logger.info("%s: %s", server.name, exc)
    assert outcome is not None
    try:
        return outcome
    finally:
        del outcome  # since Python 3.13, its exception's traceback refers to this frame


async def _delay_after(
    failure: Failure, name: str, retry: Retry, on_retry: OnRetry | None
) -> float:
    """Return the delay before the next attempt, after logging it and calling `on_retry`.

    :param name: The name of the server, for the log record.
    :raises Exception: ``failure.exception``, if ``retry`` returned None.
    """
    try:
        delay = _checked_delay(await call_sync_or_async(retry, failure))
        if delay is None:
            raise failure.exception
        text = printable(describe(failure.exception), _MAX_ERROR_TEXT)
        logger.info(
            "%s: failure %d: %s; next attempt in %.1f s", name, failure.attempt, text, delay
        )
        if on_retry is not None:
            await call_sync_or_async(on_retry, failure, delay)
    finally:
        del failure  # break the reference cycle through the traceback
    return delay


async def _wait(delay: float, wake: Wake | None) -> None:
    """Wait until the delay has passed, or until `wake` returns."""
    least = delay if wake is None else min(delay, _LEAST_WAIT)
    earliest = trio.current_time() + least
    if wake is not None:
        with trio.move_on_after(delay):
            await call_unprotected(wake)
    await trio.sleep_until(earliest)


class _Outage:
    """Counts the failures of an outage. A session of at least `reset_after` seconds ends it."""

    def __init__(self, reset_after: float) -> None:
        self._reset_after = reset_after
        self._start = trio.current_time()
        self._failures = 0

    def failure(self, lost: Lost) -> Failure:
        """Count a failure, and return its description for `retry`."""
        now = trio.current_time()
        if lost.open_seconds is not None and lost.open_seconds >= self._reset_after:
            self._start, self._failures = now, 0
        self._failures += 1
        open_seconds = lost.open_seconds or 0
        return Failure(lost.exception, open_seconds, self._failures, now - self._start)


class _Server:
    """The server to connect to: arguments checked once, and functions called for each attempt."""

    def __init__(
        self,
        url: object,
        ssl_context: ssl.SSLContext | None,
        subprotocols: Iterable[str] | None,
        extra_headers: ExtraHeaders | HeadersFunction | None,
        options: ClientOptions,
    ) -> None:
        """The parameters are the same as for `stay_connected`.

        :raises TypeError: An argument has the wrong type.
        :raises ValueError: An argument is out of range.
        """
        #: The host and port of the latest attempt, for log records.
        self.name: str = "the server"
        self._url = url
        self._ssl_context = ssl_context
        self._options = options
        # An iterator can be used only once.
        self._extra_headers = (
            extra_headers if callable(extra_headers) else check_headers(extra_headers)
        )
        # If the URL is not known yet, check the other arguments with a placeholder.
        target = self._target_of(
            "wss://localhost/" if callable(url) else url,
            None if callable(self._extra_headers) else self._extra_headers,
            subprotocols,
        )
        target.handshake()
        self._subprotocols = target.subprotocols

    async def target(self) -> Target:
        """Return the target of the next attempt.

        :raises Exception: An application function raised it, or returned an invalid value.
        """
        url, headers = self._url, self._extra_headers
        if callable(url):
            url = await call_sync_or_async(url)
        if callable(headers):
            headers = await call_sync_or_async(headers)
        target = self._target_of(url, headers, self._subprotocols)
        self.name = target.name
        return target

    def _target_of(
        self, url: object, headers: ExtraHeaders | None, subprotocols: Iterable[str] | None
    ) -> Target:
        return target_of_url(url, self._ssl_context, subprotocols, headers, self._options)


def _check_arguments(
    session: object,
    retry: object,
    reset_after: object,
    on_retry: object,
    wake: object,
    options: ClientOptions,
) -> None:
    _check_function("session", session)
    _check_function("retry", retry)
    check_number("reset_after", reset_after)
    for name, function in (("on_retry", on_retry), ("wake", wake)):
        if function is not None:
            _check_function(name, function)
    if is_open_stream(options.stream):
        text = "stream must be an async function (host, port) -> Stream in stay_connected(), as "
        raise TypeError(f"{text}each attempt needs a new stream, not {options.stream!r:.100}")


def _check_function(name: str, value: object) -> None:
    if not callable(value):
        hint = ""
        if inspect.iscoroutine(value):
            hint = f"; pass {value.__qualname__} itself, without calling it"
        raise TypeError(f"{name} must be a function, not {value!r:.100}{hint}")


def _checked_delay(delay: object) -> float | None:
    """Return the delay if it is valid.

    :raises TypeError: It is not a number of seconds or None.
    :raises ValueError: It is negative.
    """
    if delay is None:
        return None
    # A function that returns True for "again" is an easy mistake, and bool is an int.
    if isinstance(delay, bool) or not isinstance(delay, (int, float)):
        raise TypeError(f"retry() must return a number of seconds or None, not {delay!r:.100}")
    check_number("the delay that retry() returned", delay)
    return delay
