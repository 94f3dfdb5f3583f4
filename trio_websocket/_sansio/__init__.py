"""Bytes in, events out: the protocol, without Trio, sockets or a clock."""
