"""What tests of stream rings share."""

import pytest
from numbered_ring import Place


@pytest.fixture
def place(tmp_path):
    one = Place(tmp_path)
    yield one
    one.close()
