"""`fedmb replay inspect`: how full, how old and how weighed the rows of a ring, table or service are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

WIDTH = 40  # characters of a histogram's longest bar
_ADDRESS = re.compile(r".+:[0-9]+")


def inspect(
    place: Annotated[str, typer.Argument(help="A ring's file, a table's folder, a snapshot, or HOST:PORT.")],
    table: Annotated[str, typer.Option(help="Which table of a service.")] = "default",
    token_file: Annotated[Path | None, typer.Option(help="File with the service's token.")] = None,
    root_certificates: Annotated[Path | None, typer.Option(help="PEM certificates that vouch for it.")] = None,
    *,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show fill, age and priorities of remembered rows; nothing is changed."""
    if _ADDRESS.fullmatch(place) and not Path(place).exists():
        from fedmb.replay.remote import RemoteTable
        from fedmb.replay.ring_layout import named

        with RemoteTable(
            place, table, root_certificates=root_certificates, token_file=token_file, reconnect_seconds=0.0
        ) as remote:
            found = {
                "kind": "service",
                "path": f"{place} {table}",
                "columns": named(remote.schema),
                **remote.figures(),
            }
    else:
        from fedmb.replay.inspection import inspected

        found = inspected(Path(place))
    if json:
        from json import dumps

        print(dumps(found, indent=2))
    else:
        print("\n".join(_lines(found)))


def _lines(found: Mapping[str, Any]) -> Iterator[str]:
    """Figures as lines for a person."""
    yield f"{found['kind']} {found['path']}"
    share = 100 * found["rows"] / found["capacity"]
    yield f"  {found['rows']:,} of {found['capacity']:,} rows ({share:.1f} %), {found['num_bytes']:,} bytes"
    counts = ("appended", "removed", "sampled", "reprioritized", "stale")
    yield "  " + ", ".join(f"{name} {found[name]:,}" for name in counts if name in found)
    for name, (dtype, shape) in found["columns"].items():
        yield f"  {name} {dtype}{shape or ''}"
    if limiter := found.get("limiter"):
        yield "  limiter " + ", ".join(f"{name} {one}" for name, one in limiter.items() if not isinstance(one, dict))
    if stored := found.get("snapshot"):
        yield f"  snapshot {stored['path']} of {stored['appended']:,} appended rows"
    for title, key in (
        ("age, in rows appended since", "ages"),
        ("chances, priorities to the power of alpha", "priorities"),
        ("times sampled", "times_sampled"),
    ):
        if figures := found.get(key):
            yield from _spread(title, figures)


def _spread(title: str, figures: Mapping[str, Any]) -> Iterator[str]:
    """A distribution and its histogram."""
    yield ""
    if not figures["count"]:
        yield f"{title}: no rows"
        return
    low, middle, high = figures["quartiles"]
    yield f"{title}: mean {figures['mean']:.6g}, least {figures['min']:.6g}, largest {figures['max']:.6g}"
    yield f"  a quarter each below {low:.6g}, {middle:.6g}, {high:.6g}"
    edges, counts = figures["histogram"]["edges"], figures["histogram"]["counts"]
    most = max(counts)
    for start, stop, count in zip(edges, edges[1:], counts, strict=False):
        yield f"  {start:>12.6g} to {stop:<12.6g} {count:>10,} {'#' * round(WIDTH * count / most)}"
