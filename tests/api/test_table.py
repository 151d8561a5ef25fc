"""The route table: deny by default, and a description that is true."""

import itertools
import json
import re
from typing import Any

import jsonschema  # type: ignore[import-untyped]

from gateway.api.endpoint import Endpoint
from gateway.api.table import TABLE
from gateway.identity.model import Role

from .conftest import Api

ROLES = {Role.OPERATOR, Role.CREATOR, Role.APP_SERVER, Role.END_USER}
CLOSED = [endpoint for endpoint in TABLE if Role.PUBLIC not in endpoint.roles]


def filled(api: Api, endpoint: Endpoint, app: str = "shop") -> str:
    values = {"enterprise_id": app, "user_id": "alice", "platform_user_id": "u1", "key_id": api.key_id, "provider": "openai"}
    values |= {"plan_id": "plan_1", "subscription_id": "sub_1", "webhook_id": "whk_1", "promo_code_id": "promo_1"}
    return re.sub(r"{(\w+)}", lambda name: values[name[1]], endpoint.path)


def error_of(answer: Any) -> dict[str, Any]:
    body = answer.json()
    assert set(body) == {"error"}
    assert set(body["error"]) >= {"message", "type", "param", "code"}
    assert answer.headers["x-request-id"].startswith("req_")
    assert answer.headers["content-type"] == "application/json"
    error: dict[str, Any] = body["error"]
    return error


def test_every_endpoint_declares_known_roles_and_stands_once() -> None:
    for endpoint in TABLE:
        assert endpoint.roles
        assert endpoint.roles <= ROLES | {Role.PUBLIC}
        assert (Role.PUBLIC in endpoint.roles) == (endpoint.path == "/api/openapi.json")
    assert len({(endpoint.method, endpoint.path) for endpoint in TABLE}) == len(TABLE)


async def test_without_a_good_credential_every_endpoint_says_401(api: Api) -> None:
    bad: list[dict[str, str]] = [
        {},
        {"authorization": ""},
        {"authorization": "Bearer"},
        {"authorization": "Bearer nonsense"},
        {"authorization": f"Basic {api.credentials[Role.OPERATOR]}"},
        {"authorization": f"Bearer {api.credentials[Role.OPERATOR]}x"},
        {"authorization": f"Bearer {api.credentials[Role.CREATOR][:-1]}"},
        {"x-api-key": "mzk_live_nothing"},
        {"authorization": "Bearer " + "a" * 9000},
    ]
    for endpoint, headers in itertools.product(CLOSED, bad):
        answer = await api.http.request(endpoint.method, filled(api, endpoint), headers=headers)
        assert answer.status_code == 401, (endpoint.method, endpoint.path, headers)
        assert error_of(answer)["code"] == "invalid_api_key"
        assert answer.headers["www-authenticate"] == "Bearer"


async def test_an_undeclared_role_is_refused_before_anything_is_read(api: Api) -> None:
    for endpoint in CLOSED:
        for role in {*ROLES, "platform key"} - endpoint.roles:
            answer = await api.call(endpoint.method, filled(api, endpoint), role=role, nonsense="1")
            assert answer.status_code == 403, (endpoint.method, endpoint.path, role)
            assert error_of(answer)["code"] == "forbidden"


async def test_another_creators_app_does_not_exist_for_any_role(api: Api) -> None:
    bodies: dict[str, Any] = {"keys": {"level": "app_usage"}, "end-user-tokens": {"platform_user_id": "u1"}}
    bodies |= {"price-books": {"markup_percent": 5}, "{provider}": {"key": "sk-made-up-own"}}
    bodies |= {"payment-links": {"plan_id": "plan_1", "platform_user_id": "u1"}}
    for endpoint in [endpoint for endpoint in CLOSED if "{enterprise_id}" in endpoint.path]:
        body = bodies.get(endpoint.path.rsplit("/", 1)[1], {}) if endpoint.body is not None else None
        foreign = [(role, "bobs") for role in endpoint.roles - {Role.OPERATOR}]
        foreign += [(role, "second") for role in endpoint.roles & {Role.APP_SERVER, Role.END_USER}]
        for role, app in foreign:
            answer = await api.call(endpoint.method, filled(api, endpoint, app), body, role=role)
            assert (answer.status_code, error_of(answer)["code"]) == (404, "not_found"), (endpoint.path, role, app)


async def test_unknown_paths_and_methods_are_json_errors_too(api: Api) -> None:
    for path in ("/api", "/api/v1/nothing", "/api/v1/apps/shop/keys/a/b/c"):
        answer = await api.http.get(path + ("/" if path == "/api" else ""))
        assert (answer.status_code, error_of(answer)["code"]) == (404, "not_found")
    answer = await api.call("PUT", "/apps/shop")
    assert (answer.status_code, error_of(answer)["code"]) == (405, "method_not_allowed")
    assert answer.headers["allow"] == "GET, HEAD, PATCH"


async def test_the_description_lists_exactly_the_table_and_is_valid(api: Api) -> None:
    answer = await api.http.get("/api/openapi.json")
    assert answer.status_code == 200
    described = answer.json()
    assert described["openapi"].startswith("3.1")
    found = {(method.upper(), path) for path, methods in described["paths"].items() for method in methods}
    assert found == {(endpoint.method, endpoint.path) for endpoint in TABLE}
    schemas = described["components"]["schemas"]
    for reference in re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(described)):
        assert reference in schemas
        assert re.fullmatch(r"[a-zA-Z0-9._-]+", reference)
    for schema in schemas.values():
        jsonschema.Draft202012Validator.check_schema(schema)
    operations = [operation for methods in described["paths"].values() for operation in methods.values()]
    assert len({operation["operationId"] for operation in operations}) == len(operations)


async def test_answers_fit_the_schemas_that_describe_them(api: Api) -> None:
    described = (await api.http.get("/api/openapi.json")).json()

    def check(method: str, path: str, value: Any) -> None:
        responses = described["paths"][path][method]["responses"]
        (schema,) = [part["content"]["application/json"]["schema"] for status, part in responses.items() if status != "default"]
        jsonschema.validate(value, {**schema, "components": described["components"]})

    app, key = "/api/v1/apps/{enterprise_id}", "/api/v1/apps/{enterprise_id}/keys"
    check("get", app, await api.ok("GET", "/apps/shop"))
    check("post", key, await api.ok("POST", "/apps/shop/keys", {"level": "app_usage", "limits": {"rpm": 5}}, 201))
    check("get", key, await api.ok("GET", "/apps/shop/keys"))
    check("get", "/api/v1/prices", await api.ok("GET", "/prices", enterprise_id="shop"))
    check("get", "/api/v1/creators", await api.ok("GET", "/creators"))
    await api.grant({"enterprise_id": "shop", "platform_user_id": "u1"}, 5, "k")
    check("get", app + "/wallets/{platform_user_id}", await api.ok("GET", "/apps/shop/wallets/u1"))
    check("get", "/api/v1/ledger/transactions", await api.ok("GET", "/ledger/transactions", enterprise_id="shop"))
    check("get", "/api/v1/ledger/accounts", await api.ok("GET", "/ledger/accounts", enterprise_id="shop"))
