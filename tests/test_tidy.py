"""The house rules that no linter has: sizes, names, floats near money."""

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "gateway").rglob("*.py"))
FUNCTION_LINES_MAX = 70
FILE_LINES_MAX = 500
MONEY_WORDS = ("cost", "price", "balance", "amount", "spend", "fee", "micro", "rate")


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_is_a_room_a_person_can_hold(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= FILE_LINES_MAX
    if "migrations" not in path.parts:
        long = [f.name for f in functions(path) if (f.end_lineno or 0) - f.lineno + 1 > FUNCTION_LINES_MAX]
        assert not long


def test_no_room_is_a_junk_drawer() -> None:
    names = {path.name for path in SOURCES}
    assert not names & {"utils.py", "helpers.py", "manager.py", "common.py", "misc.py"}


def test_every_module_says_what_it_is_for() -> None:
    silent = [str(path.relative_to(ROOT)) for path in SOURCES if not ast.get_docstring(ast.parse(path.read_text()))]
    assert not silent


def test_no_money_is_a_float() -> None:
    found = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                name, annotation = node.target.id, ast.unparse(node.annotation)
            elif isinstance(node, ast.arg) and node.annotation is not None:
                name, annotation = node.arg, ast.unparse(node.annotation)
            else:
                continue
            if "float" in annotation and any(word in name.split("_") for word in MONEY_WORDS):
                found.append(f"{path.relative_to(ROOT)}:{node.lineno} {name}: {annotation}")
    assert not found


def test_no_module_is_dead() -> None:
    # The in-process balance is the port's second adapter: other rooms' tests and the contract suite use it.
    users = [*SOURCES, *(ROOT / "tests" / "contract").glob("*.py")]
    text = "\n".join(path.read_text() for path in users)
    imported = {whole for path in users for name in imports(path) for whole in (name, name.rpartition(".")[0])}
    project = (ROOT / "pyproject.toml").read_text()
    dead = []
    for path in SOURCES:
        if path.stem == "__init__" or "versions" in path.parts or path.stem in ("__main__", "env"):
            continue
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        if module not in imported and module not in project and f'"{module}' not in text:
            dead.append(module)
    assert not dead


def test_every_limit_and_every_function_of_the_vocabulary_is_used() -> None:
    text = {path: path.read_text() for path in SOURCES}
    unused = []
    for home in (ROOT / "gateway" / "core").glob("*.py"):
        for node in ast.parse(home.read_text()).body:
            names = [node.target] if isinstance(node, ast.AnnAssign) else []
            name = getattr(node, "name", names[0].id if names and isinstance(names[0], ast.Name) else "_")
            word = re.compile(rf"\b{name}\b")
            elsewhere = any(word.search(source) for path, source in text.items() if path != home)
            if not name.startswith("_") and not elsewhere and len(word.findall(text[home])) < 2:
                unused.append(f"{home.name}: {name}")
    assert not unused


def test_commits_name_no_machine_and_no_registry() -> None:
    words = ("pypi" + ".org", "python" + "hosted", "registry." + "npmjs", "/ro" + "ot/", "/wo" + "rk/")
    for path in [*SOURCES, *(ROOT / "tests").rglob("*.py"), *ROOT.glob("*.lock"), ROOT / "Makefile"]:
        text = path.read_text()
        assert not [word for word in words if word in text], path


@functools.cache
def imports(path: Path) -> set[str]:
    """Full names of what a module imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


TYPES_OF_SQL = {"sqlalchemy.ext.asyncio.AsyncEngine", "sqlalchemy.ext.asyncio.AsyncConnection"}
WALLS = {
    "redis": ("balance/redis_", "identity/cache.py", "answers/redis_answers.py"),
    "hiredis": ("balance/redis_link.py",),
    "aiohttp": (),
    "httptools": ("providers/http1.py", "server/"),
    "jwt": ("identity/tokens.py",),
    "yaml": ("config/file.py",),
    "tiktoken": ("providers/tokenizer.py",),
    "litellm": ("providers/litellm_bridge.py",),
    "httpx": ("providers/litellm_bridge.py",),
    "stripe": ("billing/stripe/client.py", "billing/stripe/faults.py"),
    "uvicorn": ("server/",),
    "click": ("cli/",),
    "alembic": ("db/",),
    "asyncpg": ("db/",),
    "sqlalchemy": (
        "db/",
        "trail/store.py",
        "identity/store.py",
        "ledger/store.py",
        "ledger/queries.py",
        "ledger/audit_queries.py",
        "ledger/payment_queries.py",
        "pricing/store.py",
        "billing/rows.py",
        "billing/store.py",
        "billing/webhooks/store.py",
        "billing/promo_store.py",
        "billing/overage/store.py",
        "billing/revenue/store.py",
        "billing/top_ups/store.py",
        "billing/overage/store.py",
        "billing/subscriber_store.py",
        "api/queries.py",
    ),
}


@pytest.mark.parametrize("library", WALLS)
def test_a_library_is_known_to_few_files(library: str) -> None:
    allowed = WALLS[library]
    for path in SOURCES:
        name = path.relative_to(ROOT / "gateway").as_posix()
        used = {item for item in imports(path) if item.split(".")[0] == library} - TYPES_OF_SQL
        assert not used or name.startswith(allowed or "-"), f"{name} imports {used}"


def test_the_environment_has_one_reader() -> None:
    readers = [path.name for path in SOURCES if "os.environ" in path.read_text() or "getenv" in path.read_text()]
    assert readers == ["settings.py"]
