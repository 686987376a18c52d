import sys

import pytest

from fedmb.errors import SettingsError
from fedmb.ingest.stream_url import open_log


def test_a_driver_that_is_not_installed_is_named_with_its_extra(kafka, topic, monkeypatch):
    monkeypatch.setitem(sys.modules, "confluent_kafka", None)
    log = open_log(f"kafka://{kafka.address}/{topic}?driver=confluent")

    with pytest.raises(SettingsError, match=r"pip install 'fedmb\[fast\]'"):
        log.writer(topic, 0)


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
def test_a_compression_that_is_not_installed_is_named_with_its_extra(kafka, topic, monkeypatch, compression):
    for name in ("lz4", "lz4f", "lz4framed", "zstandard", "zstd"):
        monkeypatch.setattr(f"kafka.codec.{name}", None, raising=False)
    log = open_log(f"kafka://{kafka.address}/{topic}?compression={compression}")

    with pytest.raises(SettingsError, match=r"pip install 'fedmb\[compression\]'"):
        log.writer(topic, 0)
