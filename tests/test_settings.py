"""What the configuration may say of translated providers."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.providers.translation import TRANSLATED
from gateway.settings import DeploymentConfig, SettingsError, load


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
