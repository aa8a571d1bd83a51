"""Build the site from docs/, README and the rest, with a reference of classes and commands.

The pages keep their places, so that the links between them, which lead somewhere on the forge too,
are those of the site. A link to what is no page (a test, a folder) is its text alone. Notebooks
become pages. The reference is made from docstrings (mkdocstrings) and the help of `mme` (typer).
Nothing is fetched, and no page fetches anything: whatever would is an error, as a broken link is.
"""

from __future__ import annotations

import importlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import FunctionType, ModuleType

ROOT = Path(__file__).resolve().parent.parent
PAGES = ROOT / "build" / "pages"
SITE = ROOT / "build" / "site"
STARTS = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"]
SHOWN = {".json", ".png", ".svg"}  # what a page may show or link beside other pages
FENCE = re.compile(r"^```.*?^```[ ]*$|`[^`\n]+`", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
FETCHED = re.compile(
    r"<(?:script|img|link|iframe)\b[^>]*?\b(?:src|href)=\"?((?:https?:)?//[^\s\">]+)"
)
# The face of each wing: what its __all__ names is in the reference.
MODULES = {
    "mmekit": "What you ship",
    "mmekit.archive": "Packages and archives",
    "mmekit.testing": "Handlers in tests and notebooks",
    "mmekit.notebook": "Tables in notebooks",
    "mmekit.deploy": "Deployments",
    "mmekit.errors": "Errors",
    "mmekit_runtime": "Handlers: what travels in an archive",
    "mmekit_local.server": "The container's side",
    "mmekit_local.sagemaker": "SageMaker's side",
    "mmekit_bench": "Load, and what it shows",
    "mmekit_bench.clients": "Many clients at one moment",
}


def main() -> None:
    """Gather the pages, build the site, and look whether it needs a network."""
    shutil.rmtree(PAGES, ignore_errors=True)
    shutil.rmtree(SITE, ignore_errors=True)
    found = [*STARTS, *(str(page.relative_to(ROOT)) for page in ROOT.glob("docs/**/*.md"))]
    gather(found)
    write_reference()
    build = [sys.executable, "-m", "zensical", "build", "--strict", "--clean"]
    built = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=False)
    if built.returncode:
        said = COLOUR.sub("", built.stdout + built.stderr).partition("Traceback (most recent")[0]
        sys.exit(f"{said}\ndocs: the site is not whole: mend what is named above")
    pages = list(SITE.rglob("*.html"))
    fetched = {f"{page}: {url}" for page in pages for url in FETCHED.findall(page.read_text())}
    if fetched:
        sys.exit("docs: a page would fetch something:\n" + "\n".join(sorted(fetched)))
    print(f"docs: {len(pages)} pages in {SITE.relative_to(ROOT)}")


def gather(names: list[str]) -> None:
    """Copy pages and whatever they lead to that the site can show."""
    known = set(names)
    while names:
        name = names.pop()
        source, page = ROOT / name, PAGES / name
        page.parent.mkdir(parents=True, exist_ok=True)
        if source.suffix in SHOWN:
            shutil.copyfile(source, page)
            continue
        text, targets = linked(source, text_of(source))
        page.with_suffix(".md").write_text(text)
        names += targets - known
        known |= targets


def text_of(source: Path) -> str:
    """Return a page as Markdown; a notebook's cells one after the other."""
    if source.suffix == ".md":
        return source.read_text()
    cells = json.loads(source.read_text())["cells"]
    texts = [(cell["cell_type"], "".join(cell["source"])) for cell in cells]
    return "\n\n".join(
        text if kind == "markdown" else f"```python\n{text}\n```" for kind, text in texts if text
    )


def linked(source: Path, text: str) -> tuple[str, set[str]]:
    """Return a page's text with links that hold on the site, and the files they lead to."""
    targets: set[str] = set()

    def mended(link: re.Match[str]) -> str:
        shown, said, target = link.groups()
        path, mark, anchor = target.partition("#")
        if not path or re.match(r"[a-z]+:", target):
            return link[0]
        file = (source.parent / path).resolve()
        if not file.exists():
            sys.exit(f"docs: {source.relative_to(ROOT)} links to {path}, which is not there")
        if file.suffix not in {".md", ".ipynb", *SHOWN}:
            return said
        targets.add(str(file.relative_to(ROOT)))
        if file.suffix == ".ipynb":
            path = path.removesuffix("ipynb") + "md"
        return f"{shown}[{said}]({path}{mark}{anchor})"

    kept = FENCE.findall(text)
    pieces = FENCE.split(text)
    mended_pieces = [LINK.sub(mended, piece) for piece in pieces]
    whole = "".join(a + b for a, b in zip(mended_pieces, [*kept, ""], strict=True))
    return whole, targets


def write_reference() -> None:
    """Write the pages of modules and of commands."""
    folder = PAGES / "reference"
    folder.mkdir(parents=True)
    for module, title in MODULES.items():
        face = importlib.import_module(module)
        names = [name for name in face.__all__ if not name.startswith("__")]
        blocks = "\n\n".join(f"::: {home_of(face, name)}" for name in names)
        (folder / f"{module}.md").write_text(f"# {title}\n\n`{module}`\n\n{blocks}\n")
    docs = [sys.executable, "-m", "typer", "mmekit.cli", "utils", "docs", "--name", "mme"]
    commands = subprocess.run(docs, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    (folder / "commands.md").write_text(commands.replace("# `mme`\n", "# Commands\n", 1))


def home_of(face: ModuleType, name: str) -> str:
    """Return where a name is defined: `mmekit.archive.pack` alone is a module as well."""
    thing = getattr(face, name)
    if isinstance(thing, type | FunctionType):
        return f"{thing.__module__}.{thing.__qualname__}"
    return f"{face.__name__}.{name}"


if __name__ == "__main__":
    main()
