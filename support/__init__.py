"""Peers, streams and servers for the tests and for the tools.

Tests and tools don't import each other, so code that both need is in this folder. Public helpers
for the tests of other projects will move from here to `trio_websocket.testing`.
"""
