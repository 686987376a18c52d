"""The tables of a service, made from its settings; those that were stored go on where they stood."""

from __future__ import annotations

import logging
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING, Any

from fedmb.replay.class_balanced import ClassBalanced
from fedmb.replay.limiter import RateLimiter
from fedmb.replay.lowest_priority import LowestPriority
from fedmb.replay.n_step import NStep
from fedmb.replay.prioritized import Prioritized
from fedmb.replay.recency import Recency
from fedmb.replay.remover import Fifo, Lifo
from fedmb.replay.replay_table import ReplayTable
from fedmb.replay.reservoir import Reservoir
from fedmb.replay.served_table import ServedTable
from fedmb.replay.snapshot import generations
from fedmb.replay.trajectory import Windows
from fedmb.replay.uniform_sampler import Uniform
from fedmb.replay.without_replacement import WithoutReplacement

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fedmb.replay.reader import Reader
    from fedmb.replay.remover import Remover
    from fedmb.replay.sampler import Sampler
    from fedmb.replay.service_section import ReaderSection, RemoverSection, ReplayServe, SamplerSection, TableSection

logger = logging.getLogger(__name__)


@contextmanager
def opened(settings: ReplayServe) -> Iterator[dict[str, ServedTable]]:
    """Every table by its name, closed on the way out.

    Raises:
        SettingsError: a setting breaks a rule, or a folder was made for others.
        AlreadyOwned: another process has a table's folder.
        CorruptRing, CorruptSnapshot: what was stored is damaged.
    """
    with ExitStack() as parts:
        served = {}
        for name, section in settings.tables.items():
            place = settings.snapshots.folder / name if settings.snapshots.folder and not section.folder else None
            sampler = sampler_of(section.sampler)
            table = parts.enter_context(closing(table_of(name, section, sampler, settings.seed)))
            if place is not None and place.is_dir() and generations(place):
                table.restore(place)
            served[name] = ServedTable(
                table,
                place,
                has_folder=section.folder is not None,
                in_order=section.remover.kind == "fifo" and section.max_times_sampled is None,
                sampler=sampler,
            )
            logger.info("table opened name=%s rows=%d capacity=%d", name, len(table), table.capacity)
        yield served


def table_of(name: str, section: TableSection, sampler: Sampler, seed: int) -> ReplayTable:
    """One table, as its folder has it where it has one."""
    parts: dict[str, Any] = {
        "sampler": sampler,
        "remover": remover_of(section.remover),
        "limiter": None if section.limiter is None else RateLimiter(**section.limiter.model_dump()),
        "max_times_sampled": section.max_times_sampled,
        "reader": reader_of(section.reader),
        "seed": seed,
        "name": name,
    }
    if section.folder is not None:
        return ReplayTable.mapped(section.folder, section.row_schema(), section.capacity, **parts)
    return ReplayTable(section.row_schema(), section.capacity, **parts)


def sampler_of(section: SamplerSection) -> Sampler:
    """The sampler that settings name."""
    match section.kind:
        case "prioritized":
            return Prioritized(section.alpha, section.beta)
        case "recency":
            return Recency(section.half_life)
        case "without_replacement":
            return WithoutReplacement()
    return Uniform()


def remover_of(section: RemoverSection) -> Remover:
    """The remover that settings name."""
    match section.kind:
        case "lifo":
            return Lifo()
        case "lowest_priority":
            return LowestPriority()
        case "reservoir":
            return Reservoir()
        case "class_balanced":
            assert section.label is not None, "as the settings checked"
            return ClassBalanced(section.label)
    return Fifo()


def reader_of(section: ReaderSection) -> Reader | None:
    """The reader that settings name; None reads rows as they are."""
    match section.kind:
        case "windows":
            return Windows(section.length, ends=section.ends, burn_in=section.burn_in, num_streams=section.num_streams)
        case "n_step":
            return NStep(section.length, section.discount, num_streams=section.num_streams)
    return None
