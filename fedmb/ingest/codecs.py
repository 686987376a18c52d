"""The codecs that records of one source may have, and what a record may have at most."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, overload

from fedmb.errors import SettingsError
from fedmb.ingest.codec import RowCodec, decoder_for
from fedmb.ingest.record_limits import RecordLimits

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fedmb.batch.minibatch import Schema
    from fedmb.ingest.codec import Codec


class Codecs(Sequence["Codec"]):
    """Codecs of one schema, by name; the first decodes records whose headers name none.

    Args:
        codecs: in their order; another `Codecs` gives its limits too.
        limits: of a record's headers.

    Raises:
        SettingsError: there is no codec, or two have one name or different schemas.
    """

    def __init__(self, codecs: Sequence[Codec], limits: RecordLimits | None = None) -> None:
        if not codecs or len({codec.name for codec in codecs}) < len(codecs):
            names = [codec.name for codec in codecs]
            raise SettingsError(f"a source needs one or more codecs of different names, got {names}", key="codecs")
        if any(codec.schema != codecs[0].schema for codec in codecs):
            raise SettingsError(
                f"codecs of one source must have one schema, got {[dict(codec.schema) for codec in codecs]}; make a "
                "source for each schema",
                key="codecs",
            )
        self.limits: RecordLimits = limits or (codecs.limits if isinstance(codecs, Codecs) else RecordLimits())
        self._by_name = {codec.name: codec for codec in codecs}
        self._in_order = tuple(codecs)
        self._row_codecs = {codec.name: codec for codec in codecs if isinstance(codec, RowCodec)}
        self._last: tuple[Mapping[str, bytes] | None, Codec] = (None, codecs[0])

    @property
    def schema(self) -> Schema:
        """Columns of all of them."""
        return self._in_order[0].schema

    def decoder(self, headers: Mapping[str, bytes]) -> Codec:
        """The codec that a record's headers name.

        Raises:
            DecodeError: they name a codec that is not here, or another schema, or are too many.
        """
        known, codec = self._last
        if headers is not known:  # records of one producer share them
            codec = decoder_for(headers, self._by_name, self._in_order[0], limits=self.limits)
            self._last = (headers, codec)
        return codec

    def row_decoder(self, headers: Mapping[str, bytes]) -> RowCodec | None:
        """The codec that a record's headers name where it has one row in each record; None where it has not.

        Raises:
            DecodeError: as `decoder`.
        """
        return self._row_codecs.get(self.decoder(headers).name)

    @overload
    def __getitem__(self, index: int) -> Codec: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Codec]: ...
    def __getitem__(self, index: int | slice) -> Codec | Sequence[Codec]:
        return self._in_order[index]

    def __len__(self) -> int:
        return len(self._in_order)
