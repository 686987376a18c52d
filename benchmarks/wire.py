"""A model into bytes and back: ours beside Flower's own way, pickle and safetensors.

    python benchmarks/wire.py [--quick] [--json PATH]

Each contender takes a model's state dict to bytes and writes what it reads from them into another model, in turns
within one run and on one thread; a ratio pairs round trips of the same turn, so that a busy moment hits both. Printed:
median time, bytes a second, and of the paired ratios to Flower's the median and the range of the middle half. What
integrity each has stands beside its name. Every result is compared with the model before anything is timed.
"""

from __future__ import annotations

import argparse
import gc
import json
import pickle
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.torch
import torch
from flwr.app import ArrayRecord, Message, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, no_object_id_recompute
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from torch import nn

from fedmb.arrays.flat import Layout
from fedmb.arrays.tensor_bytes import from_bytes, to_bytes
from fedmb.federation.model_record import arrays_to_record, flat_from_record, flat_to_record
from fedmb.simulation.grid import InProcessGrid
from fedmb.training.parameters import load_arrays, shared_arrays

if TYPE_CHECKING:
    from collections.abc import Callable

FLOWER = "Flower, an array a tensor (SHA-256)"
OURS = "fedmb bytes (CRC-32C both ways)"
TARGET = 3.0
NUM_TENSORS = 160
ARRAYS = "arrays"


def model_of(num_parameters: int) -> nn.Module:
    """160 tensors, half of them matrices whose sizes rise as a ResNet's do, half vectors."""
    shares = np.geomspace(1, 100, NUM_TENSORS // 2)
    widths = np.maximum(4, np.sqrt(shares / shares.sum() * num_parameters)).astype(int)
    model, random = nn.Module(), torch.Generator().manual_seed(0)
    for number, width in enumerate(widths.tolist()):
        model.register_parameter(f"weight_{number}", nn.Parameter(torch.randn(width, width, generator=random)))
        model.register_parameter(f"bias_{number}", nn.Parameter(torch.randn(width, generator=random)))
    return model


def through_flower(record: ArrayRecord) -> ArrayRecord:
    """What a message's model goes through between two processes, without the network: objects, hashed, and back."""
    message = Message(RecordDict({ARRAYS: record}), dst_node_id=2, message_type="train")
    with no_object_id_recompute():
        name = message.object_id
        contents = {one: nested.deflate() for one, nested in get_all_nested_objects(message).items()}
    inflated: Any = inflate_object_from_contents(name, contents)
    return inflated.content.array_records[ARRAYS]


def num_objects(record: ArrayRecord) -> int:
    """Objects that a message with this model has; Flower moves each in a request of its own."""
    return len(get_all_nested_objects(Message(RecordDict({ARRAYS: record}), dst_node_id=2, message_type="train")))


def flower(source: nn.Module, target: nn.Module) -> None:
    target.load_state_dict(through_flower(ArrayRecord(source.state_dict())).to_torch_state_dict())


def flat_in_flower(source: nn.Module, target: nn.Module) -> None:
    record, layout = flat_to_record(shared_arrays(source))
    load_arrays(target, flat_from_record(through_flower(record), Layout.from_text(layout.text)))


def our_bytes(source: nn.Module, target: nn.Module, *, checksum: bool) -> None:
    arrays, _ = from_bytes(to_bytes(shared_arrays(source), checksum=checksum))
    load_arrays(target, arrays)


def pickled(source: nn.Module, target: nn.Module) -> None:
    buffers: list[pickle.PickleBuffer] = []
    arrays = {name: tensor.numpy() for name, tensor in source.state_dict().items()}
    head = pickle.dumps(arrays, protocol=5, buffer_callback=buffers.append)
    sent = b"".join(buffers)
    view, parts, start = memoryview(bytearray(sent)), [], 0
    for buffer in buffers:
        size = buffer.raw().nbytes
        parts.append(view[start : start + size])
        start += size
    back = pickle.loads(head, buffers=parts)  # noqa: S301  # bytes of this process
    target.load_state_dict({name: torch.from_numpy(array) for name, array in back.items()})


def safetensored(source: nn.Module, target: nn.Module) -> None:
    target.load_state_dict(safetensors.torch.load(safetensors.torch.save(source.state_dict())))


CONTENDERS: dict[str, Callable[[nn.Module, nn.Module], None]] = {
    FLOWER: flower,
    "fedmb flat record in Flower (SHA-256)": flat_in_flower,
    OURS: partial(our_bytes, checksum=True),
    "fedmb bytes (none)": partial(our_bytes, checksum=False),
    "pickle 5, buffers apart (none)": pickled,
    "safetensors (none)": safetensored,
}


def measured(num_parameters: int, turns: int) -> dict[str, list[float]]:
    """Seconds of each contender's round trips, turn by turn."""
    source, target = model_of(num_parameters), model_of(num_parameters)
    for name, contender in CONTENDERS.items():
        with torch.no_grad():
            for tensor in target.state_dict().values():
                tensor.zero_()
        contender(source, target)
        own = source.state_dict()
        if not all(torch.equal(tensor, own[key]) for key, tensor in target.state_dict().items()):
            sys.exit(f"{name} brought back another model")
    seconds: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    for turn in range(turns):
        names = list(CONTENDERS)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            gc.collect()
            started = time.perf_counter()
            CONTENDERS[name](source, target)
            seconds[name].append(time.perf_counter() - started)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer turns")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    InProcessGrid(lambda message, _: message, {2: {}})  # gives Flower's Message the identity that it demands
    figures: dict[str, dict[str, dict[str, float]]] = {}
    for millions, turns in ((1, 60), (25, 24)):
        count = sum(tensor.numel() for tensor in model_of(millions * 1_000_000).state_dict().values())
        found = measured(millions * 1_000_000, max(6, turns // 5) if options.quick else turns)
        print(f"\n{count:,} float32 parameters in {NUM_TENSORS} tensors, {len(found[FLOWER])} turns")
        print(f"{'':40}{'ms':>9}{'GB/s':>8}{'times Flower':>14}   middle half")
        figures[f"{millions}M"] = {}
        for name, seconds in found.items():
            ratios = np.array(found[FLOWER]) / np.array(seconds)
            low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
            typical = float(np.median(seconds))
            print(
                f"{name:40}{typical * 1e3:9.2f}{4 * count / typical / 1e9:8.2f}{middle:14.2f}   {low:.2f} to {high:.2f}"
            )
            figures[f"{millions}M"][name] = {"seconds": typical, "ratio": middle, "low": low, "high": high}
        arrays = shared_arrays(model_of(millions * 1_000_000))
        by_array, flat = num_objects(arrays_to_record(arrays)), num_objects(flat_to_record(arrays)[0])
        print(f"objects, a request each, on the way through a SuperLink: Flower {by_array}, fedmb's flat record {flat}")
    reached = {size: bool(one[OURS]["ratio"] >= TARGET) for size, one in figures.items()}
    print(f"\ntarget {TARGET:g} times Flower by {OURS}: {reached}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
