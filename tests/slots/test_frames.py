"""Rows that are frames, under load: whatever is joined, everybody gets an own answer."""

from __future__ import annotations

import json
import random
from concurrent.futures import ThreadPoolExecutor

import pytest

from mmekit.testing import Sample, load_handler
from tests.server_process import ServerProcess

REQUESTS, CALLERS = 900, 16

FRAMES = """
import json
import numpy as np
import pandas as pd
from mmekit_runtime import Handler, Parameters

class Lengths(Handler):
    largest_call = 0

    def load(self, folder):
        return None

    def decode(self, body, content_type):
        return pd.DataFrame({"review": json.loads(body)}), Parameters()

    def predict(self, model, rows, parameters):
        texts = np.asarray(rows).ravel()
        self.largest_call = max(self.largest_call, len(texts))
        if "how many" in texts:
            return [str(self.largest_call)] * len(texts)
        return np.array([f"{len(text)} {text[::-1]}" for text in texts])

handle = Lengths()
"""


@pytest.fixture(scope="module")
def server():
    running = ServerProcess()
    yield running
    running.close()


def test_a_column_of_texts_in_a_frame_gets_no_other_caller_s_answers(server, model):
    folder = model(FRAMES, maxWorkers=16)
    name = server.loaded(folder)
    drawn = random.Random(0)  # noqa: S311
    asked = [
        [f"{number} {'x' * drawn.randrange(40)}" for _ in range(drawn.randint(1, 3))]
        for number in range(REQUESTS)
    ]

    def ask(texts):
        return server.invoke(name, json.dumps(texts), Content_Type="application/json").json()

    with ThreadPoolExecutor(CALLERS) as callers:
        answers = list(callers.map(ask, asked))

    assert answers == [
        {"predictions": [f"{len(text)} {text[::-1]}" for text in texts]} for texts in asked
    ]
    # They were joined, too: no request has more than three rows.
    assert int(ask(["how many"])["predictions"][0]) > 3
    server.unload(name)


def test_the_proof_finds_nothing_in_it(model):
    folder = model(FRAMES, runtime=False)
    with load_handler(folder) as loaded:
        assert loaded.prove_batches(Sample(b'["a", "bc"]', "application/json")) is None
