"""What docs/guide/privacy.md says of Flower's secure aggregation: it is not in the API that fedmb is built on."""

import pkgutil

import flwr.clientapp.mod
import flwr.serverapp
import pytest
from flwr.app import Context, RecordDict
from flwr.server.workflow import SecAggPlusWorkflow


def test_the_current_api_has_none():
    names = [*dir(flwr.clientapp.mod), *dir(flwr.serverapp), *dir(flwr.serverapp.strategy)]
    modules = [one.name for part in (flwr.clientapp, flwr.serverapp) for one in pkgutil.walk_packages(part.__path__)]

    assert not [name for name in names + modules if "secagg" in name.lower() or "secure_agg" in name.lower()]


def test_the_legacy_workflow_refuses_the_current_context():
    workflow = SecAggPlusWorkflow(num_shares=3, reconstruction_threshold=2)
    context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={})

    with pytest.raises(TypeError, match="Expect a LegacyContext, but get Context"):
        workflow(None, context)
