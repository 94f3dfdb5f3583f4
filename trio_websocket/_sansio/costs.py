"""What operations cost, how large buffers are, and where one way of doing things beats another.

These numbers tune speed, fairness and memory. Changing one changes no byte on the wire and no
result. Time-outs, and limits that a protocol sets, stand where they are used.
"""

from __future__ import annotations

# -- TLS

#: Bytes that OpenSSL encrypts or decrypts in one call. Its buffers keep the size of the largest
#: call for as long as the connection lives, and larger calls are hardly faster.
TLS_CALL_BYTES = 2**15
#: Calls whose ciphertext leaves in one write. So if the socket takes nothing, at most this many
#: times `TLS_CALL_BYTES` are encrypted too early.
TLS_CALLS_PER_WRITE = 4
#: Calls in a row before other tasks run. They take about a millisecond.
TLS_CALLS_PER_STEP = 64
#: Records that OpenSSL gets in one step. A record costs it up to 10 microseconds however short it
#: is, and it decrypts all that it has in one call. So a step takes about 2 milliseconds at most.
TLS_RECORDS_PER_STEP = 2**8
#: Bytes of TLS's own answers that may wait for the socket. Each KeyUpdate that asks for one in
#: return causes an answer of a few bytes, so a peer that sends them could fill the memory.
TLS_UNSENT_ANSWER_BYTES = 2**16
#: Bytes of ciphertext that one read of `TlsStream.receive_some` asks for.
TLS_READ_BYTES = 2**16
