"""A real `fedmb stream run`, and what it says of itself while it runs."""

import urllib.request
from pathlib import Path

from counting import SCHEMA
from programs import Program

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
    address = running.logged("metrics=").split()[0]
    with urllib.request.urlopen(address, timeout=10) as answer:  # noqa: S310  # its own metrics, on loopback
        lines = answer.read().decode().splitlines()
    found = {}
    for line in lines:
        if not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            name = name.partition("{")[0]
            found[name] = found.get(name, 0.0) + float(value)
    return found


def rows_kept(running):
    return figures(running)["fedmb_stream_rows_total"]


def resident_bytes(process):
    """Memory of a process of this machine, with what it has mapped and touched."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) << 10
