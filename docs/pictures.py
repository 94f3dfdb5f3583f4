"""Draw the pictures of the manual, and print the table of modules, from the source.

    python -m docs.pictures          # writes docs/pictures/*.svg and docs/modules.md

`make docs` runs this. A test checks that the files in the repository are current.
"""

from __future__ import annotations

import ast
import itertools
from pathlib import Path
from typing import Callable

from docs import arrivals
from docs.drawing import LINE, MONO, WIDTH, Box, Drawing
from support.imports import MODULES, PACKAGE, Module, levels
from trio_websocket._connection.who_reads import Reader
from trio_websocket._sansio.closing import TRANSITIONS, State

DOCS = Path(__file__).resolve().parent
MARGIN = 20
# The content of each folder. A folder uses the folders after it.
FOLDERS = {
    "": "the public names",
    "_client": "opening connections",
    "_server": "accepting connections",
    "_connection": "one open connection: sending, receiving, closing",
    "_io": "Trio and bytes: streams, TLS, time budgets, waiting",
    "_sansio": "bytes in, events out: no Trio, no sockets, no clock",
}


def name_of(module: Module) -> str:
    return "/".join(filter(None, module)) + ".py"


def shown_levels(folder: str) -> list[list[Module]]:
    """Return the levels without the `__init__` of a folder, which imports nothing."""
    found = [
        [module for module in level if not folder or module[1] != "__init__"]
        for level in levels(folder)
    ]
    return [level for level in found if level]


# The table of modules.


def summary(path: Path) -> str:
    """Return the first sentence of a module's docstring."""
    docstring = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
    return docstring.split("\n\n")[0].split("\n")[0]


def table() -> str:
    lines = []
    for folder in reversed(list(FOLDERS)):
        title = f"`{folder}/`" if folder else "`trio_websocket/`"
        lines += [
            f"### {title}: {FOLDERS[folder]}",
            "",
            "| level | module | subject |",
            "|---:|---|---|",
        ]
        for number, level in enumerate(shown_levels(folder), 1):
            lines += [
                f"| {number} | `{module[1]}.py` | {summary(MODULES[module])} |" for module in level
            ]
        lines.append("")
    return "\n".join(lines)


# The house.


def chips(folder: str, width: float) -> list[list[list[str]]]:
    """Return the modules of a folder: levels, the highest first, in rows that fit the width."""
    found = []
    for level in reversed(shown_levels(folder)):
        rows: list[list[str]] = [[]]
        left = width
        for _, name in level:
            needed = len(name) * MONO + 26
            if needed > left and rows[-1]:
                rows.append([])
                left = width
            rows[-1].append(name)
            left -= needed
        found.append(rows)
    return found


def storey_height(folder: str, width: float) -> float:
    rows = sum(len(level) for level in chips(folder, width - 24))
    return 44 + rows * 32


def storey(drawing: Drawing, folder: str, x: float, y: float, width: float, height: float) -> None:
    """Draw a folder with its modules."""
    drawing.box(x, y, width, height, style="frame")
    title = f"{folder}/" if folder else "trio_websocket/"
    drawing.text(x + 12, y + 22, title, "mono bold")
    drawing.text(x + 12 + (len(title) + 2) * MONO, y + 22, FOLDERS[folder], "small")
    top = y + 34
    for level in chips(folder, width - 24):
        for row in level:
            left = x + 12
            for name in row:
                chip = len(name) * MONO + 16
                drawing.box(left, top, chip, 24, (name, "mono"))
                left += chip + 10
            top += 32


def house() -> str:
    width = WIDTH - 2 * MARGIN
    half = (width - 16) / 2
    beside = max(storey_height(folder, half) for folder in ("_client", "_server"))
    heights = {
        "": storey_height("", width),
        "_client": beside,
        "_connection": storey_height("_connection", width),
        "_io": storey_height("_io", width),
        "_sansio": storey_height("_sansio", width),
    }
    gap = 26
    drawing = Drawing(
        "The folders and modules of trio_websocket",
        "Each module imports only from the folders below its own, and from lower rows of its own.",
        sum(heights.values()) + gap * len(heights) + MARGIN + 24,
    )
    y: float = MARGIN
    for folder, height in heights.items():
        if folder == "_client":
            storey(drawing, "_client", MARGIN, y, half, height)
            storey(drawing, "_server", MARGIN + half + 16, y, half, height)
            middles = [MARGIN + half / 2, MARGIN + half * 1.5 + 16]
        else:
            storey(drawing, folder, MARGIN, y, width, height)
            middles = [WIDTH / 2]
        y += height
        if folder == "":
            middles = [MARGIN + half / 2, MARGIN + half * 1.5 + 16]
        if folder != "_sansio":
            for middle in middles:
                drawing.arrow((middle, y + 3), (middle, y + gap - 3))
        y += gap
    drawing.text(
        MARGIN,
        y + 4,
        "A module imports from lower folders, and from lower rows of its folder.",
        "small",
    )
    return drawing.svg()


# A message's way.


def step(
    drawing: Drawing, x: float, y: float, width: float, name: str, file: str, *what: str
) -> Box:
    """Draw a part that handles a message: its class, its file, and its task."""
    assert not file or (PACKAGE / file).exists(), file
    lines = [(name, "bold"), (file, "mono"), *((line, "small") for line in what)]
    lines = [line for line in lines if line[0]]
    return drawing.box(
        x, y, width, 20 + LINE * len(lines), *lines, style="box" if file else "strong"
    )


def column(
    drawing: Drawing, x: float, width: float, y: float, *steps: tuple[str, ...]
) -> list[Box]:
    boxes = []
    for name, file, *what in steps:
        boxes.append(step(drawing, x, y, width, name, file, *what))
        y += boxes[-1].height + 34
    return boxes


def message() -> str:
    width = (WIDTH - 3 * MARGIN) / 2
    drawing = Drawing(
        "The way of a message",
        "On the left, a message that is sent, from send_message down to the network. "
        "On the right, a message that is received, from the network up to get_message.",
        650,
    )
    out = column(
        drawing,
        MARGIN,
        width,
        MARGIN,
        ("send_message()", "", "the task of the application"),
        (
            "Sender",
            "_connection/sender.py",
            "waits for earlier messages and for room",
            "in the queue",
        ),
        ("FrameWriter", "_sansio/frame_writer.py", "compresses; makes the head; masks"),
        (
            "SendQueue",
            "_connection/send_queue.py",
            "keeps the order; corks small frames;",
            "the caller or a task writes",
        ),
        ("Transport", "_io/transport.py", "a socket, our TLS, or any Trio stream"),
    )
    network = drawing.box(MARGIN, 590, WIDTH - 2 * MARGIN, 36, ("network", "bold"), style="strong")
    for above, below in zip(out, [*out[1:], None]):
        end = below.top() if below else (above.bottom()[0], network.y)
        drawing.arrow(above.bottom(), end)
    x = 2 * MARGIN + width
    into = column(
        drawing,
        x,
        width,
        MARGIN,
        ("get_message()", "", "the task of the application"),
        (
            "MessageQueue",
            "_connection/message_queue.py",
            "up to message_queue_size messages;",
            "if it is full, reading stops",
        ),
        (
            "Protocol",
            "_sansio/protocol.py",
            "finds frames; assembles messages;",
            "Pings and Close frames are answered",
        ),
        (
            "Receiver",
            "_connection/receiver.py",
            "decides which task reads;",
            "the task reads and decodes",
        ),
        ("Transport", "_io/transport.py", "a socket, our TLS, or any Trio stream"),
    )
    for above, below in zip(into, [*into[1:], None]):
        start = below.top() if below else (above.bottom()[0], network.y)
        drawing.arrow(start, above.bottom())
    protocol, queue = into[2], out[3]
    middle = MARGIN * 1.5 + width
    drawing.arrow(
        protocol.left(), (middle, protocol.left()[1]), (middle, queue.right()[1]), queue.right()
    )
    return drawing.svg()


# Who reads.


def reader_box(drawing: Drawing, x: float, y: float, width: float, names: str, *lines: str) -> Box:
    states = {state.name for state in Reader}
    assert states.issuperset(names.split(", ")), (names, states)
    texts = [(names, "mono bold"), *((line, "small") for line in lines)]
    return drawing.box(x, y, width, 20 + LINE * len(texts), *texts)


def readers() -> str:
    drawing = Drawing(
        "Who reads and decodes: the states of a receiver",
        "The application's task reads while it waits for a message. After a grace period without "
        "a reader, the connection's task reads in the background.",
        474,
    )
    application = reader_box(
        drawing,
        180,
        20,
        340,
        "APPLICATION",
        "the task in get_message or receive_stream",
        "reads and decodes",
    )
    grace = reader_box(
        drawing,
        20,
        220,
        250,
        "GRACE, GRACE_ENDS",
        "no task reads: the application",
        "may be about to answer",
    )
    background = reader_box(
        drawing,
        430,
        220,
        250,
        "BACKGROUND",
        "the connection's task reads and",
        "decodes if the queue has room",
    )
    stopped = reader_box(
        drawing, 225, 388, 320, "STOPPED", "no task reads: the connection has ended"
    )
    bottom = application.y + application.height
    drawing.arrow((210, bottom), (210, grace.y))
    drawing.arrow((250, grace.y), (250, bottom))
    drawing.text(202, 130, "the task has taken its", "small", "end")
    drawing.text(202, 148, "message, and no other", "small", "end")
    drawing.text(202, 166, "task waits", "small", "end")
    drawing.text(258, 122, "a task waits", "small")
    drawing.text(258, 140, "for a message", "small")
    drawing.arrow((490, bottom), (490, background.y))
    drawing.arrow((450, background.y), (450, bottom))
    drawing.text(498, 130, "the same, and a Ping or", "small")
    drawing.text(498, 148, "Close frame of this side", "small")
    drawing.text(498, 166, "waits for its answer", "small")
    drawing.text(442, 176, "a task waits", "small", "end")
    drawing.text(442, 194, "for a message", "small", "end")
    drawing.arrow(grace.right(), background.left())
    drawing.text(350, 242, "no message is", "small", "middle")
    drawing.text(350, 278, "taken for 20 to 40 ms", "small", "middle")
    middle = stopped.x + stopped.width / 2
    drawing.arrow((middle, 330), stopped.top())
    drawing.text(middle + 10, 350, "from any state: the connection has ended", "small")
    return drawing.svg()


# Closing.

# Where the picture shows each state. The arrows are drawn from the table.
STATES = {
    State.CONNECTING: (20, 20),
    State.OPEN: (20, 150),
    State.CLOSING: (20, 316),
    State.CLOSED: (450, 316),
}
MEANINGS = {
    State.CONNECTING: "the opening handshake",
    State.OPEN: "messages go both ways",
    State.CLOSING: "this side has sent its Close",
    State.CLOSED: "nothing more is received",
}


def closing() -> str:
    drawing = Drawing(
        "The states of a connection, and what changes them",
        "CONNECTING becomes OPEN. A Close frame of this side leads to CLOSING. The peer's Close "
        "frame, a failure or a lost stream leads to CLOSED.",
        408,
    )
    boxes = {
        state: drawing.box(x, y, 230, 60, (state.name, "mono bold"), (MEANINGS[state], "small"))
        for state, (x, y) in STATES.items()
    }
    for state, other in itertools.product(State, State):
        events = [event for event, to in TRANSITIONS[state].items() if to is other]
        if not events:
            continue
        start, end = boxes[state], boxes[other]
        labels = [event.value for event in events]
        if start.x == end.x:
            drawing.arrow(start.bottom(), end.top())
            x, y = start.bottom()
            for number, label in enumerate(labels):
                drawing.text(x + 10, (y + end.y) / 2 + 5 + LINE * number, label, "small")
        else:
            if start.y == end.y:
                drawing.arrow(start.right(), end.left())
                x, y = (start.right()[0] + end.x) / 2, start.y - 26
            else:
                drawing.arrow(start.right(), (end.top()[0], start.right()[1]), end.top())
                x, y = (start.right()[0] + end.top()[0]) / 2, start.right()[1] - 52
            y += LINE * (3 - len(labels))
            for number, label in enumerate(labels):
                drawing.text(x, y + 8 + LINE * number, label, "small", "middle")
    return drawing.svg()


# The life of a connection.


def life() -> str:
    width = (WIDTH - 3 * MARGIN) / 2
    right = 2 * MARGIN + width
    drawing = Drawing(
        "The life of a connection",
        "A client dials and sends the opening handshake. A server accepts a socket and answers it. "
        "Both get a connection, which ends with a closing handshake or a failure.",
        742,
    )
    client = column(
        drawing,
        MARGIN,
        width,
        MARGIN,
        ("open_websocket_url()", "", "the application of the client"),
        ("Target", "_client/target.py", "checks the URL and the arguments"),
        ("dial", "_client/dial.py", "looks up the name; opens TCP and TLS"),
        ("handshake", "_client/handshake.py", "sends the request; checks the response"),
    )
    server = column(
        drawing,
        right,
        width,
        MARGIN,
        ("serve_websocket()", "", "the application of the server"),
        ("listeners", "_server/listeners.py", "accept sockets"),
        ("ClientTask", "_server/client_task.py", "TLS; reads the request; runs the handler"),
        ("Exchange", "_server/exchange.py", "the handler accepts or rejects"),
    )
    for boxes in (client, server):
        for above, below in zip(boxes, boxes[1:]):
            drawing.arrow(above.bottom(), below.top())
    whole = WIDTH - 2 * MARGIN
    top = client[-1].bottom()[1] + 40
    open_ = drawing.box(
        MARGIN,
        top,
        whole,
        78,
        ("WebSocketConnection", "bold"),
        ("_connection/connection.py, lifecycle.py", "mono"),
        ("messages, Pings and Pongs; the connection's task reads in the background", "small"),
        style="strong",
    )
    for boxes in (client, server):
        drawing.arrow(boxes[-1].bottom(), (boxes[-1].bottom()[0], top))
    y = top + open_.height + 44
    closing = drawing.box(
        MARGIN,
        y,
        460,
        60,
        ("closing handshake", "bold"),
        ("each side sends a Close frame, within disconnect_timeout", "small"),
    )
    closed = drawing.box(
        MARGIN,
        y + closing.height + 34,
        whole,
        60,
        ("closed", "bold"),
        ("the stream is closed; calls raise ConnectionClosed", "small"),
    )
    drawing.arrow((MARGIN + 60, top + open_.height), (MARGIN + 60, y))
    drawing.text(
        MARGIN + 72, y - 17, "aclose, end of the block or handler, Close of the peer", "small"
    )
    drawing.arrow((MARGIN + 60, closing.bottom()[1]), (MARGIN + 60, closed.y))
    drawing.arrow((540, top + open_.height), (540, closed.y))
    for number, line in enumerate(("failed, cancelled or", "lost: no waiting for", "an answer")):
        drawing.text(550, y + 20 + LINE * number, line, "small")
    return drawing.svg()


PICTURES: dict[str, Callable[[], str]] = {
    "arrivals": arrivals.picture,
    "closing": closing,
    "house": house,
    "life": life,
    "message": message,
    "readers": readers,
}


def files() -> dict[Path, str]:
    """Return what this script writes."""
    return {
        DOCS / "modules.md": table(),
        **{DOCS / "pictures" / f"{name}.svg": draw() for name, draw in PICTURES.items()},
    }


def main() -> None:
    for path, text in files().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
