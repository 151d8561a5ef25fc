"""Who takes part in a run, and how each of them is asked."""

from typing import Final

import msgspec

from bench.peers.install import LITELLM, PORTKEY
from bench.processes import Process

DIRECT: Final = "direct"
NGINX: Final = "nginx"
HAPROXY: Final = "haproxy"
GATEWAY: Final = "gateway"
GATEWAY_MEASURED: Final = "gateway, analytics only"

NOTES: Final = {
    DIRECT: "the upstream asked without anything between; CPU is the upstream's own",
    NGINX: "a plain reverse proxy: no keys, no limits, no metering",
    HAPROXY: "a plain reverse proxy: no keys, no limits, no metering",
    GATEWAY: "metering on: key, limits, a hold on two wallets, settled, drained into the ledger beside the load; the CPU of "
    "Redis and of the worker is told apart",
    GATEWAY_MEASURED: "metering off: key and limits, usage recorded and drained, no wallet asked",
    LITELLM: "one worker a core, master key; it ran without a database: no keys of its own, no budgets, no usage kept. "
    "It writes the answer anew. Fewer and longer turns, fewer streams; half load is half of its own full load",
    PORTKEY: "it has no metering: no keys, no limits, no usage kept. "
    "Fewer turns, fewer streams; half load is half of its own full load",
}


class Door(msgspec.Struct, frozen=True):
    """Where one upstream is reached through a contestant, and the header lines that this takes."""

    process: Process
    port: int
    headers: tuple[str, ...] = ()
    scheme: str = "http"


class Contestant(msgspec.Struct, frozen=True):
    """Who is driven in a turn. For `direct` the processes are the upstreams themselves.

    `doors`: by upstream (`plain`, `streams`, `tls`); an upstream that is not there is not reached. `exact`: passes the upstream's
    answer on byte for byte. `peer`: takes fewer turns, and half of its own full load for half load. `slow`: its turns are
    longer. `streams`: how many it is given at most. `warm_up_s` and `warm_up_requests`: for how long it is asked before its
    first turn, and once more, a few times at most, until it has answered so many. `start_s`: seconds to its first healthy
    answer. `enterprise_id`: the app of ours whose key is used, empty for others.
    """

    name: str
    doors: dict[str, Door]
    start_s: float = 0.0
    exact: bool = True
    peer: bool = False
    slow: bool = False
    warm_up_s: float = 1.0
    warm_up_requests: int = 0
    streams: int | None = None
    enterprise_id: str = ""
