"""What two workers must have in common to share a fork server, and where it listens."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from binascii import crc32

from mmekit_runtime.slots.build import BUILD

PROTOCOL = 3
ACKNOWLEDGES = 1
"""A fork server says at once that it has heard a request, to whoever asks for that."""

OFF_VARIABLE = "MMEKIT_WORKER_SLOTS"
"""``off`` (or 0, no, false) runs the plain engine."""

FOLDER_VARIABLE = "MMEKIT_SLOTS_DIR"
"""Where fork servers keep their sockets, instead of the folder for temporary files."""

_PIECE = 1 << 16  # a file decides how long it is
# Libraries read these when they are imported, so in the fork server.
_LIBRARY_PREFIXES = (
    "ARROW_",
    "BLIS_",
    "CUDA_",
    "DNNL_",
    "GOMP_",
    "HF_",
    "HUGGINGFACE_",
    "JOBLIB_",
    "KMP_",
    "LC_",
    "LD_",
    "LOKY_",
    "MALLOC_",
    "MKL_",
    "NPY_",
    "NUMBA_",
    "NUMEXPR_",
    "NUMPY_",
    "OMP_",
    "ONEDNN_",
    "OPENBLAS_",
    "ORT_",
    "PYTORCH_",
    "SCIPY_",
    "SENTENCE_TRANSFORMERS_",
    "SKLEARN_",
    "TOKENIZERS_",
    "TORCH_",
    "TRANSFORMERS_",
    "USE_",
    "VECLIB_",
    "XDG_",
)
# So do the interpreter and the C library; PYTHONPATH is compared without the model's folder.
_INTERPRETER_VARIABLES = (
    "GLIBC_TUNABLES",
    "HOME",
    "LANG",
    "PYTHONHASHSEED",
    "PYTHONHOME",
    "PYTHONMALLOC",
    "PYTHONOPTIMIZE",
    "PYTHONUTF8",
    "PYTHONWARNINGS",
    "TZ",
)


VARYING_VARIABLES = ("_", "PWD", "OLDPWD", "SHLVL")
"""A shell sets these, between a server and a worker: they say nothing of the model."""


def is_off(environ: dict[str, str] | os._Environ[str]) -> bool:
    """Whether the switch in the environment says so."""
    return environ.get(OFF_VARIABLE, "").strip().lower() in ("off", "0", "no", "false")


def library_paths(environ: dict[str, str] | os._Environ[str], model_dir: str) -> list[str]:
    """Return PYTHONPATH without the model's own folder."""
    paths = environ.get("PYTHONPATH", "").split(os.pathsep)
    return [path for path in paths if path and os.path.abspath(path) != model_dir]  # noqa: PTH100


def sharing_key(environ: dict[str, str] | os._Environ[str], model_dir: str) -> str:
    """Return a text that is equal for workers that may share a fork server.

    The same runtime, interpreter, libraries (and requirements.txt, which DJL Serving installs just
    before) and the same variables that libraries read when they are imported.
    """
    parts = [str(PROTOCOL), BUILD, sys.executable, sys.version]
    parts += library_paths(environ, model_dir)
    for name in sorted(environ):
        if name.startswith(_LIBRARY_PREFIXES) or name in _INTERPRETER_VARIABLES:
            parts.append(f"{name}={environ[name]}")
    try:
        with open(os.path.join(model_dir, "requirements.txt"), "rb") as file:  # noqa: PTH118, PTH123
            sum_of_it = 0
            while piece := file.read(_PIECE):
                sum_of_it = crc32(piece, sum_of_it)
            parts.append(f"requirements {sum_of_it}")
    except OSError:
        pass
    return "\0".join(parts)


def socket_folder(environ: dict[str, str] | os._Environ[str]) -> str:
    """Return the user's own folder for sockets; make it when it is not there.

    Raises
    ------
    OSError
        The folder belongs to somebody else, or others may enter it.
    """
    base = environ.get(FOLDER_VARIABLE)
    if base is None:
        base = os.path.join(environ.get("TMPDIR", "/tmp"), f"mmekit-{os.getuid()}")  # noqa: PTH118, S108
    with contextlib.suppress(FileExistsError):
        os.mkdir(base, 0o700)  # noqa: PTH102
    # lstat(): a link that somebody else has made may lead to a folder of this user's.
    status = os.lstat(base)
    private_folder = stat.S_ISDIR(status.st_mode) and not status.st_mode & 0o077
    if status.st_uid != os.getuid() or not private_folder:
        raise OSError(f"{base} is not a folder that this user alone may enter")
    return base


def socket_path(folder: str, key: str) -> str:
    """Return the address of the fork server for a key."""
    # hashlib would be imported for this alone. It is only an address: the whole key is compared.
    # And a short one, as that of a socket has 108 bytes at most.
    raw = key.encode("utf-8", "surrogateescape")
    half = len(raw) // 2
    return os.path.join(folder, f"{crc32(raw[:half]):08x}{crc32(raw[half:]):08x}")  # noqa: PTH118
