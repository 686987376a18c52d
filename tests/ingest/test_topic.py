import pytest

from fedmb.errors import SettingsError
from fedmb.ingest.topic import check_topic, stream_partition
from fedmb.ledger import StreamPartition


@pytest.mark.parametrize("topic", ["digits", "a", "A.b_c-9", "...", "x" * 249])
def test_kafkas_names_are_accepted(topic):
    check_topic(topic)


def test_a_partition_is_named_with_its_log():
    assert stream_partition("here", "digits", 3) == StreamPartition("here", "digits", 3)


def test_an_error_says_which_setting_broke_the_rule():
    with pytest.raises(SettingsError) as caught:
        stream_partition("here", "a/b", 0)
    assert caught.value.key == "topic"
