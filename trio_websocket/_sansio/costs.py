"""The costs of operations, the sizes of buffers, and the thresholds between alternatives.

These numbers tune speed, fairness and memory use. They never change a result; they only determine
when work is done and how it is divided. Timeouts, limits on what a peer can send, and constants of
the protocols are defined where they are used.

How the library shares the CPU
==============================

Trio runs a task until it blocks. A task that never blocks would starve all others, so it must
yield to the scheduler from time to time. One pass of the scheduler costs as much as processing
several small messages, so the library can't afford to yield for each message. Instead, each
connection has a `CheckpointBudget` of `COST_PER_TURN`, measured in **rough microseconds**, and its
operations spend from this budget. When the budget is used up, the next checkpoint yields to the
scheduler and renews the budget.

Costs are integers. The cost of an operation on `size` bytes is a constant plus
``size // ..._BYTES_PER_COST``.

Work whose cost is not known in advance is done in steps, each limited by a bound from this module.
With the default limits, no step takes longer than 5 milliseconds, no matter what a peer sends.
This assumes a machine that copies 1 MiB in 0.1 milliseconds.
"""

from __future__ import annotations

# -- Sharing the CPU, in rough microseconds

#: The cost after which other tasks run. They are delayed by about a millisecond at most, and the
#: scheduler's overhead stays small compared with the work.
COST_PER_TURN = 256
#: The number of steps that run without yielding where no budget applies: accepting a connection,
#: uncorking a queue, decoding a control frame. Each step takes about ten microseconds.
STEPS_PER_TURN = 32

#: Bytes of a message that cost 1 to mask, frame and write. Each message costs 1 more.
SEND_BYTES_PER_COST = 2**11
#: The cost of sending one fragment of a fragmented message.
FRAGMENT_COST = 8
#: Bytes that cost 1 to compress.
COMPRESS_BYTES_PER_COST = 2**7
#: The cost of each additional receiver of a broadcast message.
BROADCAST_COST = 8
#: Bytes of a broadcast message that cost 1 per receiver if receivers share the frame, so that it
#: only has to be written.
BROADCAST_BYTES_PER_COST = 2**12
#: The same for a receiver that can't share the frame, which must be compressed or masked for it.
BROADCAST_ALONE_BYTES_PER_COST = 2**5

#: The cost of reading from the socket.
READ_COST = 8
#: The cost of decoding an event alone rather than in a batch.
EVENT_COST = 8
#: Bytes that cost 1 to read, and 1 to decode.
RECEIVE_BYTES_PER_COST = 2**10
#: Units of `DeflateCodec.work` that cost 1 (see `INFLATE_STEP_WORK`).
INFLATE_WORK_PER_COST = 2**5

# -- Receiving

#: Bytes requested by one read: 64 KiB plus room for the frame's head. An idle connection has no
#: buffer at all.
READ_BYTES = 2**16 + 2**10
#: The maximum number of bytes requested by one read while the rest of a large frame is expected.
#: For a larger buffer, the C library would map new pages each time, which takes as long as
#: processing many small messages.
MAX_READ_BYTES = 2**19
#: The maximum number of messages decoded in one step for a waiting task. One read returned all of
#: their bytes, so they are in memory in any case.
DECODE_BATCH_MESSAGES = 64
#: The maximum number of bytes decoded in one step from messages that arrive in parts.
DECODE_STEP_BYTES = 2**18
#: The maximum number of decoded bytes that stay at the front of an idle connection's receive
#: buffer. Removing so few is not worth the time.
KEEP_DECODED_BYTES = 2**12
#: A frame with a payload of at least this many bytes is decoded in one step once it is complete,
#: which is faster.
WAIT_FOR_WHOLE_FRAME_BYTES = 2**12
#: Received parts of a frame are joined up to this size, because many short objects waste memory.
JOIN_PARTS_BYTES = 2**12

# -- Decompressing

#: The maximum number of bytes that one byte of DEFLATE data can expand to. A message that might
#: exceed its limit is not inflated until a reader decides whether to stream or discard it; both
#: take little memory.
MAX_INFLATE_RATIO = 1032
#: The maximum number of compressed bytes inflated in one step, however large their output, if
#: `max_message_size` is at most `INFLATE_AT_ONCE_OUTPUT_BYTES`.
INFLATE_AT_ONCE_BYTES = 2**14
#: The largest `max_message_size` for which this is done. It equals the option's default.
INFLATE_AT_ONCE_OUTPUT_BYTES = 2**20
#: The maximum output of one inflating step in all other cases, which takes about half a
#: millisecond. Thanks to the extra byte, a message of exactly 256 KiB ends in its first step.
INFLATE_STEP_BYTES = 2**18 + 1
#: Compressed bytes passed to wsproto at once. wsproto's own work costs little compared with
#: inflating this many bytes, and they inflate to about 3 MiB at most.
WSPROTO_COMPRESSED_BYTES = 3 * 2**10
#: The same where no limit keeps the inflated bytes small.
WSPROTO_COMPRESSED_BYTES_SMALL = 2**9
#: Compressed bytes passed to zlib in one call. zlib copies the input that it does not consume.
ZLIB_INPUT_BYTES = 2**15
#: The same after a final block. zlib stops at every final block, which can be as short as two
#: bytes.
ZLIB_INPUT_BYTES_SMALL = 2**8
#: The work limit of one inflating step, in bytes of input: about 3 milliseconds. A limit on the
#: output is not enough, because empty blocks take time but produce none.
INFLATE_STEP_WORK = 2**15
#: The work that one final block adds, in the same unit.
FINAL_BLOCK_WORK = 2**5
#: The inflating work done for one connection before other tasks run, in the same unit.
RECEIVE_INFLATE_WORK = 2**15

# -- Sending

#: The maximum size of one write, unless a single frame is larger; also the default of
#: `max_unsent_bytes`. A system call costs little compared with copying this many bytes.
WRITE_BATCH_BYTES = 2**16
#: A payload of at least this many bytes is not joined to its frame's head. One writev() sends both
#: buffers; copying the payload would cost more than passing a second buffer.
SCATTER_WRITE_BYTES = 2**16
#: Bytes passed to one send_all() of a stream that isn't direct. Each call costs about ten
#: microseconds, less than encrypting or copying this many bytes.
STREAM_WRITE_BYTES = 2**16
#: Messages of at least this many bytes are compressed in a worker thread. The hand-off costs 0.2
#: milliseconds; compressing this much inline would block other tasks for 1 millisecond.
COMPRESS_IN_THREAD_BYTES = 2**17
#: The number of masking keys that one call of os.urandom() generates. The call takes longer than
#: masking a small frame.
MASK_KEYS_PER_CALL = 256
#: For payloads of at least this many bytes, masking with bytes.translate() on every fourth byte is
#: faster than XORing long integers. Only used without the C extension.
TRANSLATE_MASK_BYTES = 700

# -- TLS

#: Bytes that OpenSSL encrypts or decrypts in one call. Its buffers stay as large as the largest
#: call for the life of the connection, and larger calls are hardly faster.
TLS_CALL_BYTES = 2**15
#: The number of calls whose ciphertext is sent in one write. If the socket's buffer is full, at
#: most this many times `TLS_CALL_BYTES` have been encrypted too early.
TLS_CALLS_PER_WRITE = 4
#: The number of calls before other tasks run. Together they take about a millisecond.
TLS_CALLS_PER_STEP = 64
#: The maximum number of records passed to OpenSSL in one step. OpenSSL decrypts all of them in one
#: call, and even a short record can take 10 microseconds. So a step takes about 2 milliseconds at
#: most.
TLS_RECORDS_PER_STEP = 2**8
#: The maximum number of unsent bytes that TLS itself has produced in reply to the peer. A KeyUpdate
#: message can request a reply of a few bytes, so without a limit a peer could fill the memory.
TLS_UNSENT_ANSWER_BYTES = 2**16
#: Bytes of ciphertext requested by one read in `TlsStream.receive_some`.
TLS_READ_BYTES = 2**16
