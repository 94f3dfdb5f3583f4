"""The costs of operations, the sizes of buffers, and the thresholds between alternatives.

These numbers tune speed, fairness and memory. They change no result, only when the work is done and
in which portions. Time-outs, limits on what a peer may send, and the numbers of protocols are
defined where they are used.

How the library shares the CPU
==============================

Trio runs a task until it waits. A task that always has something to do would hold up all others, so
it must let them run from time to time. A full turn of Trio's scheduler costs as much as several
small messages, so the library can't do that for each message. Instead, each connection has a
`CheckpointBudget` of `COST_PER_TURN` **rough microseconds**, from which its operations spend. When
the budget is used up, the next checkpoint lets the other tasks run and renews it.

Costs are integers. An operation on `size` bytes costs a constant, plus
``size // ..._BYTES_PER_COST``.

Work that can't be counted in advance is done in steps, each of which ends at a bound from this
module. With the default limits no step takes longer than 5 milliseconds, whatever a peer sends, on
a machine that copies 1 MiB in 0.1 milliseconds.
"""

from __future__ import annotations

# -- Sharing the CPU, in rough microseconds

#: The cost after which other tasks run. They wait for about a millisecond at most, and a turn of
#: the scheduler is a small part of the work.
COST_PER_TURN = 256
#: Steps of about ten microseconds each that run in a row where no budget applies: accepting a
#: connection, uncorking a queue, decoding a control frame.
STEPS_PER_TURN = 32

#: Bytes of a message that cost 1 to mask, frame and write. A message costs 1 in addition.
SEND_BYTES_PER_COST = 2**11
#: The cost of sending a message in fragments, for each fragment.
FRAGMENT_COST = 8
#: Bytes that cost 1 to compress.
COMPRESS_BYTES_PER_COST = 2**7
#: The cost of one more receiver of a broadcast message.
BROADCAST_COST = 8
#: Bytes of a broadcast message that cost 1 for each receiver, for which the frame is only written.
BROADCAST_BYTES_PER_COST = 2**12
#: The same for a receiver that can't share the frame: then it is compressed or masked, too.
BROADCAST_ALONE_BYTES_PER_COST = 2**5

#: The cost of reading from the socket.
READ_COST = 8
#: The cost of an event that is decoded alone, and not in a batch.
EVENT_COST = 8
#: Bytes that cost 1 to read, and 1 to decode.
RECEIVE_BYTES_PER_COST = 2**10
#: Units of work of `DeflateCodec` (see `INFLATE_STEP_WORK`) that cost 1.
INFLATE_WORK_PER_COST = 2**5

# -- Receiving

#: Bytes that one read asks for: 64 KiB and the head of their frame. An idle connection has no
#: buffer at all.
READ_BYTES = 2**16 + 2**10
#: Bytes that one read asks for at most, if more of a frame is known to come. For a larger buffer,
#: the C library maps new pages each time, which takes as long as many small messages.
MAX_READ_BYTES = 2**19
#: Messages that are decoded in one step for a task that waits. Their bytes came in one read, so
#: they are in memory in any case.
DECODE_BATCH_MESSAGES = 64
#: Bytes of parts of messages that are decoded in one step.
DECODE_STEP_BYTES = 2**18
#: Decoded bytes that may stay at the front of the receive buffer while the connection waits.
#: Freeing fewer is not worth the time.
KEEP_DECODED_BYTES = 2**12
#: A frame with at least this many bytes of payload is decoded whole, in one step, which is faster.
WAIT_FOR_WHOLE_FRAME_BYTES = 2**12
#: Parts of a frame are joined up to this size, because many short objects waste memory.
JOIN_PARTS_BYTES = 2**12

# -- Decompressing

#: The maximum number of bytes that DEFLATE makes of one byte. A message that may exceed its limit
#: is not inflated until a reader decides: in a stream, or discarded, it takes little memory.
MAX_INFLATE_RATIO = 1032
#: Compressed bytes that are inflated in one step, whatever their output, if no message may exceed
#: `INFLATE_AT_ONCE_OUTPUT_BYTES`.
INFLATE_AT_ONCE_BYTES = 2**14
#: The largest `max_message_size` for which this is done. It equals the option's default.
INFLATE_AT_ONCE_OUTPUT_BYTES = 2**20
#: Bytes that are inflated in one step otherwise, which takes about half a millisecond. The odd byte
#: lets a message of just 256 KiB end in its first step.
INFLATE_STEP_BYTES = 2**18 + 1
#: Compressed bytes that wsproto gets at once. Its own work costs little compared with inflating
#: this many, which inflate to about 3 MiB at most.
WSPROTO_COMPRESSED_BYTES = 3 * 2**10
#: The same, if nothing else bounds the memory for the inflated bytes.
WSPROTO_COMPRESSED_BYTES_SMALL = 2**9
#: Compressed bytes that zlib gets in one call. It copies the input that it leaves over.
ZLIB_INPUT_BYTES = 2**15
#: The same after a final block. zlib stops at each, and a block may take as few as two bytes.
ZLIB_INPUT_BYTES_SMALL = 2**8
#: The cost limit of one step of decompressing, in bytes of input: about 3 milliseconds. Empty
#: blocks cost time, but have no output to limit.
INFLATE_STEP_WORK = 2**15
#: The cost of a final block, in the same unit.
FINAL_BLOCK_WORK = 2**5
#: The work of decompressing that is done in a row for a connection, in the same unit.
RECEIVE_INFLATE_WORK = 2**15

# -- Sending

#: Bytes that one write sends, unless one frame is larger; also the default of `max_unsent_bytes`.
#: A system call costs little compared with copying this many.
WRITE_BATCH_BYTES = 2**16
#: A payload of at least this many bytes is not joined to the head of its frame. One writev() sends
#: both, and copying would cost more than the second buffer.
SCATTER_WRITE_BYTES = 2**16
#: Bytes that a stream that isn't direct gets in one send_all(). Each call costs some ten
#: microseconds, less than encrypting or copying as much does.
STREAM_WRITE_BYTES = 2**16
#: Another thread compresses messages of at least this many bytes. Handing off to a thread costs 0.2
#: milliseconds; compressing this much inline would block other tasks for 1 millisecond.
COMPRESS_IN_THREAD_BYTES = 2**17
#: Masking keys that one call of os.urandom() provides. A call takes longer than masking a small
#: frame.
MASK_KEYS_PER_CALL = 256
#: For payloads of at least this many bytes, bytes.translate() on every fourth byte masks faster
#: than an operation on one long integer. Used without the C extension only.
TRANSLATE_MASK_BYTES = 700

# -- TLS

#: Bytes that OpenSSL encrypts or decrypts in one call. Its buffers keep the size of the largest
#: call for as long as the connection lives, and larger calls are hardly faster.
TLS_CALL_BYTES = 2**15
#: Calls whose ciphertext is sent in one write. So if the socket is full, at most this many times
#: `TLS_CALL_BYTES` are encrypted too early.
TLS_CALLS_PER_WRITE = 4
#: Calls in a row before other tasks run. They take about a millisecond.
TLS_CALLS_PER_STEP = 64
#: Records that OpenSSL gets in one step. Even a short record may cost 10 microseconds, and OpenSSL
#: decrypts all that it has in one call. So a step takes about 2 milliseconds at most.
TLS_RECORDS_PER_STEP = 2**8
#: Bytes of TLS's own answers that may wait for the socket. A KeyUpdate can request an answer of a
#: few bytes, so without a limit a peer could fill the memory with answers.
TLS_UNSENT_ANSWER_BYTES = 2**16
#: Bytes of ciphertext that one read of `TlsStream.receive_some` asks for.
TLS_READ_BYTES = 2**16
