"""What an archive holds of a package: serving.properties with what packing adds, requirements.txt.

A package's own lines stay as they are, and in front.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from mmekit.archive.contents import Member
from mmekit.archive.libraries import LINKS_FOLDER
from mmekit.archive.package import REQUIREMENTS_FILE
from mmekit.archive.properties import FILE_NAME as PROPERTIES_FILE
from mmekit.archive.requirements import parse_requirements, remaining

if TYPE_CHECKING:
    from mmekit.archive.layers import PackedLayer
    from mmekit.archive.rules.subject import Subject

DEFAULT_SLOTS = 16
"""maxWorkers of a package with worker slots that names none."""


def completed(given: Subject, libraries: PackedLayer | None = None) -> Subject:
    """Return what the archive will hold, in the form that it will have."""
    contents = given.contents.with_members(Member.made_of(PROPERTIES_FILE, _properties_text(given)))
    if libraries is not None:
        # What it asks for is in the layer, and so are the wheels that lay beside it.
        wheels = (name for name in contents.files if name.startswith(f"{LINKS_FOLDER}/"))
        contents = contents.without(REQUIREMENTS_FILE, *wheels)
        given = replace(given, libraries={one.name: one for one in libraries.members})
    if REQUIREMENTS_FILE in contents:
        text = contents.text(REQUIREMENTS_FILE) or ""
        lines = remaining(parse_requirements(text), given.image)
        left = "".join(f"{line.text}\n" for line in lines)
        contents = contents.without(REQUIREMENTS_FILE)
        if lines:
            contents = contents.with_members(Member.made_of(REQUIREMENTS_FILE, left.encode()))
    return replace(given, contents=contents)


def _properties_text(given: Subject) -> bytes:
    member = given.contents.files.get(PROPERTIES_FILE)
    own = member.read() if member is not None else b""
    properties = given.properties
    added = []
    if properties.engine is None:
        # Without it, DJL Serving goes by file names: a model.onnx beside model.py decides.
        added.append("engine=Python")
    if given.uses_slots:
        added += _worker_lines(given)
    if properties.required_memory_mb is None and given.required_memory_mb is not None:
        added.append(f"required_memory_mb={given.required_memory_mb}")
    if properties.model_name is None or (
        given.is_one_of_many and properties.model_name != given.name
    ):
        # Under SageMaker all models are called 'model' in the log otherwise. Of two lines the
        # later one counts.
        added.append(f"option.modelName={_escaped(given.name or '')}")
    if not added:
        return own
    # Behind what the package has: `mme deploy` tells by the beginning whether that has changed.
    # The empty line also ends a last line that a backslash would continue.
    start = own if own.endswith(b"\n") or not own else own + b"\n"
    return start + "\n".join(["", "# Added when the model was packed:", *added, ""]).encode()


def _worker_lines(given: Subject) -> list[str]:
    """Return how many slots DJL Serving may open, and that one time-out is not the end.

    A slot costs 0.1 MiB and some 30 ms, and a model whose process dies is mended behind its slots;
    with retry_threshold=0, DJL's default, the server would give it up all the same.
    """
    properties, values = given.properties, given.values
    least, lines = properties.min_workers, []
    if least is None and "minWorkers" not in values:
        lines.append("minWorkers=1")
    if properties.max_workers is None and "maxWorkers" not in values:
        lines.append(f"maxWorkers={max(DEFAULT_SLOTS, least or 1)}")
    if properties.retry_threshold is None and "retry_threshold" not in values:
        lines.append("retry_threshold=10")
    return lines


def _escaped(name: str) -> str:
    """Write a value in ASCII, as java.util.Properties understands it."""
    pieces = []
    for character in name:
        # Java has no escape for a character beyond 16 bits: it takes two, the surrogate pair.
        units = character.encode("utf-16-be").hex()
        plain = character.isascii() and (character.isalnum() or character in "._-")
        escapes = "".join(f"\\u{units[i : i + 4]}" for i in range(0, len(units), 4))
        pieces.append(character if plain else escapes)
    return "".join(pieces)
