"""Rules about pickled artefacts, which name classes by the module that defines them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mmekit.archive.findings import Finding
from mmekit.archive.pickles import where_to_put

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mmekit.archive.rules.subject import Subject

# A module that is run as a script asks so; whoever else names it puts something there.
_AS_A_SCRIPT = re.compile(r"""__name__\s*==\s*["']__main__["']""")


def of_main(subject: Subject) -> Iterator[Finding]:
    """Expect nothing of the script or notebook that trained the model."""
    for pickled in subject.pickled:
        if not pickled.of_main:
            continue
        names = ", ".join(pickled.of_main)
        remedy = where_to_put(*pickled.of_main)
        is_provided = _is_provided(subject)
        yield Finding(
            "warning" if is_provided else "error",
            "class-of-main",
            f"{pickled.name} looks for {names} in __main__, the script or notebook that trained "
            "the model. In a worker __main__ is DJL's engine, "
            + (
                "and the load relies on what the package's code puts there."
                if is_provided
                else "and the load fails: Can't get attribute."
            ),
            f"{remedy[0].upper()}{remedy[1:]}; or leave the file out, if the model does not load "
            "it.",
            subject.place(pickled.name),
        )


def _is_provided(subject: Subject) -> bool:
    sources = [name for name in subject.contents.files if name.endswith(".py")]
    texts = (_AS_A_SCRIPT.sub("", subject.contents.text(name) or "") for name in sources)
    return any("__main__" in text for text in texts)
