"""The OpenAPI 3.1 description, made from the route table: schemas are those of the very types that are decoded."""

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from gateway import __version__
from gateway.api.endpoint import Endpoint
from gateway.api.shapes import CsvAnswer, ErrorAnswer, OpenApi
from gateway.identity.model import Role

_REF = "#/components/schemas/{name}"


def described(table: Sequence[Endpoint]) -> OpenApi:
    """The description of these endpoints."""
    kinds = [ErrorAnswer]
    for endpoint in table:
        kinds += [kind for kind in (endpoint.answer, endpoint.body) if kind not in (None, CsvAnswer)]
    shown, schemas = msgspec.json.schema_components(kinds, ref_template=_REF)
    by_kind = dict(zip(map(repr, kinds), shown, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in table:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint, by_kind)
    return OpenApi(
        openapi="3.1.0",
        info={"title": "Mozaiks gateway: management API", "version": __version__},
        paths=paths,
        components={
            "schemas": schemas,
            "securitySchemes": {"credential": {"type": "http", "scheme": "bearer"}},
        },
    )


def _operation(endpoint: Endpoint, by_kind: dict[str, dict[str, Any]]) -> dict[str, Any]:
    error = {"description": "Error", "content": _json(by_kind[repr(ErrorAnswer)])}
    operation: dict[str, Any] = {
        "operationId": f"{endpoint.handler.__module__.rpartition('.')[2]}.{endpoint.handler.__name__}",
        "summary": endpoint.summary,
        "parameters": _parameters(endpoint),
        "responses": {
            str(endpoint.status): {"description": endpoint.summary, "content": _content(endpoint, by_kind)},
            "default": error,
        },
        "security": [] if Role.PUBLIC in endpoint.roles else [{"credential": []}],
        "x-roles": sorted(endpoint.roles),
    }
    if endpoint.body is not None:
        operation["requestBody"] = {"required": True, "content": _json(by_kind[repr(endpoint.body)])}
    return operation


def _parameters(endpoint: Endpoint) -> list[dict[str, Any]]:
    found = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"{(\w+)}", endpoint.path)
    ]
    (_, schemas) = msgspec.json.schema_components([endpoint.query], ref_template=_REF)
    query = schemas[endpoint.query.__name__]
    required = query.get("required", [])
    for name, schema in query["properties"].items():
        flat = {"type": "string", "enum": ["platform", "app_usage"]} if "$ref" in str(schema) else schema
        found.append({"name": name, "in": "query", "required": name in required, "schema": flat})
    if endpoint.idempotent:
        found.append({"name": "Idempotency-Key", "in": "header", "required": True, "schema": {"type": "string"}})
    return found


def _content(endpoint: Endpoint, by_kind: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {"text/csv": {"schema": {"type": "string"}}} if endpoint.answer is CsvAnswer else _json(by_kind[repr(endpoint.answer)])


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}
