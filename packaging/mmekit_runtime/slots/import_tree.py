"""Which template processes there are, by what they have imported, and from which one is made."""

from __future__ import annotations

from mmekit_runtime.slots.shared_body import is_body
from mmekit_runtime.slots.template_process import TemplateProcess

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class ImportTree:
    """The template processes of one fork server, by what they have imported."""

    def __init__(self) -> None:
        self._templates: list[TemplateProcess] = []

    def __iter__(self) -> Iterator[TemplateProcess]:
        """Yield the templates, oldest first."""
        return iter(list(self._templates))

    def add(self, imports: Iterable[str]) -> TemplateProcess:
        """Add a template that is not started yet."""
        template = TemplateProcess(frozenset(imports))
        self._templates.append(template)
        return template

    def remove(self, template: TemplateProcess) -> None:
        """Forget a template that has ended."""
        if template in self._templates:
            self._templates.remove(template)

    def exact(self, wanted: frozenset[str]) -> TemplateProcess | None:
        """Return the template, ready or not, that has just these imports."""
        for template in self._templates:
            if template.imports == wanted:
                return template
        return None

    def widened(self, wanted: frozenset[str]) -> frozenset[str]:
        """Add what a template for other models of the same libraries has imported already.

        Other modules of a library that a model uses anyway cost it nothing: they are shared. So
        all models of one library hang on one chain of templates, each adding the little it lacks.
        """
        packages = _packages(wanted)
        related = [
            template for template in self._templates if _packages(template.imports) <= packages
        ]
        nearest = max(related, key=lambda template: len(template.imports), default=None)
        return wanted | nearest.imports if nearest else wanted

    def plan(self, wanted: frozenset[str]) -> tuple[TemplateProcess | None, list[frozenset[str]]]:
        """Say from which template, and over which steps, one with these imports is made.

        Returns
        -------
        ancestor, steps
            The template that has the most of it and nothing else (None: none has), and the imports
            of each template to fork in turn. With another set that shares more than the ancestor
            has, what they share is a step of its own; so are the libraries below a body.
        """
        without_body = frozenset(name for name in wanted if not is_body(name))
        subsets = [template for template in self._templates if template.imports <= wanted]
        ancestor = max(subsets, key=lambda template: len(template.imports), default=None)
        has = ancestor.imports if ancestor else frozenset()
        shared = max(
            (template.imports & wanted for template in self._templates), key=len, default=has
        )
        steps = [wanted]
        if has < shared < wanted:
            steps.insert(0, shared)
        elif has < without_body < wanted:
            # Another body is then loaded on top of the same libraries.
            steps.insert(0, without_body)
        return ancestor, steps


def _packages(names: Iterable[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}
