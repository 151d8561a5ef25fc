"""What the README and the documents beside it say is held against the code."""

import ast
import re
from pathlib import Path

import click
import msgspec
import yaml

from gateway.api.table import TABLE
from gateway.billing.webhooks.inbox import _EFFECTS
from gateway.cli.main import gateway as command
from gateway.identity.model import Role
from gateway.settings import NAMES, PREFIX, load

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
SELLING = (ROOT / "docs" / "selling.md").read_text()
DOCUMENTS = {path: path.read_text() for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}
EVERYWHERE = "\n".join(DOCUMENTS.values())


_MAKERS = {"GatewayError", "refusal_body", "_refused"}


def codes(*sources: str) -> set[str]:
    """The error codes of sources: those of error classes, those that errors are made with, and what names them."""
    found: set[str] = set()
    named: dict[str, set[str]] = {}  # by each name the words it was given; by "code" also the names of constants that are codes
    for node in [node for source in sources for node in ast.walk(ast.parse(source))]:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            name = target.id if isinstance(target, ast.Name) else ""
            named.setdefault(name, set()).update(words(node.value))
            if name.endswith("_REFUSALS") and isinstance(node.value, ast.Dict):
                found |= {word for key in node.value.keys if key is not None for word in words(key)}
        elif isinstance(node, ast.Call):
            given = [keyword.value for keyword in node.keywords if keyword.arg == "code"]
            if isinstance(node.func, ast.Name) and node.func.id in _MAKERS:
                given += node.args[1:2]
            found |= {word for each in given for word in words(each)}
            named["code"] = named.get("code", set()) | {name for each in given for name in names(each)}
    spoken = named.pop("code", set())
    return found | {word for word in spoken if word.islower()} | {word for name in spoken for word in named.get(name, ())}


def words(node: ast.AST | None) -> set[str]:
    """The strings in an expression that can be codes."""
    found = [each.value for each in ast.walk(node) if isinstance(each, ast.Constant)] if node is not None else []
    return {word for word in found if isinstance(word, str) and re.fullmatch(r"[a-z]+(_[a-z]+)*", word)}


def names(node: ast.AST) -> set[str]:
    """The constants that an expression names."""
    return {each.id for each in ast.walk(node) if isinstance(each, ast.Name) and each.id.isupper()}


def test_the_codes_of_sources_are_found_however_they_are_written() -> None:
    source = """
class Odd(GatewayError):
    code = "odd"
WHY: Final = "why"
_REFUSALS = {"gone": "It is gone.", "late": "Too late."}
raise NotFound("x", code="lost")
raise NotFound("x", code=WHY if True else "other")
refusal_body(str(wrong), "untold", param=None)
"""
    assert codes(source) == {"odd", "why", "gone", "late", "lost", "other", "untold"}


def test_every_setting_is_in_the_readme_and_nothing_else() -> None:
    told = set(re.findall(rf"`{PREFIX}([A-Z_]+)`", README)) - {"CONFIG"}
    assert told == {name.upper() for name in NAMES}
    spoken = set(re.findall(rf"\b{PREFIX}([A-Z_]+)", EVERYWHERE)) - {"CONFIG"}
    assert spoken == told


def test_the_table_of_error_codes_has_every_code_and_no_other() -> None:
    table = README[README.index("| status | code |") :].split("\n\n")[0]
    told = {code for line in table.splitlines()[2:] for code in re.findall(r"`([a-z_]+)`", line.split("|")[2])}
    made = codes(*[path.read_text() for path in (ROOT / "gateway").rglob("*.py")])
    assert told - made == set()
    assert made - told == set()


def test_every_command_is_in_the_readme_and_says_what_it_does() -> None:
    line = README[README.index("Commands: ") :].split("\n\n")[0].split(";")[0]
    told = set(re.findall(r"`(?:gateway )?([a-z-]+)`", line))
    assert told == set(command.commands)

    def check(name: str, each: click.Command) -> None:
        assert each.help, name
        for inner, sub in getattr(each, "commands", {}).items():
            check(f"{name} {inner}", sub)

    check("gateway", command)


def test_every_command_line_of_the_documents_parses() -> None:
    lines = re.findall(r"^(?:\.venv/bin/)?gateway (.+)$", EVERYWHERE, re.MULTILINE)
    assert {line.split()[0] for line in lines} >= {"apps", "keys", "grants", "usage", "audit", "plans", "sales"}
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


def test_the_events_that_stripe_is_to_send_are_those_that_change_something() -> None:
    setup = SELLING[SELLING.index("### Events") :]
    told = next(block.splitlines() for block in re.findall(r"^```\n(.*?)\n```$", setup, re.MULTILINE | re.DOTALL))
    assert sorted(told) == sorted(_EFFECTS)


def test_every_command_that_is_named_in_a_sentence_is_one() -> None:
    named = re.findall(r"`gateway ((?:[a-z-]+ ?)+)", EVERYWHERE)
    assert len(named) > 40
    for line in named:
        each: click.Command = command
        for word in line.split():
            if not isinstance(each, click.Group):
                break  # its arguments
            assert word in each.commands, line
            each = each.commands[word]


def test_every_path_that_is_named_is_one_of_the_api() -> None:
    named = re.findall(r"`(?:([A-Z]+)\s+)?(/api/v1/[^`\s]+)`", EVERYWHERE)
    assert len(named) > 20
    taken = {(method, _shape(each.path)) for each in TABLE for method in (each.method, "")}
    for method, path in named:
        assert (method, _shape(path)) in taken, (method, path)


def _shape(path: str) -> str:
    return re.sub(r"{\w+}", "{}", path)


def test_every_link_within_the_documents_leads_somewhere() -> None:
    for path, text in DOCUMENTS.items():
        plain = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
        for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", plain):
            name, _, anchor = target.partition("#")
            led = (path.parent / name).resolve() if name else path
            assert led.exists(), (path.name, target)
            assert not anchor or anchor in _anchors(DOCUMENTS[led]), (path.name, target)


def _anchors(text: str) -> set[str]:
    """Of headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_rest_call_of_the_documents_is_one_that_the_api_takes() -> None:
    calls = re.findall(r"^curl (?:-X (\w+) )?[^\n]*?(/api/v1/\S+)((?:.|\n)*?) -d '([^']*)'$", EVERYWHERE, re.MULTILINE)
    assert len(calls) == 3
    for method, path, headers, body in calls:
        (endpoint,) = [
            each
            for each in TABLE
            if each.method == (method or "POST") and re.fullmatch(re.sub(r"{\w+}", "[^/]+", each.path), path)
        ]
        msgspec.json.decode(body, type=endpoint.body)
        assert ("Bearer $APP_KEY" if Role.APP_SERVER in endpoint.roles and method == "PUT" else "Bearer $TOKEN") in headers
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
