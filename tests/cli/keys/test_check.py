"""`fedmb keys check` fails where a key is of no use."""

import json

from fedmb.access.new_keys import make_node, make_server
from fedmb.cli import main
from fedmb.exit_codes import ExitCode


def test_keys_in_order_pass_and_a_readable_one_does_not(tmp_path, capsys):
    make_server(tmp_path, ["example.org"])
    make_node(tmp_path / "nodes", "ward")

    assert main(["keys", "check", str(tmp_path)]) == ExitCode.OK
    (tmp_path / "nodes" / "ward.key").chmod(0o644)
    capsys.readouterr()

    assert main(["keys", "check", str(tmp_path), "--json"]) == ExitCode.CHECK
    told = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in told["checks"] if one["status"] == "failed"] == ["nodes/ward.key"]
    assert [one["name"] for one in told["checks"] if one["status"] == "warning"] == ["authority.key"]
