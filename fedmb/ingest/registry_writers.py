"""Writers' schemas out of a schema registry, by the id that each record begins with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedmb.errors import SettingsError
from fedmb.ingest.writer_schema import WriterSchema, frame, unframed

if TYPE_CHECKING:
    from fedmb.ingest.schema_registry import SchemaRegistry


class RegistryWriters:
    """Schemas of a registry.

    Args:
        registry: which.
        subject: where to register the schema of what we write, by custom `<topic>-value`; empty writes nothing.
    """

    framed = True

    def __init__(self, registry: SchemaRegistry, *, subject: str = "") -> None:
        self._registry = registry
        self._subject = subject
        self._own: dict[str, tuple[WriterSchema, bytes]] = {}

    def opened(self, value: bytes | memoryview) -> tuple[WriterSchema, memoryview]:
        """A record's schema, asked for once, and what comes behind the frame; blocks while it is asked for.

        Raises:
            DecodeError, Unreachable, AccessDenied: as the protocol says.
        """
        number, body = unframed(value)
        return self._registry.schema(number), body

    def for_writing(self, kind: str, text: str) -> tuple[WriterSchema, bytes]:
        """`text` as registered under the subject, once, and its frame.

        Raises:
            SettingsError, Unreachable, AccessDenied: as the protocol says.
        """
        if text not in self._own:
            if not self._subject:
                raise SettingsError(
                    "writing by a registry's schema needs a subject, got none; name it like TOPIC-value", key="subject"
                )
            number = self._registry.register(self._subject, kind, text)
            self._own[text] = WriterSchema(number, kind, text), frame(number)
        return self._own[text]
