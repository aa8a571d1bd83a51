"""Models that nobody asks give back their process, and nobody notices."""

from __future__ import annotations

import os
import random
import re
import signal
import threading
import time
from collections import Counter

import psutil
import pytest

from mmekit_runtime.slots.memory import private_bytes
from mmekit_runtime.wire import encode_request

SOON = 0.1

COUNTING = """
import os, time
from djl_python import Output

def handle(inputs):
    if inputs.is_empty():
        return None
    with open("answered", "a") as file:
        file.write(inputs.get_as_string() + "\\n")
    return Output().add(inputs.get_as_string())
"""


@pytest.fixture
def parked(until):
    """Wait until a fork server has no model process."""

    def wait(slots, count=0):
        until(lambda: len(slots.model_processes()) == count)

    return wait


def test_a_model_that_nobody_asks_gives_back_its_process_and_keeps_its_slots(
    slots, model, parked, until
):
    workers = slots.start_many(3, model(option__park_after=SOON))
    first = workers[0].value("os.getpid()")

    parked(slots)
    again = [worker.value("os.getpid()") for worker in workers]

    assert len(set(again)) == 1
    assert again[0] != first
    assert all(worker.is_slot for worker in workers)
    assert re.search(
        r"parked after \d+ s without a request, \d+\.\d MiB given back", workers[0].output
    )
    workers[0].wait_for("mmekit: woken in")
    assert workers[0].output.count("djl_python_engine started") == 1


def test_a_woken_model_is_initialised_as_it_was(slots, model, parked):
    worker = slots.launch(model(option__park_after=SOON))
    worker.connect()
    worker.initialise(colour="green")

    parked(slots)

    assert worker.value("len(initialised), initialised[0]['colour']") == "(1, 'green')"


def test_a_woken_model_finds_its_folder_environment_and_files_and_new_random_numbers(
    slots, model, parked
):
    worker = slots.start(model(option__park_after=SOON), COLOUR="green")
    look = "os.getcwd(), os.environ['COLOUR'], sys.path, sys.argv"
    before = worker.value(look)
    seen = worker.value("open('kept', 'w').write('x') and random.random()")

    parked(slots)

    assert worker.value(look) == before
    assert worker.value("open('kept').read()") == "x"
    assert worker.value("random.random()") != seen


@pytest.mark.parametrize(
    ("setting", "environment"), [(0, {}), (None, {"MMEKIT_PARK_AFTER_S": "0"})]
)
def test_a_model_that_shall_never_park_does_not(slots, model, parked, setting, environment):
    options = {} if setting is None else {"option__park_after": setting}
    lasting = slots.start(model(name="lasting", **options), **environment)
    pid = lasting.value("os.getpid()")
    other = slots.start(model(name="other"), MMEKIT_PARK_AFTER_S=str(SOON))

    parked(slots, 1)

    assert lasting.value("os.getpid()") == pid
    assert other.value("1 + 1") == "2"


def test_a_model_that_is_not_loaded_yet_does_not_park(slots, model, until):
    worker = slots.launch(model(option__park_after=SOON))
    worker.connect()
    other = slots.start(model(name="other", option__park_after=SOON))
    until(lambda: other.line("parked after"))

    assert len(slots.model_processes()) == 1
    assert worker.initialise().status == 204


def test_a_request_of_which_a_part_has_come_keeps_its_process(slots, model, until):
    worker, other = slots.start_many(2, model(option__park_after=SOON))
    pid = worker.value("os.getpid()")
    request = encode_request({"handler": "handle"}, (("data", b"1" + b" " * 200_000 + b"+ 1"),))
    worker.sock.sendall(request[:150_000])
    until(lambda: worker.unread() == 0)
    bystander = slots.start(model(name="bystander", option__park_after=SOON))
    until(lambda: bystander.line("parked after"))

    worker.sock.sendall(request[150_000:])

    assert worker.receive().body == b"2"
    assert other.value("os.getpid()") == pid or other.line("parked after")


def test_requests_in_the_moment_of_parking_are_answered_once_each(slots, model):
    folder = model(COUNTING, option__park_after=0.05)
    workers = slots.start_many(4, folder)
    generator = random.Random(7)  # noqa: S311  no secret
    failures = []
    sent = [[f"{number}-{count}" for count in range(60)] for number in range(len(workers))]

    def ask(worker, texts, pauses):
        for text, pause in zip(texts, pauses, strict=True):
            if (answer := worker.ask(text)).body != text.encode():
                failures.append(answer)
            time.sleep(pause)

    threads = [
        # Together, so that the model is idle about as long as it takes to be parked.
        threading.Thread(target=ask, args=(worker, texts, pauses))
        for worker, texts in zip(workers, sent, strict=True)
        for pauses in [[generator.choice((0, 0.05, 0.08, 0.11)) for _ in texts]]
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert failures == []
    answered = Counter((folder / "answered").read_text().split())
    assert answered == Counter(text for texts in sent for text in texts)


def test_workers_that_end_while_their_model_is_parked_are_gone_at_once(slots, model, parked, until):
    first, second = slots.start_many(2, model(option__park_after=SOON))
    parked(slots)

    first.kill()
    second.hang_up()

    assert second.process.wait(60) == 1
    until(lambda: slots.scoreboards() == 0)
    assert slots.model_processes() == []


def test_a_worker_that_is_added_while_its_model_is_parked_waits_with_it(slots, model, parked):
    folder = model(option__park_after=SOON)
    first = slots.start(folder)
    parked(slots)

    second = slots.launch(folder)
    second.connect()

    assert second.is_slot
    assert second.initialise().status == 204
    assert second.value("os.getpid()") == first.value("os.getpid()")


def test_a_model_whose_files_have_changed_is_loaded_as_they_are_now(slots, model, parked):
    folder = model(option__park_after=SOON)
    worker = slots.start(folder)
    parked(slots)

    (folder / "model.py").write_text((folder / "model.py").read_text() + "\nversion = 2\n")

    assert worker.value("version") == "2"


def test_a_fork_server_that_dies_with_parked_models_ends_their_workers(slots, model, parked):
    folder = model(option__park_after=SOON)
    worker = slots.start(folder)
    parked(slots)

    os.kill(slots.fork_server().pid, signal.SIGKILL)

    assert worker.process.wait(60) == 1
    with pytest.raises(ConnectionError):
        worker.receive()
    assert slots.start(folder).value("1 + 1") == "2"


def test_a_woken_process_that_dies_is_replaced(slots, model, parked):
    worker = slots.start(model(option__park_after=SOON))
    parked(slots)
    pid = worker.value("os.getpid()")

    os.kill(int(pid), signal.SIGKILL)

    assert worker.value("os.getpid()") != pid


def test_a_parked_model_has_four_descriptors_in_the_fork_server(slots, model, until):
    slots.start(model(name="first", option__park_after=SOON))
    (server,) = slots.roots()
    until(lambda: slots.scoreboards() == 0)
    before = server.num_fds()

    slots.start(model(name="second", option__park_after=SOON))
    until(lambda: slots.scoreboards() == 0)

    # Its connection, its control channel, and where its output goes: one pipe, in these tests.
    assert server.num_fds() - before == 3


def test_template_processes_stay_while_models_are_parked(impatient_slots, model, until):
    worker = impatient_slots.start(model(option__park_after=SOON))
    template = psutil.Process(int(worker.value("os.getppid()")))
    bystander = impatient_slots.start(model(name="other", option__park_after=0))
    until(lambda: len(impatient_slots.model_processes()) == 1)
    bystander.kill()
    until(lambda: not impatient_slots.model_processes())

    assert worker.value("os.getppid()") == str(template.pid)


def test_a_wake_takes_the_process_that_was_forked_ahead(bare, model, until):
    server = bare(model(option__park_after=SOON), MMEKIT_SLOTS_SPARES="1")
    claim = server.start()
    (template,) = server.templates()
    first = psutil.Process(int(claim.value("os.getpid()")))
    until(lambda: b"parked after" in server.output)
    # Who is asked in the very moment of parking stays.
    until(lambda: first not in template.children())
    (spare,) = until(lambda: {*template.children()} - {first})

    assert claim.value("os.getpid()") == str(spare.pid)
    until(lambda: {*template.children()} - {first, spare})


def test_a_spare_that_dies_is_not_given(bare, model, until):
    server = bare(model(option__park_after=SOON), MMEKIT_SLOTS_SPARES="1")
    claim = server.start()
    (template,) = server.templates()
    first = psutil.Process(int(claim.value("os.getpid()")))
    until(lambda: b"parked after" in server.output)
    (spare,) = until(lambda: {*template.children()} - {first})

    spare.kill()

    assert claim.value("os.getpid()") != str(spare.pid)
    assert claim.value("1 + 1") == "2"


def test_what_models_write_to_is_copied_before_the_next_is_there(bare, model, until):
    server = bare(model(), MMEKIT_SLOTS_SPARES="1")
    first = server.start("first")
    (template,) = server.templates()
    # It counts references to what lies on many a page.
    first.value("[list(vars(one).values()) for one in list(sys.modules.values())] and 1")
    pid = int(first.value("os.getpid()"))

    (spare,) = until(lambda: {*template.children()} - {psutil.Process(pid)})
    until(lambda: private_bytes(spare.pid) > 0.8 * private_bytes(pid))
    second = server.start("second")

    assert second.value("os.getpid()") == str(spare.pid)
    assert second.value("1 + 1") == "2"
