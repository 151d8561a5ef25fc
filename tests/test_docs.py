"""What the README says is held against the code."""

import re
from pathlib import Path

import click
import msgspec
import yaml

from gateway.api.table import TABLE
from gateway.cli.main import gateway as command
from gateway.core import errors
from gateway.settings import NAMES, PREFIX, load

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def codes() -> set[str]:
    """Words that can be error codes: those of the error classes, and the quoted words of the package."""
    found = {kind.code for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.GatewayError)}
    for path in (ROOT / "gateway").rglob("*.py"):
        found |= set(re.findall(r'"([a-z_]+)"', path.read_text()))
    return found


def test_every_setting_is_in_the_readme_and_nothing_else() -> None:
    told = set(re.findall(rf"`{PREFIX}([A-Z_]+)`", README)) - {"CONFIG"}
    assert told == {name.upper() for name in NAMES}


def test_every_error_code_in_the_readme_exists() -> None:
    table = README[README.index("| status | code |") :].split("\n\n")[0]
    told = {code for line in table.splitlines()[2:] for code in re.findall(r"`([a-z_]+)`", line.split("|")[2])}
    assert told
    assert told <= codes()
    # The other way round for the data plane: what clients can meet is told.
    data_plane = {"insufficient_balance", "unpriced_model", "balance_unavailable", "model_not_allowed", "end_user_mismatch"}
    assert data_plane <= told


def test_every_command_is_in_the_readme_and_says_what_it_does() -> None:
    line = README[README.index("Commands: ") :].split("\n\n")[0].split(";")[0]
    told = set(re.findall(r"`(?:gateway )?([a-z-]+)`", line))
    assert told == set(command.commands)

    def check(name: str, each: click.Command) -> None:
        assert each.help, name
        for inner, sub in getattr(each, "commands", {}).items():
            check(f"{name} {inner}", sub)

    check("gateway", command)


def test_every_command_line_in_the_readme_parses() -> None:
    lines = re.findall(r"^(?:\.venv/bin/)?gateway (.+)$", README, re.MULTILINE)
    assert len(lines) > 6
    for line in lines:
        words = re.findall(r'"[^"]*"|\S+', line)
        words = [word.strip('"') for word in words]
        context = click.Context(command)
        each: click.Command = command
        while isinstance(each, click.Group):
            _, found, words = each.resolve_command(context, words)
            assert found is not None, line
            each = found
        each.make_context(each.name, words)


def test_every_rest_call_in_the_readme_is_one_that_the_api_takes() -> None:
    calls = re.findall(r"^curl [^\n]*?(/api/v1/\S+)((?:.|\n)*?) -d '([^']*)'$", README, re.MULTILINE)
    assert len(calls) == 2
    for path, headers, body in calls:
        (endpoint,) = [
            each for each in TABLE if each.method == "POST" and re.fullmatch(re.sub(r"{\w+}", "[^/]+", each.path), path)
        ]
        msgspec.json.decode(body, type=endpoint.body)
        assert "Bearer $TOKEN" in headers
        assert ("Idempotency-Key" in headers) is endpoint.idempotent


def test_every_sample_configuration_loads(tmp_path: Path) -> None:
    for path in (ROOT / "config").glob("*.yaml"):
        names = re.findall(r"\$\{([A-Z_]+)\}", path.read_text())
        settings = load(
            {"MOZAIKS_CONFIG": str(path), "MOZAIKS_DATA_DIR": str(tmp_path), **dict.fromkeys(names, "made-up")} | _SECRETS
        )
        assert settings.models
        # Commented settings are samples too: they must be known.
        commented = re.findall(r"^# ([a-z_]+): ", path.read_text(), re.MULTILINE)
        assert set(commented) <= set(NAMES)
        assert yaml.safe_load(path.read_text())


_SECRETS = {"MOZAIKS_OPERATOR_TOKEN": "made-up-operator-token-for-tests", "MOZAIKS_KEY_PEPPER": "made-up-pepper-for-tests-only"}


def test_every_route_declares_who_may_call_it() -> None:
    assert len(TABLE) > 20
    assert all(endpoint.roles for endpoint in TABLE)
