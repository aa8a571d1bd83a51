"""What a deployment's models can be asked, and what metrics call them: read from their archives."""

from __future__ import annotations

import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError

from mmekit.archive.describe import example_in, names_in, small_files
from mmekit.errors import MmekitError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mmekit.archive.contents import Contents
    from mmekit.archive.package import Example
    from mmekit.deploy.account import Site
    from mmekit.deploy.coming import ComingReleases
    from mmekit.deploy.models import PackedModel

__all__ = ["AskedModel", "ModelSample", "asked_models", "read_samples", "replacing_models"]

_THREADS = 8
_BEGINNING = 1 << 20  # in most archives the manifest is there
_CHUNK = 1 << 20


@dataclass(frozen=True)
class AskedModel:
    """A model that will be current.

    Attributes
    ----------
    key
        The target model.
    name
        What callers ask for: the same, or without the digest.
    file
        Its archive on this machine; None where it is in the bucket alone.
    """

    key: str
    name: str
    file: Path | None = None


@dataclass(frozen=True)
class ModelSample:
    """What an archive tells.

    Attributes
    ----------
    example
        A request that its model answers; None where there is none.
    names
        What the model may be called in metrics.
    lacks
        Why there is no example, where that is another reason than that it has none.
    """

    example: Example | None
    names: tuple[str, ...]
    lacks: str = ""


def asked_models(
    models: Sequence[PackedModel], coming: ComingReleases | None
) -> tuple[AskedModel, ...]:
    """Return the models that will be current: those of the file in its order, and then others.

    What is promoted is in no file, and a file with versions need not name any.
    """
    found = {model.key: AskedModel(model.key, model.name, model.path) for model in models}
    others = {} if coming is None else dict(sorted(coming.after.models.items()))
    for name, version in others.items():
        found.setdefault(version.key, AskedModel(version.key, name))
    return tuple(found.values())


def replacing_models(
    models: Sequence[PackedModel], coming: ComingReleases | None
) -> tuple[AskedModel, ...]:
    """Return those among them that take the place of another version."""
    if coming is None or not coming.makes_release:
        return ()
    changed = coming.after.current.changed.values()
    keys = {
        one.after.key for one in changed if one.after and one.before and one.after != one.before
    }
    return tuple(one for one in asked_models(models, coming) if one.key in keys)


def read_samples(
    site: Site, models: Sequence[AskedModel], seconds: float
) -> dict[str, ModelSample]:
    """Read what models can be asked, for so many seconds at most; return it by their keys."""
    deadline = time.monotonic() + seconds
    site.account.client("s3")  # one for all threads
    with ThreadPoolExecutor(_THREADS) as threads:
        found = threads.map(lambda one: _sample(site, one, deadline), models)
        return {model.key: sample for model, sample in zip(models, found, strict=True)}


def _sample(site: Site, model: AskedModel, deadline: float) -> ModelSample:
    stem = model.name.rpartition("/")[2].removesuffix(".tar.gz")
    try:
        files = _files(site, model, deadline)
        if files is None:
            return ModelSample(None, (stem,), "reading it took too long")
        return ModelSample(example_in(files), names_in(files, stem))
    except (MmekitError, ClientError, BotoCoreError, OSError) as error:
        return ModelSample(None, (stem,), str(error).splitlines()[0])


def _files(site: Site, model: AskedModel, deadline: float) -> Contents | None:
    """Return the files that describe an archive; None when time is over."""
    if time.monotonic() > deadline:
        return None
    if model.file is not None:
        return small_files(model.file)
    s3, place = site.account.client("s3"), {"Bucket": site.bucket, "Key": site.prefix + model.key}
    got = s3.get_object(**place, Range=f"bytes=0-{_BEGINNING - 1}")
    beginning = got["Body"].read()
    where = Path(model.key)
    if int(got.get("ContentRange", "/0").rpartition("/")[2]) <= len(beginning):
        return small_files(where, beginning)
    files = small_files(where, beginning, is_beginning=True)
    if example_in(files) is not None:
        return files
    with tempfile.TemporaryDirectory(prefix="mme-warm-up-") as folder:
        file = Path(folder, "archive.tar.gz")
        with file.open("wb") as stream:
            for chunk in s3.get_object(**place)["Body"].iter_chunks(_CHUNK):
                if time.monotonic() > deadline:
                    return None
                stream.write(chunk)
        return small_files(file)
