"""Test clocks. The fake has one time for everything: a clock that is advanced takes all along, and each says where it stands.

The rules of docs.stripe.com/api/test_clocks: only onwards, at most two intervals of the shortest subscription (or two years),
three customers (see `customers`); the answer says `advancing`, and who asks again is told when it is ready.
"""

from typing import Any

from . import billing_clock
from .errors import bad
from .routes import Call, page, route
from .spec import Obj
from .subscriptions import items_of
from .world import DAY, Account

KIND = "test_helpers.test_clock"
_DAYS = {"day": 1, "week": 7, "month": 31, "year": 366}


@route("POST", "/v1/test_helpers/test_clocks")
def create(call: Call) -> Obj:
    world, wanted = call.world, call.params["frozen_time"]
    if wanted > world.now:
        billing_clock.advance(world, wanted)
    clock = {
        "id": world.id("clock_1", 16), "object": KIND, "created": world.now, "deletes_after": world.now + 30 * DAY,
        "frozen_time": max(wanted, world.now), "livemode": False, "name": call.params.get("name"), "status": "ready",
        "status_details": {},
    }  # fmt: skip
    return call.account.add(clock)


@route("GET", "/v1/test_helpers/test_clocks")
def listed(call: Call) -> Obj:
    return page(call, call.account.of(KIND).values())


@route("GET", "/v1/test_helpers/test_clocks/{test_clock}")
def retrieve(call: Call) -> Obj:
    return call.account.get(KIND, call.arg)


@route("DELETE", "/v1/test_helpers/test_clocks/{test_clock}")
def delete(call: Call) -> Obj:
    call.account.get(KIND, call.arg)
    del call.account.of(KIND)[call.arg]
    return {"id": call.arg, "object": KIND, "deleted": True}


@route("POST", "/v1/test_helpers/test_clocks/{test_clock}/advance")
def advance(call: Call) -> Obj:
    clock, to = call.account.get(KIND, call.arg), call.params["frozen_time"]
    if to <= clock["frozen_time"]:
        raise bad("The frozen_time must be after the test clock's current frozen time.", "frozen_time")
    if to > clock["frozen_time"] + _furthest(call.account, clock):
        raise bad("You can only advance a test clock up to two intervals of its shortest subscription.", "frozen_time")
    billing_clock.advance(call.world, max(to, call.world.now))
    clock["frozen_time"] = max(to, call.world.now)
    call.world.emit(call.account, f"{KIND}.ready", clock)
    return {**clock, "status": "advancing", "status_details": {"advancing": {"target_frozen_time": to}}}


def _furthest(account: Account, clock: Obj) -> int:
    of_clock = {customer["id"] for customer in account.of("customer").values() if customer["test_clock"] == clock["id"]}
    periods: list[int] = []
    for sub in account.of("subscription").values():
        if sub["customer"] in of_clock and sub["status"] not in ("canceled", "incomplete_expired"):
            recurring: Any = items_of(sub)[0]["price"]["recurring"]
            periods.append(_DAYS[recurring["interval"]] * recurring["interval_count"] * DAY)
    return 2 * min(periods, default=366 * DAY)

