import json

import numpy as np
from replay_service import SCHEMA, numbered, serving

from fedmb.cli import main
from fedmb.exit_codes import ExitCode
from fedmb.replay.limiter import RateLimiter
from fedmb.replay.prioritized import Prioritized
from fedmb.replay.replay_table import ReplayTable


def test_a_folder_is_shown_with_bars(tmp_path, capsys):
    table = ReplayTable.mapped(tmp_path / "t", SCHEMA, 20, sampler=Prioritized(alpha=1.0, epsilon=0.0))
    table.append(numbered(0, 30), priorities=np.arange(30.0))
    table.snapshot()
    table.close()

    assert main(["replay", "inspect", str(tmp_path / "t")]) == ExitCode.OK

    shown = capsys.readouterr().out
    assert shown.startswith(f"table {tmp_path}/t\n  20 of 20 rows (100.0 %), ")
    assert "  x float32[5]\n  done bool" not in shown
    assert "age, in rows appended since: mean 9.5, least 0, largest 19" in shown
    assert "chances, priorities to the power of alpha: mean 19.5, least 10, largest 29" in shown
    assert shown.count("#" * 40) == 20, "ten equal bins, twice"


def test_a_service_is_shown_by_its_address(capsys):
    table = ReplayTable(SCHEMA, 100, limiter=RateLimiter(2.0, 5, 100.0), name="other")
    with serving(table) as service:
        table.append(numbered(0, 10))

        assert main(["replay", "inspect", service.address, "--table", "other"]) == ExitCode.OK
        assert main(["replay", "inspect", service.address, "--table", "other", "--json"]) == ExitCode.OK
        assert main(["replay", "inspect", service.address]) == ExitCode.SETTINGS

    said = capsys.readouterr()
    text, _, rest = said.out.partition("\n{")
    assert text.startswith(f"service {service.address} other\n  10 of 100 rows (10.0 %)")
    assert "limiter inserts 10, samples 0" in text
    assert json.loads("{" + rest)["appended"] == 10
    assert "must be one of other" in said.err


def test_an_empty_table_has_no_bars(tmp_path, capsys):
    ReplayTable.mapped(tmp_path / "t", SCHEMA, 20).close()

    assert main(["replay", "inspect", str(tmp_path / "t")]) == ExitCode.OK
    assert "age, in rows appended since: no rows" in capsys.readouterr().out


def test_nobody_at_the_address_and_nothing_at_the_path_have_codes(tmp_path, capsys):
    assert main(["replay", "inspect", "127.0.0.1:9"]) == ExitCode.UNREACHABLE
    assert main(["replay", "inspect", str(tmp_path / "nothing")]) == ExitCode.SETTINGS
    assert "hint: name a file, a folder, or the address of a service" in capsys.readouterr().err
