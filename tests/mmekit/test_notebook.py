"""Tables as a notebook shows them."""

from __future__ import annotations

import re

import pandas as pd
from IPython.core.interactiveshell import InteractiveShell

from mmekit.notebook import left_aligned, show_texts_left


def cells(html):
    """Return each cell's text, and whether it stands at the left."""
    found = re.findall(r"<t[hd]([^>]*)>([^<]*)</t[hd]>", html)
    return {text: "left" in attributes for attributes, text in found if text}


def test_texts_stand_at_the_left_with_their_heads_and_numbers_at_the_right():
    frame = pd.DataFrame(
        {"rule": ["no-slots", "a <td> in it"], "ms": [1.25, 30.0]}, index=["x", "y"]
    )

    assert cells(left_aligned(frame)) == {
        "rule": True,
        "ms": False,
        "x": True,
        "y": True,
        "no-slots": True,
        "a &lt;td&gt; in it": True,
        "1.25": False,
        "30.00": False,
    }


def test_a_table_with_names_of_two_levels_keeps_its_columns_apart():
    frame = pd.DataFrame(
        {"model": ["a", "a", "b"], "call": ["first", "later", "first"], "ms": [1, 2, 3], "t": "x"}
    ).set_index(["model", "call"])

    seen = cells(left_aligned(frame))

    assert (seen["a"], seen["later"], seen["x"], seen["t"]) == (True, True, True, True)
    assert (seen["2"], seen["ms"]) == (False, False)


def test_a_notebook_shows_its_tables_so():
    shell = InteractiveShell.instance()
    try:
        show_texts_left()
        shown = shell.display_formatter.format(pd.DataFrame({"a": ["text"]}))[0]
    finally:
        InteractiveShell.clear_instance()

    assert cells(shown["text/html"])["text"]
    assert "text" in shown["text/plain"]
