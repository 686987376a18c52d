"""The parts that pack one stream into another, chosen by their URLs."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from fedmb.errors import SettingsError
from fedmb.ingest.codec_choice import codecs_in
from fedmb.ingest.dead_letter import LogDeadLetters
from fedmb.ingest.pack import Packer
from fedmb.ingest.packed_codec import PackedCodec
from fedmb.ingest.stream_url import StreamUrl, open_log, partitions_of

if TYPE_CHECKING:
    from fedmb.batch.minibatch import Schema
    from fedmb.ingest.dead_letter import DeadLetters


def open_packers(
    source: str, target: str, schema: Schema, *, rows: int, linger_seconds: float
) -> tuple[list[Packer], DeadLetters]:
    """A packer for each partition of a source, and where undecodable records go: to TOPIC.dlq beside their own topic.

    Raises:
        SettingsError: a URL breaks a rule, or the target's partitions are not the source's.
        AlreadyOwned: another process packs into the target.
        Unreachable: a broker does not answer.
    """
    plain, choice = codecs_in(source)
    read, written = StreamUrl.parse(plain), StreamUrl.parse(codecs_in(target)[0])
    log, target_log = open_log(read, create=False), open_log(written)
    partitions = partitions_of(log, read)
    if (found := partitions_of(target_log, written, absent=partitions)) != partitions:
        raise SettingsError(
            f"a packed stream must have its source's partitions {list(partitions)}, got {list(found)}; name the "
            "same in both URLs",
            key="to",
        )
    letters = LogDeadLetters(log)
    with ExitStack() as opened:
        opened.callback(letters.close)
        packers = []
        for partition in partitions:
            packer = Packer(
                log,
                read.topic,
                target_log,
                written.topic,
                partition,
                codecs=choice.for_schema(schema),
                codec=PackedCodec(schema),
                dead_letters=letters,
                rows=rows,
                linger_seconds=linger_seconds,
            )
            opened.callback(packer.close)
            packers.append(packer)
        opened.pop_all()  # what was opened is the caller's from here on
    return packers, letters
