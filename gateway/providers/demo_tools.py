"""Tool calls of the demo model: when it makes one, and arguments that fit the tool's schema."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from gateway.core.ids import new_id

_DEPTH_MAX: Final = 16
_ASKED: Final = "use the tool"


class Call(msgspec.Struct, frozen=True):
    """One call of a function; `arguments` is JSON."""

    id: str
    name: str
    arguments: str

    def shaped(self) -> dict[str, Any]:
        """As in a whole answer."""
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": self.arguments}}

    def streamed(self) -> list[dict[str, Any]]:
        """As in a stream: the name first, then the arguments in pieces."""
        opening = {"index": 0, "id": self.id, "type": "function", "function": {"name": self.name, "arguments": ""}}
        pieces = [self.arguments[start : start + 12] for start in range(0, len(self.arguments), 12)]
        return [opening, *({"index": 0, "function": {"arguments": piece}} for piece in pieces)]


def chosen(tools: Any, choice: Any, said: str) -> Mapping[str, Any] | None:
    """The function to call, None for none: the one named, the first when one is required or the user says "use the tool"."""
    functions = [tool["function"] for tool in tools or () if isinstance(tool, dict) and isinstance(tool.get("function"), dict)]
    functions = [function for function in functions if isinstance(function.get("name"), str)]
    if not functions or choice == "none":
        return None
    if isinstance(choice, dict):
        wanted = choice.get("function")
        name = wanted.get("name") if isinstance(wanted, dict) else None
        return next((function for function in functions if function["name"] == name), None)
    return functions[0] if choice == "required" or _ASKED in said.lower() else None


def call(function: Mapping[str, Any]) -> Call:
    """A call of the function with arguments made up after its schema."""
    parameters = function.get("parameters")
    schema = parameters if isinstance(parameters, dict) else {}
    arguments = _fitting({"type": "object", **schema}, schema, 0)
    return Call(new_id("call"), function["name"], msgspec.json.encode(arguments).decode())


def _fitting(schema: Any, root: Mapping[str, Any], depth: int) -> Any:
    """A small value that the JSON schema allows; beyond the usual keywords, at best a guess."""
    if not isinstance(schema, dict) or depth > _DEPTH_MAX:
        return None
    for keyword in ("const", "default"):
        if keyword in schema:
            return schema[keyword]
    if isinstance(schema.get("enum"), list) and schema["enum"]:
        return schema["enum"][0]
    if isinstance(schema.get("$ref"), str):
        return _fitting(_at(root, schema["$ref"]), root, depth + 1)
    for keyword in ("anyOf", "oneOf", "allOf"):
        if isinstance(schema.get(keyword), list) and schema[keyword]:
            return _fitting(schema[keyword][0], root, depth + 1)
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = kind[0] if kind else None
    if kind == "object" or (kind is None and "properties" in schema):
        properties = schema.get("properties")
        required = schema.get("required")
        wanted = properties if isinstance(properties, dict) else {}
        names = required if isinstance(required, list) else list(wanted)
        return {name: _fitting(wanted.get(name, {}), root, depth + 1) for name in names if isinstance(name, str)}
    if kind == "array":
        least = schema.get("minItems")
        count = least if type(least) is int and 0 <= least <= _DEPTH_MAX else 1
        return [_fitting(schema.get("items", {}), root, depth + 1) for _ in range(count)]
    if kind in ("integer", "number"):
        return _number(schema)
    return {"string": _string(schema), "boolean": True, "null": None}.get(str(kind), "demo")


def _number(schema: Mapping[str, Any]) -> Any:
    least, most = schema.get("minimum"), schema.get("maximum")
    if isinstance(least, int | float):
        return least
    above = schema.get("exclusiveMinimum")
    if isinstance(above, int | float) and not isinstance(above, bool):
        return above + 1
    return min(1, most) if isinstance(most, int | float) else 1


def _string(schema: Mapping[str, Any]) -> str:
    made = {"date": "2026-01-31", "date-time": "2026-01-31T12:00:00Z", "email": "demo@example.com", "uri": "https://example.com"}
    text = made.get(str(schema.get("format")), "demo")
    least, most = schema.get("minLength"), schema.get("maxLength")
    if type(least) is int and len(text) < least <= 10_000:
        text = text.ljust(least, "o")
    return text[:most] if type(most) is int and most >= 0 else text


def _at(root: Mapping[str, Any], reference: str) -> Any:
    """What "#/$defs/Name" points to."""
    place: Any = root
    for step in reference.removeprefix("#").split("/")[1:]:
        place = place.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(place, dict) else None
    return place
