"""Fixtures for tests of one's own handlers; pytest finds them as soon as mmekit is installed.

::

    import pytest

    @pytest.fixture(scope="module")
    def ridge(mme_model):
        return mme_model("model_packages/ridge", "build/artifacts/ridge")

    def test_one_row_gets_one_prediction(ridge):
        answer = ridge.invoke('{"instances": [[0.05]]}')
        assert answer.status == 200
        assert len(answer.json()["predictions"]) == 1

The handler runs in the test's own process with djl_python's own Input and Output: a breakpoint in
model.py works, and no server is needed. Where the package has a sample request, it is asked for in
batches, too: an answer that depends on the requests beside it is an error of the fixture.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mmekit.testing import LocalModel

__all__ = ["mme_model"]


@pytest.fixture(scope="session")
def mme_model() -> Iterator[Callable[..., LocalModel]]:
    """Return `mmekit.testing.load_handler`; the models that it loads are closed at the end.

    A package's sample request is answered in batches as it is alone, or loading fails with
    BatchError (`LocalModel.prove_batches`); ``batches=False`` leaves that out. The fixture's scope
    is the session, so that fixtures of any scope can use it.
    """
    # Imported here: the plugin is read in every pytest run of the environment.
    from mmekit.errors import ArchiveError, PackageError
    from mmekit.testing import load_handler, read_sample

    with contextlib.ExitStack() as models:

        def load(
            model: Path | str, artifacts: Path | str | None = None, *, batches: bool = True
        ) -> LocalModel:
            loaded = models.enter_context(load_handler(model, artifacts))
            if batches:
                try:
                    sample = read_sample(model)
                except (ArchiveError, PackageError):  # none is there, as it was loaded just now
                    return loaded
                loaded.prove_batches(sample)
            return loaded

        yield load
