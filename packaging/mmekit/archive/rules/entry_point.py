"""Rules about what DJL's engine runs, and on which platforms.

Sources: PyModel.load and findModelFile, service_loader.py, sklearn_handler.py and
xgboost_handler.py of deepjavalibrary/djl-serving at v0.36.0; sagemaker_inference/transformer.py of
aws/sagemaker-inference-toolkit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmekit.archive.conventions import HANDLERS, SKLEARN
from mmekit.archive.package import MODEL_FILE
from mmekit.findings import Finding
from mmekit_runtime.model_files import SKLEARN_FORMATS, XGBOOST_FORMATS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mmekit.archive.conventions import Convention
    from mmekit.archive.rules.subject import Subject
    from mmekit.findings import Severity
_SAFE_FORMATS = ("skops", "json", "ubj")


def entry_point(subject: Subject) -> Iterator[Finding]:
    """Expect something to run; `platforms` looks at what was made for a convention."""
    entry = subject.properties.entry_point
    if subject.convention is not None:
        return
    if entry is None:
        yield from _without_entry_point(subject)
        return
    where = subject.place_of("option.entryPoint")
    if entry.lower().startswith("http"):
        yield Finding(
            "warning",
            "entry-point-from-the-net",
            f"The handler is downloaded from {entry} when a container starts, without a checksum.",
            "Put the file into the package.",
            where,
        )
    elif entry.startswith("/"):
        yield Finding(
            "warning",
            "entry-point-absolute",
            f"{entry} has to exist in the container; it is not in the archive.",
            "Put the file into the package, and name it without a folder.",
            where,
        )
    elif not entry.startswith("djl_python.") and not _provides(subject, entry):
        yield Finding(
            "error",
            "entry-point-missing",
            f"option.entryPoint names {entry}, which does not exist: the worker exits at once.",
            f"Put the file into the package, or remove the line to use {MODEL_FILE}.",
            where,
        )


def _without_entry_point(subject: Subject) -> Iterator[Finding]:
    if MODEL_FILE in subject.contents:
        return
    tops = {name.split("/", 1)[0] for name in subject.contents.files}
    nested = {name for name in tops if not name.startswith(".")}
    inside = next(iter(nested)) if len(nested) == 1 else None
    remedy = f"Write a {MODEL_FILE} with a handle."
    if inside is not None and f"{inside}/{MODEL_FILE}" in subject.contents:
        remedy = f"Check the folder {inside}, which is the package."
        if subject.is_archive:
            remedy = "Pack it flat: servers look into one folder, and no deeper."
    yield Finding(
        "error",
        "model-file-missing",
        f"There is no {MODEL_FILE}, nor an option.entryPoint: DJL Serving has nothing to run.",
        remedy,
        subject.contents.where,
    )


def _provides(subject: Subject, entry: str) -> bool:
    if subject.code_file in subject.contents:
        return True
    package = f"{entry.replace('.', '/')}/__init__.py"
    if not entry.endswith(".py") and package in subject.contents:
        return True
    # A module of an installed library, as far as anybody knows here.
    return not entry.endswith(".py") and "." in entry


def platforms(subject: Subject) -> Iterator[Finding]:
    """Say where it runs as it is; an archive that runs nowhere is an error."""
    convention = subject.convention
    if convention is None:
        return
    if convention.is_packed:
        yield Finding(
            "note",
            "convention",
            f"Made for {_origin(convention)}. It runs everywhere: {_and(convention.platforms)}.",
            "No action is needed.",
            subject.contents.where,
        )
        return
    severity: Severity = "note"
    message = f"Made for {_origin(convention)}. As it is, "
    if convention.platforms:
        message += f"it runs everywhere: {_and(convention.platforms)}; error responses "
        message += "are DJL's own, and it has no worker slots."
    else:
        message += "only SageMaker's framework containers run it: the embedded server, DJL "
        message += "Serving 0.36 and SageMaker's stock image look for a handle in model.py."
        severity = "error" if subject.is_archive else "note"
    if convention.ignored:
        message += f" DJL Serving 0.36 ignores {', '.join(convention.ignored)}, whose "
        message += "parameters have other names than it looks for; once packed it is called."
    yield Finding(
        severity,
        "convention",
        message,
        "Pack it with `mme pack`: the archive then runs everywhere, with worker slots.",
        subject.contents.where,
    )


def functions(subject: Subject) -> Iterator[Finding]:
    """Expect a script of SageMaker's kind to load its model, and to transform in one way."""
    convention = subject.convention
    if convention is None or convention.is_of_handler or not convention.functions:
        return
    parts = [one for one in ("input_fn", "predict_fn", "output_fn") if one in convention.functions]
    where = subject.place(subject.code_file)
    if "model_fn" not in convention.functions:
        yield Finding(
            "error",
            "model-fn-missing",
            f"There is no model_fn in {subject.code_file}: nothing loads the model.",
            "Write def model_fn(model_dir): ... that returns it.",
            where,
        )
    if "transform_fn" in convention.functions and parts:
        yield Finding(
            "error",
            "transform-fn-and-parts",
            f"transform_fn does the work of {_and(parts)}, and {subject.code_file} has both: "
            "SageMaker's containers refuse it.",
            f"Remove transform_fn, or {_and(parts)}.",
            where,
        )


def model_format(subject: Subject) -> Iterator[Finding]:
    """Expect the options that DJL's handlers want before they load a file."""
    convention = subject.convention
    if convention is None or not convention.is_of_handler:
        return
    if "model_fn" in convention.functions or _may_have_init_handler(subject):
        return
    options = subject.properties.options
    formats = SKLEARN_FORMATS if convention.made_for == SKLEARN else XGBOOST_FORMATS
    default = "skops" if convention.made_for == SKLEARN else "json"
    chosen = options.get("model_format") or default
    where = subject.place_of("option.model_format")
    if chosen not in formats:
        yield Finding(
            "error",
            "model-format-unknown",
            f"option.model_format is {chosen}, but may be one of {', '.join(formats)}.",
            "Write the one that the model was saved in.",
            where,
        )
    elif chosen == "skops" and not options.get("skops_trusted_types"):
        yield Finding(
            "error",
            "skops-types-missing",
            f"{SKLEARN} loads a skops file with option.skops_trusted_types only.",
            "List what skops.io.get_untrusted_types names, separated by commas; for a joblib or "
            "pickle file write option.model_format and option.trust_insecure_model_files=true.",
            where,
        )
    elif chosen not in _SAFE_FORMATS and not _trusts(options.get("trust_insecure_model_files")):
        yield Finding(
            "error",
            "model-format-untrusted",
            f"A file of the format {chosen} runs code when it is loaded, and "
            f"{convention.made_for} refuses it.",
            "Write option.trust_insecure_model_files=true if you made the file, or save the model "
            f"as {default}.",
            where,
        )


def _origin(convention: Convention) -> str:
    if convention.made_for in HANDLERS:
        return convention.made_for
    if convention.functions:
        named = ", ".join(convention.functions)
        return f"SageMaker's framework containers ({named} in {convention.script})"
    return f"a script in {convention.script}"


def _may_have_init_handler(subject: Subject) -> bool:
    return "init_handler" in (subject.contents.text(subject.code_file) or "")


def _trusts(value: str | None) -> bool:
    return value is not None and value.lower() == "true"


def _and(names: Sequence[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last
