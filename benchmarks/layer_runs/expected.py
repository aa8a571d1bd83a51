"""What each customer must answer: the sentence model's own vector, and the customer's head."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from slot_runs.servers import ServerFailure

if TYPE_CHECKING:
    from layer_runs.customers import Customers

_CODE = """
import json, sys
from setfit import SetFitModel
folder, sentence = sys.argv[1:]
model = SetFitModel.from_pretrained(folder, local_files_only=True)
print(json.dumps(model.model_body.encode([sentence]).tolist()))
"""
_VARIABLES = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "2"}
_TAIL = 2000
# Of a float32: the vector comes from another process, and may come from another batch.
_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Expectation:
    """The answers of all customers to one request.

    Attributes
    ----------
    request
        Its body.
    probabilities
        Of each customer, by number.
    apart
        The least distance between two customers' answers: the largest difference of probabilities.
    """

    request: bytes
    probabilities: tuple[tuple[float, ...], ...]
    apart: float

    def is_own(self, number: int, answer: bytes) -> bool:
        """Whether an answer is that customer's, and so no other's."""
        found = json.loads(answer)["probabilities"][0]
        expected = self.probabilities[number]
        return max(abs(a - b) for a, b in zip(found, expected, strict=True)) < _TOLERANCE


def expect(customers: Customers, count: int) -> Expectation:
    """Compute what the first customers must answer.

    Raises
    ------
    ServerFailure
        The sentence model does not load, or two customers would answer nearly the same.
    """
    import numpy as np

    sentence = "Please tell me why you charged my card twice since last week."
    command = [sys.executable, "-c", _CODE, str(customers.subject.artifacts / "setfit"), sentence]
    finished = subprocess.run(
        command, env={**os.environ, **_VARIABLES}, capture_output=True, text=True, check=False
    )
    if finished.returncode != 0:
        raise ServerFailure(f"the sentence model does not load: {finished.stderr[-_TAIL:]}")
    vector = np.asarray(json.loads(finished.stdout.splitlines()[-1]))
    answers = np.vstack([customers.head(number).predict_proba(vector) for number in range(count)])
    apart = _least_distance(answers)
    if apart < 3 * _TOLERANCE:
        raise ServerFailure(f"two customers' answers are {apart:.1e} apart: that tells nothing")
    request = json.dumps({"instances": [sentence], "parameters": {"probabilities": True}}).encode()
    return Expectation(request, tuple(map(tuple, answers.tolist())), apart)


def _least_distance(answers: object) -> float:
    import numpy as np

    rows = np.asarray(answers)
    least = float("inf")
    for number, row in enumerate(rows[:-1]):
        least = min(least, float(np.abs(rows[number + 1 :] - row).max(axis=1).min()))
    return least
