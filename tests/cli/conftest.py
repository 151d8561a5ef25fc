"""The management commands in this process, on a real store and SQLite: no server is needed for them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from click.testing import CliRunner, Result

from gateway.cli.main import gateway
from tests.balance.server import running_server


class Cli:
    """`gateway ...` with the settings of the test."""

    def __init__(self, env: dict[str, str]) -> None:
        self.env = env
        self._runner = CliRunner(env=env)
        self.redis_url = env["MOZAIKS_REDIS_URL"]
        self.warnings = ""

    def but(self, **env: str) -> "Cli":
        """With other settings."""
        return Cli({**self.env, **env})

    def run(self, *args: str) -> Result:
        return self._runner.invoke(gateway, args)

    def text(self, *args: str) -> str:
        """What a person reads; the command must succeed."""
        done = self.run(*args)
        assert done.exit_code == 0, done.output
        self.warnings = done.stderr
        return done.stdout

    def json(self, *args: str) -> Any:
        return msgspec.json.decode(self.text(*args, "--json"))

    def refused(self, *args: str) -> str:
        """The sentence with which the command ends; lines are joined."""
        done = self.run(*args)
        assert done.exit_code in (1, 2), done.output
        assert not done.stdout
        return " ".join(done.stderr.split())


MODELS = [
    {"name": "own", "deployments": [{"api_base": "http://127.0.0.1:9/v1"}], "prices": {"input": "1", "output": "4"}},
    {"name": "gpt-4o-mini", "deployments": [{"api_base": "http://127.0.0.1:9/v1"}], "charge": {"input": "3", "output": "9"}},
    {
        "name": "dated",
        "deployments": [{"model": "gpt-4.1-mini", "api_base": "http://127.0.0.1:9/v1"}],
        "prices": {"input": "0.5", "output": "1.6"},
    },
    {"name": "free", "deployments": [{"api_base": "http://127.0.0.1:9/v1"}], "prices": {"input": "0", "output": "0"}},
    {"name": "unlisted", "deployments": [{"api_base": "http://127.0.0.1:9/v1"}]},
    {"name": "gpt-*", "deployments": [{"model": "*", "api_base": "http://127.0.0.1:9/v1"}]},
    {
        "name": "flat-*",
        "deployments": [{"model": "*", "api_base": "http://127.0.0.1:9/v1"}],
        "prices": {"input": "2", "output": "2", "request": "250"},
    },
]


@pytest.fixture(scope="session")
def cli(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    """One gateway for the room: each test makes apps of its own. The platform adds a tenth to what providers take."""
    folder: Path = tmp_path_factory.mktemp("cli")
    config = folder / "gateway.yaml"
    config.write_text(yaml.safe_dump({"models": MODELS, "platform_markup_percent": "10"}))
    with running_server() as url:
        cli = Cli({"MOZAIKS_CONFIG": str(config), "MOZAIKS_DATA_DIR": str(folder / "data"), "MOZAIKS_REDIS_URL": url})
        (folder / "data").mkdir()
        cli.text("creators", "create", "acme")
        yield cli


@pytest.fixture
def app(cli: Cli, request: pytest.FixtureRequest) -> str:
    """An app of the test alone, whose creator pays."""
    name: str = request.node.name.partition("[")[0][:100].replace("_", "-")
    cli.text("apps", "create", name, "--user-id", "acme", "--cost-policy", "creator_pays")
    return name
