"""The steps of an exchange, and which code belongs to which.

A function belongs to the step that is given for it here, else for its file, else to the step of its caller; a callback
of the event loop, which has no caller, to the step that waits for it. So `redis_link` counts for `reserve` while a hold
is made and for `settle` when it ends.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import gateway

PACKAGE: Final = Path(gateway.__file__).parent

SERVER: Final = "server in"
ROUTES: Final = "routes"
IDENTITY: Final = "identity"
PARSE: Final = "parse"
ROUTE: Final = "route"
LINE: Final = "the line itself"
QUOTE: Final = "quote"
RESERVE: Final = "reserve"
UPSTREAM: Final = "upstream"
RELAY: Final = "relay"
USAGE: Final = "usage"
PRICE: Final = "price"
SETTLE: Final = "settle"
ANSWER: Final = "answer"
STEPS: Final = (
    SERVER, ROUTES, IDENTITY, PARSE, ROUTE, LINE, QUOTE, RESERVE, UPSTREAM, RELAY, USAGE, PRICE, SETTLE, ANSWER,
)  # fmt: skip

OF_FILE: Final = {
    "server/connection.py": SERVER,
    "server/answer.py": ANSWER,
    "proxy/routes.py": ROUTES,
    "identity/service.py": IDENTITY,
    "providers/routing.py": ROUTE,
    "proxy/exchange.py": LINE,
    "proxy/quote.py": QUOTE,
    "providers/direct.py": UPSTREAM,
    "providers/http1.py": UPSTREAM,
    "proxy/relay.py": RELAY,
    "proxy/chat.py": PARSE,
    "metering/usage.py": USAGE,
    "pricing/rates.py": PRICE,
}

OF_FUNCTION: Final = {
    ("server/answer.py", "EdgeAnswer.__init__"): SERVER,
    ("server/answer.py", "EdgeAnswer.run_asgi"): SERVER,
    ("server/answer.py", "EdgeAnswer.body_at_hand"): SERVER,
    ("server/answer.py", "EdgeAnswer.receive"): SERVER,
    ("server/answer.py", "_News"): SERVER,
    ("server/connection.py", "EdgeProtocol.on_response_complete"): ANSWER,
    ("proxy/wire.py", "read_body"): PARSE,
    ("proxy/wire.py", "read_model"): PARSE,
    ("proxy/wire.py", "read_tags"): PARSE,
    ("proxy/chat.py", "OpenAISurface.bound"): QUOTE,
    ("proxy/chat.py", "OpenAISurface.most"): QUOTE,
    ("proxy/chat.py", "OpenAISurface.outgoing"): UPSTREAM,
    ("proxy/chat.py", "OpenAISurface.told"): USAGE,
    ("proxy/chat.py", "OpenAISurface.measured"): USAGE,
    ("providers/routing.py", "Upstreams.send"): UPSTREAM,
    ("proxy/exchange.py", "Exchange._admit"): QUOTE,
    ("proxy/exchange.py", "Exchange._reserve"): QUOTE,
    ("metering/usage.py", "input_bound"): QUOTE,
    ("pricing/rates.py", "Rates.ceiling"): QUOTE,
    ("balance/redis_balance.py", "RedisBalance.reserve"): RESERVE,
    ("proxy/exchange.py", "Exchange._relayed"): RELAY,
    ("proxy/exchange.py", "Exchange._passed_on"): RELAY,
    ("proxy/exchange.py", "Exchange._whole"): USAGE,
    ("proxy/exchange.py", "Exchange._settle"): SETTLE,
    ("balance/redis_balance.py", "RedisBalance.settle"): SETTLE,
    ("proxy/exchange.py", "Exchange._headers"): ANSWER,
    ("proxy/exchange.py", "Exchange._last_frames"): ANSWER,
    ("proxy/wire.py", "money_headers"): ANSWER,
}


def step_of(path: str, function: str) -> str | None:
    """The step of a function of the package by its file and qualified name; None: its caller's."""
    found = OF_FUNCTION.get((path, function))
    while found is None and "." in function:  # a closure is of the function around it, a method of its class
        function = function.rpartition(".")[0].removesuffix(".<locals>")
        found = OF_FUNCTION.get((path, function))
    return found or OF_FILE.get(path)


def stale(files: Iterable[str] = OF_FILE, functions: Iterable[tuple[str, str]] = OF_FUNCTION) -> list[str]:
    """What stands in the tables above and is not in the package any more."""
    gone = [path for path in files if not (PACKAGE / path).exists()]
    for path, function in functions:
        source = PACKAGE / path
        name = re.compile(rf"^ *(?:async def|def|class) {function.rpartition('.')[2]}\b", re.MULTILINE)
        if not source.exists() or not name.search(source.read_text()):
            gone.append(f"{path} {function}")
    return gone
