"""One API call on its way, the table of what answers it, lists with cursors, and `expand[]`."""

import copy
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from .errors import bad
from .spec import Obj
from .world import Account, World

LIST_MAX = 100
EXPAND_DEPTH = 4


class Call(NamedTuple):
    """A checked request: the account that it acts on, the path's arguments, its typed parameters."""

    world: World
    account: Account
    path: dict[str, str]
    params: Obj
    url: str

    @property
    def arg(self) -> str:
        """The first argument of the path."""
        return next(iter(self.path.values()))


Handler = Callable[[Call], Obj]
HANDLERS: dict[tuple[str, str], Handler] = {}
Include = Callable[[World, Account, Obj], Any]
# Properties that Stripe leaves out unless they are asked for: by the object's kind and the property.
INCLUDED: dict[tuple[str, str], Include] = {}


def route(method: str, template: str) -> Callable[[Handler], Handler]:
    def keep(handler: Handler) -> Handler:
        assert (method, template) not in HANDLERS
        HANDLERS[method, template] = handler
        return handler

    return keep


def included(kind: str, name: str) -> Callable[[Include], Include]:
    def keep(make: Include) -> Include:
        INCLUDED[kind, name] = make
        return make

    return keep


def collection(items: list[Obj], url: str, has_more: bool = False) -> Obj:
    return {"object": "list", "data": items, "has_more": has_more, "url": url}


def page(call: Call, items: Iterable[Obj], filters: tuple[str, ...] = ()) -> Obj:
    """Newest first, by cursor; `filters` are properties that are compared with the parameter of the same name."""
    found = list(items)[::-1]
    for name in filters:
        if name in call.params:
            found = [item for item in found if item.get(name) == call.params[name]]
    if "created" in call.params:
        found = [item for item in found if _in_range(item["created"], call.params["created"])]
    ids = [item["id"] for item in found]
    limit = call.params.get("limit", 10)
    if not 1 <= limit <= LIST_MAX:
        raise bad(f"This value must be between 1 and {LIST_MAX}.", "limit")
    for name in ("starting_after", "ending_before"):
        if name in call.params and call.params[name] not in ids:
            raise bad(f"No such object: '{call.params[name]}'", name, "resource_missing")
    if "ending_before" in call.params:
        found = found[: ids.index(call.params["ending_before"])]
        return collection(found[-limit:], call.url, len(found) > limit)
    if "starting_after" in call.params:
        found = found[ids.index(call.params["starting_after"]) + 1 :]
    return collection(found[:limit], call.url, len(found) > limit)


def _in_range(value: int, wanted: int | Obj) -> bool:
    if isinstance(wanted, int):
        return value == wanted
    low, high = wanted.get("gte", wanted.get("gt", -1) + 1), wanted.get("lte", wanted.get("lt", 1 << 60) - 1)
    return bool(low <= value <= high)


def expanded(world: World, account: Account, obj: Obj, paths: list[str]) -> Obj:
    """A copy of the object with the named properties' ids replaced by the objects themselves."""
    out = copy.deepcopy(obj)
    for path in paths:
        names = path.split(".")
        if len(names) > EXPAND_DEPTH + (names[0] == "data"):
            raise bad(f"You cannot expand more than {EXPAND_DEPTH} levels of a property. Property: {path}", "expand")
        _expand(world, account, out, names, path)
    return out


def _expand(world: World, account: Account, obj: Obj, names: list[str], path: str) -> None:
    name, rest = names[0], names[1:]
    make = INCLUDED.get((obj.get("object", ""), name))
    if make is not None and obj.get(name) is None:
        obj[name] = copy.deepcopy(make(world, account, obj))
    if name not in obj:
        raise bad(f"This property cannot be expanded ({path}).", "expand")
    value = obj[name]
    if isinstance(value, str):
        found = account.find(value)
        if found is None:
            raise bad(f"This property cannot be expanded ({path}).", "expand")
        obj[name] = copy.deepcopy(found)
    elif isinstance(value, list):
        obj[name] = [copy.deepcopy(account.find(item)) if isinstance(item, str) else item for item in value]
    for item in obj[name] if isinstance(obj[name], list) else [obj[name]]:
        if rest and isinstance(item, dict):
            _expand(world, account, item, rest, path)
