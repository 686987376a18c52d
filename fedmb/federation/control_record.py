"""The mean of all clients' control variates on its way down: a flat record beside the model, a line in the config."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from fedmb.aggregation.control_variates import Variate
from fedmb.arrays.flat import Layout
from fedmb.federation.model_record import flat_from_record, flat_to_record
from fedmb.federation.record_fields import text_in

if TYPE_CHECKING:
    from flwr.app import ConfigRecord, RecordDict

    from fedmb.update import Arrays

CONTROL = "control"
_ABOUT = "fedmb-control"


def add_control(content: RecordDict, config: ConfigRecord, mean: Arrays, generation: int) -> None:
    """Put the mean into a message's records; its layout and generation go into its config."""
    layout = None
    if mean:
        content[CONTROL], found = flat_to_record(mean)
        layout = found.text
    config[_ABOUT] = json.dumps({"generation": generation, "layout": layout})


def read_control(content: RecordDict, config: ConfigRecord) -> Variate | None:
    """What `add_control` put there; None where nothing is.

    Raises:
        ShapeError, KeyError, TypeError, ValueError: the records have another form.
    """
    if _ABOUT not in config:
        return None
    about = json.loads(text_in(config, _ABOUT))
    generation, layout = about["generation"], about["layout"]
    if type(generation) is not int:
        raise TypeError(f"a generation must be a whole number, got {type(generation).__name__}")
    if layout is None:
        return Variate({}, generation)
    return Variate(flat_from_record(content.array_records[CONTROL], Layout.from_text(layout)), generation)
