"""What a run says when it ends, read back from its run directory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fedmb.federation import checkpoint
from fedmb.telemetry.sinks import read_lines

if TYPE_CHECKING:
    from fedmb.federation.checkpoint import ServerState
    from fedmb.federation.rounds import Rounds
    from fedmb.telemetry.run_directory import RunDirectory


def summary(run: RunDirectory, state: ServerState, *, rounds: Rounds, seconds: float, verb: str) -> str:
    """Last scores, rows by origin over the whole run, and where everything is.

    Args:
        run: the run's directory.
        state: where it stands.
        rounds: its settings, which say how many there are to be.
        seconds: wall-clock time that this process spent on it.
        verb: of the command that goes on with it.
    """
    entries = [entry for _, entry in read_lines(run.metrics)]
    rows: dict[str, int] = {}
    for entry in entries:
        for origin, count in entry["rows"].items():
            rows[origin] = rows.get(origin, 0) + count
    of = "so far, without end" if rounds.is_endless else f"of {rounds.count}"
    lines = [f"rounds      {state.version} {of}, {seconds:.1f} s in this process"]
    if entries:
        scores = entries[-1]["scores"]
        lines += [f"{label:<11} {scores[name]:.4f}{note}" for label, name, note in _SCORES if name in scores]
    lines.append("rows learnt " + ", ".join(f"{count:,} {origin}" for origin, count in sorted(rows.items())))
    if state.ledger:
        lines.append("ledger      " + ", ".join(f"{one} @ {here.offset}" for one, here in state.ledger.items()))
    found = checkpoint.generations(run.checkpoints)
    if found:
        lines.append(f"checkpoint  {_shown(found[-1][1])}")
    lines.append(f"run         {_shown(run.path)}")
    if reason := state.convergence.get("reason"):
        lines.append(f"converged   {reason}")
    elif state.version < rounds.last:
        lines.append(f"stopped     go on with: fedmb {verb} --resume {_shown(run.path)}")
    return "\n".join(lines)


_SCORES = (
    ("accuracy", "accuracy", " on held-out rows"),
    ("departed", "departed_accuracy", " on the classes that left the streams"),
)


def _shown(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
