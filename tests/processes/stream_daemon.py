"""A real `fedmb stream run`, and what it says of itself while it runs."""

from pathlib import Path

from counting import SCHEMA
from programs import Program, figures_at

from fedmb.federation.stream_schema import schema_text


def daemon(place, url, ring, *settings, name="daemon", schema=SCHEMA):
    """A daemon between `url` and `ring`, with settings such as `max_bytes=131072`; its log lies in `place`."""
    place.mkdir(exist_ok=True)
    columns = place / "schema.json"
    columns.write_text(schema_text(schema))
    told = [part for setting in settings for part in ("--set", setting)]
    return Program(place, name, "stream", "run", url, "--ring", ring, "--schema", columns, "--port", 0, *told)


def figures(running):
    """Its metrics by name, those with labels added up."""
    return figures_at(running.logged("metrics=").split()[0])


def rows_kept(running):
    return figures(running)["fedmb_stream_rows_total"]


def resident_bytes(process):
    """Memory of a process of this machine, with what it has mapped and touched."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) << 10
