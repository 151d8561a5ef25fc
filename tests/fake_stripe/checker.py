"""Holds requests and replies against Stripe's description: nested objects are closed, types, required, enums, lengths.

A request's form is strings; `typed` gives back the parameters as the description types them (int, bool, Decimal, list, dict), so
that what acts on a request works on checked values. A violation is a sentence with the parameter's name in Stripe's notation.
"""

import re
from decimal import Decimal, InvalidOperation
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

from .spec import Obj, Operation, schemas

_INTEGER = re.compile(r"-?\d{1,18}\Z")


class Violation(NamedTuple):
    """What is wrong with one parameter, in Stripe's words for it: `code` is the error code that Stripe answers with."""

    param: str
    code: str
    text: str


def decoded(form: str) -> Obj:
    """a[b][0][c]=1 as {"a": {"b": {"0": {"c": "1"}}}}: lists are told apart from objects by the schema only."""
    out: Obj = {}
    for key, value in parse_qsl(form, keep_blank_values=True):
        names = re.findall(r"[^\[\]]+|(?<=\[)(?=\])", key)
        at = out
        for name in names[:-1]:
            at = at.setdefault(name or str(len(at)), {})
            if not isinstance(at, dict):
                return {**out, key: value}
        at[names[-1] or str(len(at))] = value
    return out


def typed(operation: Operation, params: Obj) -> tuple[Obj, list[Violation]]:
    """The parameters with their types, and everything that is wrong with them."""
    wrong: list[Violation] = []
    schema = {"type": "object", "properties": operation.properties, "required": sorted(operation.required)}
    value = _take(schema, params, "", wrong)
    return value if isinstance(value, dict) else {}, wrong


def _take(schema: Obj, value: Any, at: str, wrong: list[Violation]) -> Any:
    if "anyOf" in schema:
        return _take_any(schema["anyOf"], value, at, wrong)
    kind = schema.get("type", "string")
    if kind == "object":
        return _take_object(schema, value, at, wrong)
    if kind == "array":
        return _take_array(schema, value, at, wrong)
    return _take_scalar(schema, kind, value, at, wrong)


def _take_any(options: list[Obj], value: Any, at: str, wrong: list[Violation]) -> Any:
    best: tuple[list[Violation], Any] | None = None
    for option in options:
        found: list[Violation] = []
        taken = _take(option, value, at, found)
        if not found:
            return taken
        # Of alternatives that all do not fit, the one of the value's own shape says what is wrong with it.
        fits = isinstance(value, dict | list) == (option.get("type") in ("object", "array"))
        if best is None or fits:
            best = (found, taken)
    assert best is not None
    wrong += best[0]
    return best[1]


def _take_object(schema: Obj, value: Any, at: str, wrong: list[Violation]) -> Any:
    if not isinstance(value, dict):
        wrong.append(Violation(at, "parameter_invalid", "Invalid object"))
        return {}
    out: Obj = {}
    properties: Obj = schema.get("properties", {})
    others = schema.get("additionalProperties")
    for key, item in value.items():
        name = f"{at}[{key}]" if at else key
        if key in properties:
            out[key] = _take(properties[key], item, name, wrong)
        elif isinstance(others, dict) and others:
            out[key] = _take(others, item, name, wrong)
        elif others is True:
            out[key] = item
        else:
            wrong.append(Violation(name, "parameter_unknown", f"Received unknown parameter: {name}"))
    for key in schema.get("required", ()):
        if key not in value:
            name = f"{at}[{key}]" if at else key
            wrong.append(Violation(name, "parameter_missing", f"Missing required param: {name}."))
    return out


def _take_array(schema: Obj, value: Any, at: str, wrong: list[Violation]) -> Any:
    if isinstance(value, dict) and all(key.isdigit() for key in value):
        value = [value[key] for key in sorted(value, key=int)]
    if not isinstance(value, list):
        wrong.append(Violation(at, "parameter_invalid", "Invalid array"))
        return []
    return [_take(schema.get("items", {}), item, f"{at}[{index}]", wrong) for index, item in enumerate(value)]


def _take_scalar(schema: Obj, kind: str, value: Any, at: str, wrong: list[Violation]) -> Any:
    if isinstance(value, dict | list):
        wrong.append(Violation(at, f"parameter_invalid_{kind}", f"Invalid {kind}: an object"))
        return None
    text = str(value).lower() if isinstance(value, bool) else "" if value is None else str(value)
    if kind == "integer":
        if isinstance(value, bool) or not _INTEGER.match(text):
            wrong.append(Violation(at, "parameter_invalid_integer", f"Invalid integer: {text}"))
            return None
        return int(text)
    if kind == "number":
        try:
            return Decimal(text)
        except InvalidOperation:
            wrong.append(Violation(at, "parameter_invalid_number", f"Invalid decimal: {text}"))
            return None
    if kind == "boolean":
        if text not in ("true", "false"):
            wrong.append(Violation(at, "parameter_invalid_boolean", f"Invalid boolean: {text}"))
        return text == "true"
    if "enum" in schema and text not in schema["enum"]:
        allowed = ", ".join(str(item) for item in schema["enum"][:20])
        wrong.append(Violation(at, "parameter_invalid_enum", f"Invalid {at}: must be one of {allowed}"))
    if len(text) > schema.get("maxLength", len(text)):
        wrong.append(Violation(at, "parameter_invalid_string", f"Invalid string: {at} is longer than {schema['maxLength']}"))
    return text


def reply_faults(schema: Obj, value: Any, at: str = "") -> list[str]:
    """What in a reply (or an event's object) is not as Stripe describes it; the fake is held against this too."""
    if "$ref" in schema:
        schema = schemas()[schema["$ref"].rpartition("/")[2]]
    if value is None:
        return [] if schema.get("nullable") else [f"{at}: null"]
    if "anyOf" in schema:
        found = [reply_faults(option, value, at) for option in schema["anyOf"]]
        # The alternative of the value's own shape says what is wrong, not the one that wanted an id.
        return min(found, key=lambda faults: (any(f.startswith(f"{at}: not a") for f in faults), len(faults))) if [
            ] not in found else []
    kind = schema.get("type")
    if kind == "object":
        return _object_faults(schema, value, at)
    if kind == "array":
        if not isinstance(value, list):
            return [f"{at}: not an array"]
        return [fault for i, item in enumerate(value) for fault in reply_faults(schema["items"], item, f"{at}[{i}]")]
    right = {
        "integer": isinstance(value, int) and not isinstance(value, bool),
        "number": isinstance(value, int | float) and not isinstance(value, bool),
        "boolean": isinstance(value, bool),
        "string": isinstance(value, str),
    }.get(kind or "", True)
    if not right:
        return [f"{at}: not a {kind}: {str(value)[:60]}"]
    if kind == "string" and "enum" in schema and value not in schema["enum"]:
        return [f"{at}: {value!r} is not one of {schema['enum'][:9]}"]
    return []


def _object_faults(schema: Obj, value: Any, at: str) -> list[str]:
    if not isinstance(value, dict):
        return [f"{at}: not an object: {str(value)[:40]}"]
    properties = schema.get("properties", {})
    others = schema.get("additionalProperties")
    faults = [f"{at}.{key}: missing" for key in schema.get("required", ()) if key not in value]
    for key, item in value.items():
        if key in properties:
            if item is not None or key in schema.get("required", ()):
                faults += reply_faults(properties[key], item, f"{at}.{key}")
        elif isinstance(others, dict) and others:
            faults += reply_faults(others, item, f"{at}.{key}")
        elif properties and not others:
            faults.append(f"{at}.{key}: unknown")
    return faults
