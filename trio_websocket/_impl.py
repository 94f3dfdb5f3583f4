"""The import path of 0.12, which dependents use and replace names of in their tests."""

import logging

from ._broadcast import BroadcastResult as BroadcastResult, broadcast as broadcast
from ._client import (
    connect_websocket as connect_websocket,
    connect_websocket_url as connect_websocket_url,
    open_websocket as open_websocket,
    open_websocket_url as open_websocket_url,
    wrap_client_stream as wrap_client_stream,
)
from ._codec import HAS_SPEEDUPS as HAS_SPEEDUPS
from ._connection import WebSocketConnection as WebSocketConnection
from ._errors import (
    CloseReason as CloseReason,
    ConnectionClosed as ConnectionClosed,
    ConnectionFailed as ConnectionFailed,
    ConnectionRejected as ConnectionRejected,
    ConnectionTimeout as ConnectionTimeout,
    DisconnectionTimeout as DisconnectionTimeout,
    HandshakeError as HandshakeError,
)
from ._extensions import (
    DeflateParameters as DeflateParameters,
    PerMessageDeflate as PerMessageDeflate,
)
from ._options import Options
from ._request import (
    WebSocketRequest as WebSocketRequest,
    wrap_server_stream as wrap_server_stream,
)
from ._server import WebSocketServer as WebSocketServer, serve_websocket as serve_websocket
from ._sockets import Address as Address
from ._statistics import ConnectionStatistics as ConnectionStatistics
from ._streaming import MessageStream as MessageStream
from ._url import Endpoint as Endpoint

# Names that only 0.12 used; programs import them.
CONN_TIMEOUT = Options.connect_timeout
MESSAGE_QUEUE_SIZE = Options.message_queue_size
MAX_MESSAGE_SIZE = Options.max_message_size
RECEIVE_BYTES = Options.receive_buffer_size
logger = logging.getLogger("trio-websocket")


class TrioWebsocketInternalError(Exception):
    """An error that 0.12 raised when it could not unwrap an exception group. Never raised now."""
