"""I/O with Trio that does not depend on WebSocket: streams, TLS, scheduling and locks."""
