"""The commands that make folders: a project, and a package of an artefact."""

from __future__ import annotations

import shlex
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmekit.cli.application import AsJson, Panel, app
from mmekit.plural import counted

if TYPE_CHECKING:
    from mmekit.scaffold import Initialised

_WIDTH = 80
_LABEL = 11
_COLUMNS = 8
_ANSWER = 200


@app.command("new-project", rich_help_panel=Panel.PACKAGE)
def new_project(
    folder: Annotated[
        Path,
        typer.Argument(metavar="NAME", help="The project's name: the folder to make, or its path."),
    ],
) -> None:
    """Create a project folder: a model, tests, a GitHub workflow.

    With the model's notebook, env.py, mme.yaml and a README. The workflow checks and packs the
    models, rehearses the endpoint on the runner, and deploys. The folder must be new or empty.

    **Example:** mme new-project churn
    """
    from mmekit.scaffold import new_project as make

    for path in make(folder):
        typer.echo(folder / path)
    typer.echo(
        f"\nNext:\n  cd {shlex.quote(str(folder))}\n  pip install -r requirements.txt\n"
        "  README.md has the rest: train, pack, rehearse"
    )


@app.command(rich_help_panel=Panel.PACKAGE)
def init(  # noqa: PLR0913  an option each
    name: Annotated[str, typer.Argument(help="The name of the model.")],
    *,
    artifact: Annotated[
        Path, typer.Option("--artifact", "-a", help="The trained model: a file or a folder.")
    ],
    example: Annotated[
        Path | None,
        typer.Option(
            "--example",
            "-e",
            help="Rows to take column names, types and a sample request from: CSV, Parquet, JSON "
            "or npy.",
        ),
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="The column of --example with the labels; it is dropped.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Default: model_packages/NAME."),
    ] = None,
    artifacts: Annotated[
        Path | None,
        typer.Option(help="The folder for the artefact. Default: build/artifacts/NAME."),
    ] = None,
    code: Annotated[
        list[Path] | None,
        typer.Option(
            help="A module or package that a pickle imports. Those in the working directory and "
            "beside the artefact are found without it."
        ),
    ] = None,
    trust: Annotated[
        list[str] | None,
        typer.Option(help="A type in a skops file to trust, although skops does not."),
    ] = None,
    convert_to_skops: Annotated[
        bool,
        typer.Option(
            "--convert-to-skops",
            help="Convert a pickle to skops, if both predict the same for the example.",
        ),
    ] = False,
    link: Annotated[bool, typer.Option("--link", help="Link the artefact, do not copy.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite the files of an earlier init.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Create a package folder from a trained model, without code.

    The format is detected: scikit-learn (joblib, pickle, cloudpickle, skops), XGBoost, LightGBM,
    CatBoost, ONNX, TorchScript, or a folder of SetFit, sentence-transformers or MLflow. The model
    is loaded once; loading a pickle runs the code in it.

    **Example:** mme init churn --artifact model.joblib --example customers.csv
    """
    from mmekit.progress import under_way
    from mmekit.scaffold import Wishes
    from mmekit.scaffold import init as make

    wishes = Wishes(
        name=name,
        artifact=artifact,
        example=example,
        output=output,
        artifacts=artifacts,
        target=target,
        code=tuple(code or ()),
        trusted=tuple(trust or ()),
        convert_to_skops=convert_to_skops,
        link=link,
        force=force,
    )
    with under_way(f"loading {artifact.name} and asking it"):
        done = make(wishes)
    if as_json:
        _print_json(name, done)
    else:
        _report(name, done)


def _print_json(name: str, done: Initialised) -> None:
    import json

    content = {
        "name": name,
        "package": str(done.package),
        "artifacts": str(done.artifacts),
        "test": str(done.test),
        "found": done.inspected.title,
        "library": done.inspected.library,
        "handler": done.inspected.handler,
        "form": done.inspected.form,
        "requirements": list(done.inspected.requirements),
        "signature": None if done.signature is None else json.loads(done.signature.to_json()),
        "answer": done.answer,
        "notes": list(done.notes),
    }
    typer.echo(json.dumps(content, indent=2, ensure_ascii=False))


def _report(name: str, done: Initialised) -> None:
    inspected = done.inspected
    _say("Found", f"{inspected.title}, {inspected.library}; saved as {inspected.form}")
    if inspected.runs_code:
        _say("", "Loading it runs the code in it: load only files that you trust.")
    if done.skops_types is not None:
        _say("", _safer(done.skops_types))
    _say("Inputs", _taken(done))
    _say("Package", f"{done.package}: model.py with {inspected.handler}, {_listed(done)}")
    _say("Artefacts", f"{done.artifacts}: {inspected.name} {_placed(done)}")
    _say("Sample", _sample(done))
    for note in done.notes:
        _say("Note", note)
    typer.echo(
        "\nNext:\n"
        f"  pytest {done.test}\n"
        f"  mme pack {done.package} --artifacts {done.artifacts} \\\n"
        f"    -o build/archives/{name}.tar.gz\n"
        "  mme up"
    )


def _safer(unknown: tuple[str, ...]) -> str:
    trust = "".join(f" --trust {one}" for one in unknown)
    named = f" (if you trust the types {', '.join(unknown)})" if unknown else ""
    return (
        "skops is the safer format: loading it runs no code. It can hold this model"
        f"{named}: use --convert-to-skops{trust}, or save it with "
        'skops.io.dump(model, "model.skops")'
    )


def _taken(done: Initialised) -> str:
    signature, inspected = done.signature, done.inspected
    if signature is None or not signature.inputs:
        width = f" of {inspected.width} columns" if inspected.width else ""
        return f"{inspected.rows}{width}"
    names = ", ".join(f"{column.name} ({column.type})" for column in signature.inputs[:_COLUMNS])
    more = (
        f" and {len(signature.inputs) - _COLUMNS} more" if len(signature.inputs) > _COLUMNS else ""
    )
    said = f"a table of {len(signature.inputs)}: {names}{more}"
    if done.left_out:
        said += f"; {', '.join(done.left_out)} of the example dropped, as no feature"
    if signature.frame:
        said += "; as a pandas DataFrame"
    return said


def _listed(done: Initialised) -> str:
    own = [f"{path.name}" for path in done.inspected.code]
    modules = f", your {' and '.join(own)}" if own else ""
    lines = " ".join(line for line in done.inspected.requirements)
    return f"serving.properties, requirements.txt ({lines}), a test{modules}"


def _placed(done: Initialised) -> str:
    said = {
        "copied": "copied there",
        "linked": "linked there",
        "converted": "converted from the pickle, with the same predictions for the example",
        "left": "already there",
    }[done.placed]
    return f"{said}, signature.json beside it" if done.signature is not None else said


def _sample(done: Initialised) -> str:
    import json

    answer = json.dumps(done.answer, ensure_ascii=False)
    if len(answer) > _ANSWER:
        answer = f"{answer[:_ANSWER].rpartition(' ')[0]} and so on (--json has it all)"
    origin = "generated, as there is no --example" if done.sample.made_up else "from the example"
    return f"{counted(len(done.sample.instances), 'row')} {origin}; response {answer}"


def _say(label: str, text: str) -> None:
    indent = " " * _LABEL
    typer.echo(
        textwrap.fill(
            text,
            _WIDTH,
            initial_indent=f"{label:<{_LABEL}}",
            subsequent_indent=indent,
            break_long_words=False,
            break_on_hyphens=False,
        )
    )
