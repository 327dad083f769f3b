"""What a benchmark found, a line each."""

from __future__ import annotations

from typing import NamedTuple

_HEADINGS = ("what", "figure", "against, in the same run", "ratio", "bound", "")


class Line(NamedTuple):
    what: str
    figure: str = ""
    against: str = ""
    ratio: str = ""
    bound: str = ""
    kept: bool | None = None  # None where there is no bound


def show(lines: list[Line]) -> str:
    """The lines as a table in Markdown, aligned so that it reads as plain text, too."""
    verdicts = {None: "", True: "ok", False: "over"}
    rows = [_HEADINGS, *((*line[:5], verdicts[line.kept]) for line in lines)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
    texts = [
        "| " + " | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    texts.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(texts)
