"""`WebSocketConnection` and its parts."""
