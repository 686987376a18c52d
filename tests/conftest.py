from __future__ import annotations

import itertools
import logging
import os

import pytest
from hypothesis import settings
from kafka_broker import KafkaBroker
from programs import OF_THE_SUITE
from shared_broker import RunningBroker, shared_broker

# Several workers share the cores: a second thread of one waits, busily, for a core that another one has. Training in
# ten lines takes ten times as long then. Read by torch and NumPy when they are imported.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

# Machines differ in speed; timings decide no test. The seed of a failure is printed by hypothesis itself.
settings.register_profile("fedmb", deadline=None, print_blob=True)
settings.load_profile("fedmb")

_numbers = itertools.count()


def pytest_collection_modifyitems(items):
    """Files of real processes first: they are the longest, and two workers end together if short ones come last."""
    items.sort(key=lambda item: not {"processes", "examples"} & set(item.path.parts))


@pytest.fixture(autouse=True)
def _with_the_logging_that_it_found():
    """Commands that run in this process set up logging for a whole process; the next test begins without that."""
    own, root = logging.getLogger("fedmb"), logging.getLogger()
    before, kept, level = (own.level, own.propagate, own.handlers[:]), root.handlers[:], root.level
    yield
    own.setLevel(before[0])
    own.propagate, own.handlers[:] = before[1:]
    for handler in [one for one in root.handlers if type(one) is logging.StreamHandler and one not in kept]:
        root.removeHandler(handler)
    root.setLevel(level)
    logging.captureWarnings(capture=False)


@pytest.fixture(autouse=True)
def _without_what_this_suite_is_told(monkeypatch):
    """Programs refuse FEDMB_ variables that are none of their settings; modules have read theirs when imported."""
    for name in OF_THE_SUITE:
        monkeypatch.delenv(f"FEDMB_{name}", raising=False)


@pytest.fixture(scope="session")
def kafka(tmp_path_factory, worker_id):
    """Apache Kafka, one for the whole run: FEDMB_KAFKA's, or one that this run starts. `kafka.address` is host:port."""
    if address := os.environ.get("FEDMB_KAFKA"):
        yield RunningBroker(address)
        return
    own = tmp_path_factory.getbasetemp()
    with shared_broker(own if worker_id == "master" else own.parent) as broker:
        yield broker


@pytest.fixture
def own_kafka():
    """A broker that one test may kill, freeze and restart."""
    with KafkaBroker() as broker:
        yield broker


@pytest.fixture
def topic():
    """Name of a topic that no other test has; made by whoever writes to it."""
    return f"t{os.getpid()}-{next(_numbers)}"
