"""Accepting connections as a server."""
