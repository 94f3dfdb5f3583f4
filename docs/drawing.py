"""Draw boxes, arrows and text as SVG, in colours that suit light and dark pages.

A picture is 700 pixels wide, so it needs no scaling in a page. It has its own background, so it is
legible even if the page and the system disagree about the dark mode.
"""

from __future__ import annotations

from typing import NamedTuple
from xml.sax.saxutils import escape

WIDTH = 700
LINE = 18  # pixels from one line of text to the next
MONO = 7.9  # pixels, the width of a character of the class "mono"

_STYLE = """
svg { --page: #ffffff; --box: #eef2f7; --strong: #d5e3f5; --line: #5b6675; --text: #16202b; \
--dim: #4a5563; --bar: #2f6fb7; }
@media (prefers-color-scheme: dark) {
svg { --page: #171b21; --box: #262d37; --strong: #2b415f; --line: #9aa7b8; --text: #e8edf3; \
--dim: #b4c0cf; --bar: #6ea8e6; }
}
.page { fill: var(--page); }
.box { fill: var(--box); stroke: var(--line); }
.strong { fill: var(--strong); stroke: var(--line); }
.frame { fill: none; stroke: var(--line); }
.line { fill: none; stroke: var(--line); stroke-width: 1.5; }
.grid { fill: none; stroke: var(--line); stroke-width: 0.5; }
.bar { fill: var(--bar); }
.head { fill: var(--line); }
text { fill: var(--text); font: 14px "Helvetica Neue", Arial, "DejaVu Sans", sans-serif; }
.bold { font-weight: bold; }
.small { fill: var(--dim); font-size: 12.5px; }
.mono { font: 13px Menlo, Consolas, "DejaVu Sans Mono", monospace; }
"""


class Box(NamedTuple):
    """A rectangle, and the points on its edges."""

    x: float
    y: float
    width: float
    height: float

    def left(self, part: float = 0.5) -> tuple[float, float]:
        return self.x, self.y + part * self.height

    def right(self, part: float = 0.5) -> tuple[float, float]:
        return self.x + self.width, self.y + part * self.height

    def top(self, part: float = 0.5) -> tuple[float, float]:
        return self.x + part * self.width, self.y

    def bottom(self, part: float = 0.5) -> tuple[float, float]:
        return self.x + part * self.width, self.y + self.height


class Drawing:
    """A picture. Later shapes cover earlier ones."""

    def __init__(self, title: str, description: str, height: float) -> None:
        """
        :param title: A short name, for screen readers.
        :param description: A sentence that says what the picture shows.
        :param height: The height in pixels.
        """
        self._title = title
        self._description = description
        self._height = height
        self._shapes: list[str] = []

    def text(self, x: float, y: float, text: str, style: str = "", anchor: str = "start") -> None:
        """Add one line of text. `y` is its base line."""
        self._shapes.append(
            f'<text x="{x:g}" y="{y:g}" class="{style}" text-anchor="{anchor}">'
            f"{escape(text)}</text>"
        )

    def box(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        *lines: tuple[str, str],
        style: str = "box",
    ) -> Box:
        """Add a rectangle with centred lines of text, each with its style."""
        self._shapes.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="6" '
            f'class="{style}"/>'
        )
        base = y + (height - LINE * len(lines)) / 2 + 13
        for number, (text, text_style) in enumerate(lines):
            self.text(x + width / 2, base + LINE * number, text, text_style, "middle")
        return Box(x, y, width, height)

    def arrow(self, *points: tuple[float, float]) -> None:
        """Add a line through the points, with a head at the last one."""
        path = " ".join(
            f"{'L' if number else 'M'} {x:g} {y:g}" for number, (x, y) in enumerate(points)
        )
        self._shapes.append(f'<path d="{path}" class="line" marker-end="url(#head)"/>')

    def line(self, start: tuple[float, float], end: tuple[float, float], style: str) -> None:
        """Add a straight line without a head."""
        self._shapes.append(
            f'<path d="M {start[0]:g} {start[1]:g} L {end[0]:g} {end[1]:g}" class="{style}"/>'
        )

    def bar(self, x: float, y: float, width: float, height: float) -> None:
        """Add a bar of a histogram."""
        self._shapes.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" class="bar"/>'
        )

    def svg(self) -> str:
        """Return the file."""
        size = f'width="{WIDTH}" height="{self._height:g}"'
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {self._height:g}"',
                f'{size} role="img" aria-labelledby="title desc">',
                f'<title id="title">{escape(self._title)}</title>',
                f'<desc id="desc">{escape(self._description)}</desc>',
                f"<style>{_STYLE}</style>",
                '<defs><marker id="head" markerWidth="9" markerHeight="8" refX="8" refY="4"',
                'orient="auto" markerUnits="userSpaceOnUse">',
                '<path d="M 0 0 L 9 4 L 0 8 z" class="head"/></marker></defs>',
                f'<rect {size} rx="8" class="page"/>',
                *self._shapes,
                "</svg>\n",
            ]
        )
