"""Rules about layers: what becomes one, what it weighs, and whether it fits the image."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

from packaging.requirements import InvalidRequirement, Requirement
from packaging.tags import parse_tag
from packaging.utils import canonicalize_name

from mmekit.archive.image import MACHINE, tags_of
from mmekit.archive.layers import is_named_by, shared_patterns
from mmekit.archive.package import REQUIREMENTS_FILE
from mmekit.archive.properties import FILE_NAME as PROPERTIES_FILE
from mmekit.archive.requirements import parse_requirements, remaining
from mmekit.archive.runtime import HOOK_FILE
from mmekit.archive.syntax import parsed
from mmekit.archive.wheels import distributions_in
from mmekit.findings import Finding
from mmekit_runtime.layers.listing import BODY, FOLDER, LIBRARIES
from mmekit_runtime.signature import FILE_NAME as SIGNATURE_FILE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mmekit.archive.contents import Member
    from mmekit.archive.rules.subject import Subject

_MB = 1_000_000
_SHARED = "option.shared"
_NOT_TO_BE_SHARED = (PROPERTIES_FILE, REQUIREMENTS_FILE, SIGNATURE_FILE)
_OF_OTHERS = {".pyd": "Windows", ".dll": "Windows", ".dylib": "macOS"}
_TAGGED = re.compile(r"\.(?:cpython-|cp)(\d)(\d+)[a-z]*-([A-Za-z0-9_]+?)-?(linux\w*|darwin|win\w*)")
_ELF = b"\x7fELF"
_X86_64 = 62
_SHOWN = 8


def weights(subject: Subject) -> Iterator[Finding]:
    """Say what layers weigh, or will."""
    said = [
        f"{layer}, {'in the archive' if layer.inline else 'which it only names'}"
        for layer in subject.layers
    ]
    if not subject.is_archive and subject.shared:
        size = sum(subject.contents.files[name].size for name in subject.shared)
        said.append(f"{_SHARED}: {len(subject.shared)} files, {size / _MB:.1f} MB")
    lines = parse_requirements(subject.contents.text(REQUIREMENTS_FILE) or "")
    if subject.makes_libraries and remaining(lines, subject.image):
        named = ", ".join(one.text for one in remaining(lines, subject.image) if not one.is_option)
        said.append(f"the libraries of {named} and what they need, when it is packed")
    if said:
        yield Finding(
            "note",
            "layers",
            f"Layers, stored once for all archives that have them: {'; '.join(said)}.",
            "No action is needed.",
            subject.contents.where,
        )


def shared_files(subject: Subject) -> Iterator[Finding]:
    """Expect option.shared to name files of the model, and none that make the model its own."""
    if not subject.has_artifacts:
        return
    bodies = (layer for layer in subject.layers if layer.kind == BODY)
    names = {*subject.contents.files, *(one.name for body in bodies for one in body.sources)}
    for pattern in shared_patterns(subject.properties):
        matching = sorted(name for name in names if is_named_by(pattern, name))
        if not matching:
            yield Finding(
                "error",
                "shared-matches-nothing",
                f"{_SHARED} names {pattern!r}, and no file of the model is called so.",
                "Name files, folders or patterns (setfit/model.safetensors, embeddings, *.bin), "
                "separated by commas.",
                subject.place_of(_SHARED),
            )
        own = [name for name in matching if _is_own(name, subject)]
        if own:
            yield Finding(
                "error",
                "shared-own-file",
                f"{_SHARED} names {pattern!r}, which stands for {', '.join(own[:_SHOWN])}: code "
                "and settings are each model's own.",
                "Name artefacts alone.",
                subject.place_of(_SHARED),
            )


def _is_own(name: str, subject: Subject) -> bool:
    is_code = name.endswith(".py") and "/" not in name
    return is_code or name in _NOT_TO_BE_SHARED or name == subject.code_file


def load_shared(subject: Subject) -> Iterator[Finding]:
    """Expect shared files to be loaded once, and load_shared to have some."""
    patterns = shared_patterns(subject.properties)
    methods = _methods(subject)
    has_verb = "load_shared" in methods
    # A handler with `shares` says itself whether it can do without.
    if has_verb and not patterns and "shares" not in methods:
        yield Finding(
            "error",
            "nothing-shared",
            f"The handler has a load_shared, and {_SHARED} names no files for it: the load fails.",
            f"Write {_SHARED}=NAME,NAME in {PROPERTIES_FILE}, with the files or folders among the "
            "artefacts that other models have as well.",
            subject.place(subject.code_file),
        )
    measured = subject.measured
    if not patterns:
        return
    if measured is not None and measured.memory.shared is not None:
        return
    reason = None if measured is None else measured.unshared
    if reason is None and not has_verb:
        reason = "its handler has no load_shared of its own"
    if reason is not None:
        yield Finding(
            "warning",
            "body-loaded-by-each",
            f"The files of {_SHARED} are stored and shipped once, but each model loads them by "
            f"itself and has them in its own memory: {reason}.",
            "Load them in load_shared(folder), which returns what load(folder, shared) gets, and "
            "starts no threads, leaves no files open and uses no GPU.",
            subject.place(subject.code_file),
        )


def own_path(subject: Subject) -> Iterator[Finding]:
    """Expect the search path to be left to the server, which has the model's folder on it."""
    if "PYTHONPATH" not in subject.properties.env:
        return
    if subject.has_layers or subject.uses_slots:
        yield Finding(
            "error" if subject.has_layers else "warning",
            "own-python-path",
            "option.env sets PYTHONPATH, and DJL Serving gives the worker that and nothing else: "
            f"{HOOK_FILE}, by which a worker gets its layers and becomes a worker slot, is not "
            "found then, and neither is what is in a layer.",
            "Remove it from option.env; what lies beside model.py is found without it.",
            subject.place_of("option.env"),
        )


def sharing(subject: Subject) -> Iterator[Finding]:
    """Expect a sample request where something is shared: with it answers are compared."""
    if subject.has_sample is False and shared_patterns(subject.properties):
        yield Finding(
            "warning",
            "unproven-sharing",
            f"There is {_SHARED} and no sample request: nobody compares the answers of a forked "
            "process, which has what is shared from another, with those of a process of its own.",
            "Add sample_request.json (or .csv, .txt) to the package.",
            subject.place_of(_SHARED),
        )


def _methods(subject: Subject) -> set[str]:
    """Return what the classes of the model's code define, by name."""
    trees = (
        parsed(subject.contents.text(name))
        for name in subject.contents.files
        if name.endswith(".py")
    )
    return {
        node.name
        for tree in trees
        if tree is not None
        for owner in ast.walk(tree)
        if isinstance(owner, ast.ClassDef)
        for node in owner.body
        if isinstance(node, ast.FunctionDef)
    }


def folder(subject: Subject) -> Iterator[Finding]:
    """Expect no folder of the model's own where layers lie."""
    own = next((name for name in subject.contents.files if name.startswith(f"{FOLDER}/")), None)
    if own is not None and subject.has_layers:
        yield Finding(
            "error",
            "layers-folder-taken",
            f"{own} lies in the folder {FOLDER}, where an archive has its layers.",
            "Rename the folder.",
            subject.place(own),
        )


def replaced(subject: Subject) -> Iterator[Finding]:
    """Expect a layer to leave the image's distributions alone."""
    if subject.image is None:
        return
    sources = [one for it in subject.layers if it.kind == LIBRARIES for one in it.sources]
    differing = [
        f"{one.name} {one.version} (the image has {subject.image.version(one.name) or 'one'})"
        for one in sources
        if subject.image.has(one.name) and subject.image.version(one.name) != one.version
    ]
    if differing:
        yield Finding(
            "warning",
            "layer-replaces",
            f"The layer of libraries goes before {subject.image.name}: it replaces "
            f"{', '.join(differing)}. Whatever else of the image needs the other version may fail.",
            f"Ask in {REQUIREMENTS_FILE} for releases that go with the image's, or serve from an "
            "image that has these.",
            subject.contents.where,
        )


def complete(subject: Subject) -> Iterator[Finding]:
    """Expect what a layer's distributions require in the layer or in the image."""
    image = subject.image
    if image is None:
        return
    found = distributions_in(subject.libraries)
    versions = {one.name: one.version for one in found}
    for distribution in found:
        for text in distribution.requires:
            try:
                wanted = Requirement(text)
            except InvalidRequirement:
                continue
            name = canonicalize_name(wanted.name)
            if not image.is_meant(wanted):
                continue
            there = versions.get(name) or image.version(name)
            if there is None and image.has(name):
                continue
            if there is None or not wanted.specifier.contains(there, prereleases=True):
                yield Finding(
                    "warning",
                    "layer-lacks-library",
                    f"{distribution.name} {distribution.version} in the layer of libraries "
                    f"requires {wanted}, and there is {'none' if there is None else there}.",
                    f"Pack again for {image.name}, without requirements.lock.",
                    subject.contents.where,
                )


def wheels_fit(subject: Subject) -> Iterator[Finding]:
    """Expect libraries for the Python and the platform of the image."""
    image = subject.image
    if image is None:
        return
    for layer in subject.layers:
        if layer.python is not None and layer.python != image.python:
            yield Finding(
                "error",
                "layer-of-another-python",
                f"{layer} is for Python {layer.python}; {image.name} has {image.python}: the load "
                "fails.",
                "Pack again with --image, for the image that serves.",
                subject.contents.where,
            )
            return
    fitting = frozenset(tags_of(image))
    for one in distributions_in(subject.libraries):
        if one.tags and not any(fitting & parse_tag(tag) for tag in one.tags):
            yield Finding(
                "warning",
                "compiled-for-another",
                f"{one.name} {one.version} in the layer of libraries is for "
                f"{', '.join(one.tags[:_SHOWN])}; {image.name} has Python {image.python} and "
                f"{image.platform} (glibc {image.glibc}).",
                "Pack again with --image, for the image that serves.",
                subject.contents.where,
            )


def compiled_files(subject: Subject) -> Iterator[Finding]:
    """Expect compiled files among the model's own to be for the image's Python and processor."""
    for member in subject.contents:
        reason = _unfitting(member, subject)
        if reason is not None:
            yield Finding(
                "warning",
                "compiled-for-another",
                f"{member.name} is {reason}: the image cannot load it.",
                "Build it for the image, or leave it out.",
                subject.place(member.name),
            )


def _unfitting(member: Member, subject: Subject) -> str | None:
    name = member.name.rpartition("/")[2].lower()
    for suffix, system in _OF_OTHERS.items():
        if name.endswith(suffix):
            return f"for {system}"
    if not (name.endswith(".so") or ".so." in name):
        return None
    tagged = _TAGGED.search(name)
    python = None if subject.image is None else subject.image.python
    if tagged is not None and python is not None and f"{tagged[1]}.{tagged[2]}" != python:
        return f"for Python {tagged[1]}.{tagged[2]}"
    with member.open() as stream:
        head = stream.read(20)
    if head[:4] != _ELF:
        return "no program of Linux"
    # EI_CLASS: 64 bits; EI_DATA: the lower byte first; e_machine.
    if head[4:6] != b"\x02\x01" or int.from_bytes(head[18:20], "little") != _X86_64:
        return f"for another processor than {MACHINE}"
    return None
