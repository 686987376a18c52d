"""Points at which a server's process stops until it is killed; laid beside a real server/app.py, which installs them.

    PAUSE=/place/pause     a file; it holds the name of the next point, or is not there

    sample      clients are chosen, none is asked yet
    wait        all are asked
    aggregate   all have answered, no model is made of it
    write       half of the checkpoint's bytes are in its unfinished file
    renamed     the checkpoint is in its place, older ones are still there

Whoever waits there says so in the file PAUSE.paused.
"""

import os
import threading
from pathlib import Path

from fedmb.federation import checkpoint
from fedmb.federation.exchange import Exchange
from fedmb.federation.strategy import MiniBatchFedAvg

POINTS = ("sample", "wait", "aggregate", "write", "renamed")


def pause(point):
    file = Path(os.environ["PAUSE"])
    try:
        wanted = file.read_text() == point
    except FileNotFoundError:
        return
    if wanted:
        file.with_suffix(".paused").write_text(point)
        threading.Event().wait()


def install():
    """Put the points into the library's functions, for this process alone."""
    configure, aggregate = MiniBatchFedAvg.configure_train, MiniBatchFedAvg.aggregate_train
    push, write = Exchange.push, checkpoint.write_atomically

    def configured(*arguments, **named):
        messages = list(configure(*arguments, **named))
        pause("sample")
        return messages

    def pushed(*arguments, **named):
        push(*arguments, **named)
        pause("wait")

    def aggregated(*arguments, **named):
        pause("aggregate")
        return aggregate(*arguments, **named)

    def written(path, content):
        if path.name.startswith("round-"):
            unfinished = path.with_name(f".{path.name}.tmp")
            unfinished.write_bytes(content[: len(content) // 2])
            pause("write")
        write(path, content)
        if path.name.startswith("round-"):
            pause("renamed")

    MiniBatchFedAvg.configure_train, MiniBatchFedAvg.aggregate_train = configured, aggregated
    Exchange.push, checkpoint.write_atomically = pushed, written
