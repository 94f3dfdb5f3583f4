"""A program that forwards bytes between its pipes and a TCP server, as ``ssh -W`` does."""

from __future__ import annotations

#: The source. Run it with the arguments ``-W HOST:PORT ANYTHING``.
RELAY = """
import os, socket, sys, threading

host, _, port = sys.argv[2].rpartition(":")
sock = socket.create_connection((host, int(port)))


def forward():
    while True:
        data = os.read(0, 65536)
        if not data:
            break
        sock.sendall(data)
    sock.shutdown(socket.SHUT_WR)


threading.Thread(target=forward, daemon=True).start()
try:
    while True:
        data = sock.recv(65536)
        if not data:
            break
        os.write(1, data)
except OSError:
    pass
"""
