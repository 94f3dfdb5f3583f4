"""Trio and bytes: streams, TLS, time budgets and waiting, without WebSocket."""
