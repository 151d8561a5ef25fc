"""What the configuration may say of translated providers."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.config.models import DeploymentConfig
from gateway.providers.translation import TRANSLATED
from gateway.settings import Part, SettingsError, load


def deployment(folder: Path, **fields: Any) -> DeploymentConfig:
    path = folder / "gateway.yaml"
    path.write_text(yaml.safe_dump({"models": [{"name": "m", "deployments": [fields]}]}))
    [model] = load({"MOZAIKS_CONFIG": str(path), "MOZAIKS_DATA_DIR": str(folder)}).models
    return model.deployments[0]


def test_a_translated_provider_needs_no_address_and_takes_params(tmp_path: Path) -> None:
    found = deployment(tmp_path, provider="bedrock", model="m", params={"aws_region_name": "eu-west-1", "use_it": True})
    assert found.params == {"aws_region_name": "eu-west-1", "use_it": True}
    assert found.api_base == ""
    assert "openai" not in TRANSLATED  # the byte path


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"provider": "openai"}, "api_base"),
        ({"provider": "anthropc"}, "api_base"),
        ({"provider": "anthropic", "api_base": "ftp://x"}, "api_base"),
        ({"provider": "anthropic", "cached_tokens": "beside"}, "cached_tokens"),
        ({"provider": "anthropic", "params": {"api_base": "http://x"}}, "api_base"),
        ({"provider": "anthropic", "params": {"num_retries": 3}}, "num_retries"),
        ({"provider": "anthropic", "params": {"_skip_mcp_handler": False}}, "_skip_mcp_handler"),
        ({"provider": "openai", "api_base": "http://x", "params": {"a": 1}}, "params"),
        ({"provider": "openai", "api_base": "http://x", "api_version": "2024-10-21"}, "api_version"),
        ({"provider": "azure", "api_version": "2024-10-21"}, "api_version"),
        ({"provider": "azure", "api_base": "http://x", "api_version": "2024&x=1"}, "api_version"),
        ({"provider": "azure", "api_base": "http://x", "api_version": "2024-10-21", "params": {"tenant_id": "t"}}, "params"),
        ({"api_base": "http://x", "limits": {"rpm": 0}}, "rpm"),
        ({"api_base": "http://x", "limits": {"tpm": -5}}, "tpm"),
        ({"api_base": "http://x", "limits": {"requests": 5}}, "requests"),
    ],
)
def test_a_setting_that_cannot_be_meant_stops_the_start_and_is_named(tmp_path: Path, fields: dict[str, Any], named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        deployment(tmp_path, model="m", **fields)


_GOOD = {"name": "good", "deployments": [{"model": "m", "api_base": "http://x"}]}


def written(folder: Path, content: Any, **env: str) -> dict[str, str]:
    path = folder / "gateway.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return {"MOZAIKS_CONFIG": str(path), **env}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"models": [_GOOD, {"name": "bad", "deployments": [{"api_base": "http://x", "weight": 0}]}]}, "'bad': weight"),
        ({"models": [_GOOD, {"name": "bad", "deployments": [{"api_bas": "http://x"}]}]}, "'bad': .*`api_bas`"),
        ({"models": [_GOOD, {"deployments": []}]}, r"models\[1\]"),
        ({"models": [_GOOD, _GOOD]}, "'good' is there twice"),
        ({"models": [_GOOD, {"name": "bad", "deployments": [{"api_base": "${NOWHERE}"}]}]}, "NOWHERE"),
        ({"models": [_GOOD], "foo": 1}, "foo is not a setting"),
        ({"models": [_GOOD], "port": "eighty"}, "PORT must be a whole number"),
        ({"models": [_GOOD], "host": ["127.0.0.1"]}, "host must be a single value"),
        ({"models": [_GOOD], "platform_markup_percent": "-1"}, "platform_markup_percent"),
    ],
)
def test_a_file_that_stops_a_start_is_named_and_who_needs_only_the_stores_goes_on_without_what_is_wrong(
    tmp_path: Path, content: dict[str, Any], says: str
) -> None:
    env = written(tmp_path, {**content, "data_dir": str(tmp_path / "data")})
    with pytest.raises(SettingsError, match=says) as stopped:
        load(env)
    assert str(tmp_path / "gateway.yaml") in str(stopped.value)
    assert not (tmp_path / "data").exists()  # a start that fails leaves nothing behind
    found = load(env, needs=Part.STORES)
    assert found.faults == (str(stopped.value),)
    assert found.data_dir == tmp_path / "data"
    assert [model.name for model in found.models] == ["good"]


@pytest.mark.parametrize(
    "content",
    [
        "models: [",
        {"redis_url": "http://x", "data_dir": "/nowhere"},
        {"data_dirr": "/nowhere"},
        {"MOZAIKS_REDIS_URL": "redis://elsewhere"},
        {"data_dir": "${NOWHERE}"},
    ],
)
def test_nobody_guesses_where_the_stores_are(tmp_path: Path, content: Any) -> None:
    with pytest.raises(SettingsError, match=r"gateway\.yaml"):
        load(written(tmp_path, content), needs=Part.STORES)


_WHOLE = """port: 4711
platform_markup_percent: 15
models:
  - name: good
    deployments:
      - model: m
        api_base: http://x
    prices:
      input: "1"
      output: "2"
"""


@pytest.mark.parametrize(
    ("last", "told"),
    [
        ("platform_markup_percent: 1", "does not end with a newline"),
        ("platform_markup_percent:", "no value for platform_markup_percent"),
        ("models:", "no value for models"),
        ("    deployments:", "no value for models[0].deployments"),
        ("        api_base:", "no value for models[0].deployments[0].api_base"),
        ("    prices:", "no value for models[0].prices"),
        ("      output:", "no value for models[0].prices.output"),
        ("      outp", "is not valid YAML"),
        ('      output: "2', "is not valid YAML"),
    ],
)
def test_a_file_that_lacks_its_end_is_refused_where_that_can_be_told(tmp_path: Path, last: str, told: str) -> None:
    assert load(written(tmp_path, _WHOLE, MOZAIKS_DATA_DIR=str(tmp_path))).port == 4711
    assert load(written(tmp_path, json.dumps(yaml.safe_load(_WHOLE)), MOZAIKS_DATA_DIR=str(tmp_path))).port == 4711
    cut = _WHOLE[: _WHOLE.index(last) + len(last)] + ("\n" if last.endswith(":") else "")
    with pytest.raises(SettingsError, match=r"gateway\.yaml") as refused:
        load(written(tmp_path, cut, MOZAIKS_DATA_DIR=str(tmp_path)))
    assert told in str(refused.value)


def test_of_a_file_that_is_no_yaml_the_environment_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError, match="They do not say where the stores are"):
        load(written(tmp_path, "models: ["), needs=Part.ANY)
    env = written(tmp_path, "models: [", MOZAIKS_DATA_DIR=str(tmp_path), OPENAI_API_KEY="sk-made-up")
    found = load(env, needs=Part.ANY)
    assert "is not valid YAML" in found.faults[0]
    assert "gpt-*" in [model.name for model in found.models]
    told = load({**env, "MOZAIKS_STRIPE_SECRET_KEY": "pk_test_made_up", "MOZAIKS_STRIPE_WEBHOOK_SECRET": "s"}, needs=Part.ANY)
    assert told.faults[1:] == ("MOZAIKS_STRIPE_SECRET_KEY is a publishable key, with which nothing can be sold: "
                               "it must be a secret or restricted key of Stripe: sk_... or rk_....",)  # fmt: skip
    assert (told.stripe_secret_key, told.stripe_webhook_secret) == ("", "")
    with pytest.raises(SettingsError, match="STRIPE_SECRET_KEY is a publishable key"):
        load({"MOZAIKS_DATA_DIR": str(tmp_path), "MOZAIKS_STRIPE_SECRET_KEY": "pk_test_made_up"})
    # What the environment says is not the file's fault.
    with pytest.raises(SettingsError, match="MOZAIKS_PORT"):
        load({**env, "MOZAIKS_PORT": "eighty"}, needs=Part.ANY)


_WITH_KEY = {"MOZAIKS_STRIPE_SECRET_KEY": "rk_test_made_up"}


@pytest.mark.parametrize(
    ("in_file", "in_env", "told"),
    [
        ({}, {"MOZAIKS_STRIPE_API_BASE": "foo"}, "MOZAIKS_STRIPE_API_BASE must be an http or https URL"),
        ({}, {"MOZAIKS_STRIPE_API_BASE": "https://"}, "MOZAIKS_STRIPE_API_BASE must be"),
        ({}, {"MOZAIKS_STRIPE_API_BASE": "http://127.0.0.1:abc"}, "MOZAIKS_STRIPE_API_BASE must be"),
        ({"stripe_api_base": "foo"}, {}, "MOZAIKS_STRIPE_API_BASE must be"),
        ({"stripe_api_base": ["http://127.0.0.1:9"]}, {}, "stripe_api_base must be a single value"),
        ({"stripe_api_base": "${NOT_THERE}"}, {}, "stripe_api_base refers to"),
        ({"stripe_api_bse": "http://127.0.0.1:9"}, {}, "stripe_api_bse is not a setting"),
        ({"stripe_webhook_secret": ["s"]}, {}, "stripe_webhook_secret must be a single value"),
        ({}, {"MOZAIKS_STRIPE_WEBHOOK_SECRET": "oops"}, "MOZAIKS_STRIPE_WEBHOOK_SECRET must be the signing secret of a webhook"),
        ({"stripe_connect_webhook_secret": "sk_test_x"}, {}, "MOZAIKS_STRIPE_CONNECT_WEBHOOK_SECRET must be the signing secret"),
        ("stripe_api_base: [", {}, "is not valid YAML"),
    ],
)
def test_where_a_setting_of_stripe_is_wrong_its_key_goes_nowhere(
    tmp_path: Path, in_file: Any, in_env: dict[str, str], told: str
) -> None:
    env = {**written(tmp_path, in_file, MOZAIKS_DATA_DIR=str(tmp_path)), **_WITH_KEY, **in_env}
    found = load(env, needs=Part.ANY)
    assert told in found.stripe_fault
    assert (found.stripe_secret_key, found.stripe_api_base) == ("", "")
    with pytest.raises(SettingsError):
        load(env)


def test_what_else_is_wrong_leaves_stripe_as_it_is(tmp_path: Path) -> None:
    env = {**written(tmp_path, {"port": "eighty"}, MOZAIKS_DATA_DIR=str(tmp_path)), **_WITH_KEY}
    found = load({**env, "MOZAIKS_STRIPE_API_BASE": "http://127.0.0.1:9"}, needs=Part.ANY)
    assert len(found.faults) == 1
    assert (found.stripe_fault, found.stripe_api_base, found.stripe_secret_key) == ("", "http://127.0.0.1:9", "rk_test_made_up")


@pytest.mark.parametrize(
    "said", ["gateway.example", "//gateway.example", "https://", "ftp://gateway.example", "https://a b", "http://x:abc"]
)
def test_an_address_that_nobody_could_follow_stops_the_start_and_every_command(tmp_path: Path, said: str) -> None:
    env = {"MOZAIKS_DATA_DIR": str(tmp_path)}
    for given in ({**env, "MOZAIKS_PUBLIC_URL": said}, written(tmp_path, {"public_url": said}, **env)):
        for needs in Part:
            with pytest.raises(SettingsError, match="MOZAIKS_PUBLIC_URL must be an http or https URL with a host"):
                load(given, needs=needs)


def test_an_address_is_kept_without_what_would_make_its_slashes_two(tmp_path: Path) -> None:
    env = {"MOZAIKS_DATA_DIR": str(tmp_path)}
    assert load({**env, "MOZAIKS_PUBLIC_URL": "https://gateway.example/llm/"}).public_url == "https://gateway.example/llm"
    assert load({**env, "MOZAIKS_PORT": "81"}).public_url == "http://127.0.0.1:81"
