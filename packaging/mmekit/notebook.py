"""Tables in a notebook: texts stand at the left, where pandas has everything at the right."""

from __future__ import annotations

import itertools
import re
import sys
from typing import Any

__all__ = ["left_aligned", "show_texts_left"]

_LEFT = ' style="text-align: left;"'
_ROW = re.compile(r"<tr[^>]*>.*?</tr>", re.DOTALL)
_CELL = re.compile(r"<(t[hd])([^>]*)>")


def show_texts_left() -> None:
    """Have this notebook show its DataFrames so; elsewhere it does nothing."""
    ipython = sys.modules.get("IPython")
    shell: Any = None if ipython is None else ipython.get_ipython()
    if shell is None or not hasattr(shell, "display_formatter"):
        return
    formatter = shell.display_formatter.formatters["text/html"]
    # Where the class says that it is from: pandas 3 and before.
    for module in ("pandas", "pandas.core.frame"):
        formatter.for_type_by_name(module, "DataFrame", left_aligned)


def left_aligned(frame: Any) -> str | None:
    """Return the HTML of a pandas DataFrame, texts and their heads aligned to the left.

    Examples
    --------
    >>> import pandas as pd
    >>> html = left_aligned(pd.DataFrame({"what": ["loads"], "how many": [7]}))
    >>> '<td style="text-align: left;">loads</td>' in html, "<td>7</td>" in html
    (True, True)
    """
    html: str | None = frame._repr_html_()
    if html is None or frame.columns.nlevels > 1:
        return html
    texts = [
        any(isinstance(value, str) for value in frame.iloc[:, place])
        for place in range(len(frame.columns))
    ]

    def aligned(row: re.Match[str]) -> str:
        cells = _CELL.findall(row[0])
        in_body = any(kind == "td" for kind, _ in cells)
        # Before a row's columns stands its name, or its names.
        places = itertools.count(len(texts) - len(cells))

        def of_cell(cell: re.Match[str]) -> str:
            place = next(places)
            is_text = texts[place] if place >= 0 else in_body
            return f"<{cell[1]}{cell[2]}{_LEFT if is_text else ''}>"

        return _CELL.sub(of_cell, row[0])

    return _ROW.sub(aligned, html)
