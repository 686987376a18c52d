import logging

import pytest

from fedmb.ingest.kafka_secrets import hide

SECRETS = ["correct horse", "pässwörd", "quote'\\\"back\\\\slash\ttab"]


@pytest.mark.parametrize("secret", SECRETS)
def test_no_line_of_the_library_shows_a_secret(caplog, secret):
    hide(secret)
    caplog.set_level(logging.DEBUG)
    log = logging.getLogger("kafka.net.connection")
    log.debug("configuration %s", {"sasl_plain_password": secret})
    log.debug("Send: %r", b"\0alice\0" + secret.encode())
    log.debug("password %s", secret)
    log.debug("other")

    assert caplog.messages == ["other"]


def test_no_secret_hides_nothing(caplog):
    hide("")
    caplog.set_level(logging.DEBUG)
    logging.getLogger("kafka.net.connection").debug("other")

    assert caplog.messages == ["other"]
