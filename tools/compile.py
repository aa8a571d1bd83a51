"""Compile what cold loads import, by importing it; a part of `make setup`.

Python writes down the bytecode of what it imports. Where PYTHONDONTWRITEBYTECODE is set, as in many
containers, it would not, and every process would compile all that it imports anew, which for SetFit
takes longer than importing it. Everything that is installed would be 26,000 files, 700 MB and
minutes; a load of every kind of model, and a start of the local endpoint, import 6,000 of them.
"""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed

# The longest first, as two are imported at a time.
KINDS = {
    "SetFit and sentence-transformers": "sentence_transformers setfit",
    "MLflow": "mlflow.pyfunc",
    "gradient boosting": "catboost lightgbm xgboost",
    "scikit-learn": "joblib scipy.sparse skops.io sklearn.compose sklearn.ensemble sklearn.impute"
    " sklearn.linear_model sklearn.multioutput sklearn.naive_bayes sklearn.neighbors"
    " sklearn.neural_network sklearn.pipeline sklearn.preprocessing sklearn.svm sklearn.tree",
    "the local endpoint": "boto3 moto.server prometheus_client pydantic_settings rich.live typer",
    "networks": "onnxruntime PIL.Image torch",
    "tables": "pandas polars pyarrow.parquet",
    "OpenTelemetry": "opentelemetry.exporter.otlp.proto.http.metric_exporter"
    " opentelemetry.sdk.metrics",
}

PROGRAM = """
import contextlib, importlib, io, sys
missing = []
with contextlib.redirect_stdout(io.StringIO()):
    for module in sys.argv[1:]:
        try:
            importlib.import_module(module)
        except Exception:
            missing.append(module)
print(*missing, sep=", ")
"""


def main() -> None:
    """Compile all kinds, two at a time; what is not installed is left out."""
    with ThreadPoolExecutor(2) as two:
        runs = {two.submit(imported, modules.split()): kind for kind, modules in KINDS.items()}
        for run in as_completed(runs):
            print(f"compiled {runs[run]}{run.result()}", flush=True)


def imported(modules: list[str]) -> str:
    """Import modules in a process of their own, and say which of them could not be."""
    # Isolated, it writes bytecode whatever the environment says, and sees nothing of the user.
    run = subprocess.run(
        [sys.executable, "-I", "-W", "ignore", "-c", PROGRAM, *modules],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    missing = "its process ended early" if run.returncode else run.stdout.strip()
    return f", but for {missing}" if missing else ""


if __name__ == "__main__":
    main()
