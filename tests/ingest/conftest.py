from __future__ import annotations

import itertools
import os

import pytest
from apicurio import ApicurioRegistry, RunningRegistry

_subjects = itertools.count()


@pytest.fixture(scope="session")
def registry():
    """A schema registry, one for the whole run: FEDMB_REGISTRY's, or one that this run starts. `.url` is its root."""
    if url := os.environ.get("FEDMB_REGISTRY"):
        yield RunningRegistry(url)
        return
    with ApicurioRegistry() as server:
        yield server


@pytest.fixture
def subject():
    """A subject that no other test has."""
    return f"t{os.getpid()}-{next(_subjects)}-value"
