"""What tests of the door share: a list of keys, and headers of a node that is on it."""

import datetime as dt

from fedmb.access.new_keys import make_node
from fedmb.access.node_keys import NodeKeys, private_key
from fedmb.access.signed_headers import signed


class Guests:
    """Keys of `names` in the folder `place`; only those of `listed` are on the list."""

    def __init__(self, place, names=("ward", "stranger"), listed=("ward",)):
        for name in names:
            make_node(place, name)
            if name not in listed:
                (place / f"{name}.pub").rename(place / f"{name}.unlisted")
        self.place = place
        self.keys = NodeKeys(place)

    def headers(self, name="ward", seconds=0.0):
        """Signed now, by a clock that is so many seconds fast."""
        now = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=seconds)
        return signed(private_key(self.place / f"{name}.key"), now) | {"content-type": "application/protobuf"}
