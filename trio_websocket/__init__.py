"""A WebSocket library for Trio: client and server (RFC 6455), over wsproto."""

from . import _metadata
from ._impl import (
    HAS_SPEEDUPS as HAS_SPEEDUPS,
    Address as Address,
    Backoff as Backoff,
    BroadcastResult as BroadcastResult,
    CloseCode as CloseCode,
    CloseReason as CloseReason,
    ConnectionClosed as ConnectionClosed,
    ConnectionFailed as ConnectionFailed,
    ConnectionRejected as ConnectionRejected,
    ConnectionStatistics as ConnectionStatistics,
    ConnectionTimeout as ConnectionTimeout,
    DeflateParameters as DeflateParameters,
    DisconnectionTimeout as DisconnectionTimeout,
    Endpoint as Endpoint,
    Failure as Failure,
    HandshakeError as HandshakeError,
    MessageStream as MessageStream,
    PerMessageDeflate as PerMessageDeflate,
    ProxyError as ProxyError,
    Reconnect as Reconnect,
    RedirectError as RedirectError,
    WebSocketConnection as WebSocketConnection,
    WebSocketRequest as WebSocketRequest,
    WebSocketServer as WebSocketServer,
    broadcast as broadcast,
    connect_websocket as connect_websocket,
    connect_websocket_url as connect_websocket_url,
    open_websocket as open_websocket,
    open_websocket_url as open_websocket_url,
    serve_websocket as serve_websocket,
    stay_connected as stay_connected,
    wrap_client_stream as wrap_client_stream,
    wrap_server_stream as wrap_server_stream,
)
from ._version import __version__ as __version__

_metadata.set_public_module(__name__, vars())
