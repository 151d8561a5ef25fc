"""Where a price comes from, and that the past keeps it. On a real database."""

import json
from collections.abc import AsyncIterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert

from gateway.core.errors import Conflict, GatewayError, InvalidRequest, NotFound, Unavailable
from gateway.core.money import TOK, USD
from gateway.core.units import Usage
from gateway.db.engines import Databases
from gateway.db.tables import apps, creators
from gateway.pricing import catalog as module
from gateway.pricing.catalog import BOOK_TTL_MS, Catalog
from gateway.pricing.configured import PriceOverride
from gateway.pricing.rates import Rates, marked_up
from gateway.trail import store as trail

NOW = 1_800_000_000_000
MINI, PATTERN, OWN, UNKNOWN = "mini/openai/0", "gpt-*/openai/0", "own/vllm/0", "none/vllm/0"
DEPLOYMENTS = [
    PriceOverride(MINI, "openai", "gpt-4o-mini"),
    PriceOverride(PATTERN, "openai", "*"),
    PriceOverride(OWN, "vllm", "own", prices={"input": "1", "output": "2"}, charge={"input": "5", "output": "6.5"}),
    PriceOverride(UNKNOWN, "vllm", "none"),
]


class Moment:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.ms = NOW

    def __call__(self) -> int:
        return self.ms * 1_000_000


@pytest.fixture
def clock() -> Moment:
    return Moment()


@pytest.fixture
async def databases(tmp_path: Path) -> AsyncIterator[Databases]:
    made = Databases(f"sqlite+aiosqlite:///{tmp_path}/platform.db", f"sqlite+aiosqlite:///{tmp_path}/{{enterprise_id}}.db")
    await made.migrate()
    async with made.platform.begin() as connection:
        await connection.execute(insert(creators).values(user_id="u", name="", status="active", created_at=0))
        for enterprise_id, asset in (("usd", USD), ("tok", TOK), ("eur", "EUR")):
            row: dict[str, Any] = {column.name: "" for column in apps.c}
            row |= {"enterprise_id": enterprise_id, "user_id": "u", "asset": asset, "end_user_sources": [], "end_user_limits": {}}
            row["cors_origins"] = []
            await connection.execute(insert(apps).values(**{**row, "created_at": 0, "updated_at": 0, "default_end_user": None}))
    yield made
    await made.close()


@pytest.fixture
def catalog(databases: Databases, clock: Moment) -> Catalog:
    return Catalog(databases.platform, DEPLOYMENTS, platform_markup_bp=1_000, clock=clock)


def usd(rates: Rates | bool | None) -> tuple[int, int] | None:
    return (rates.input, rates.output) if isinstance(rates, Rates) else None


def test_a_provider_price_is_the_configured_one_else_the_shipped_one_else_none(catalog: Catalog) -> None:
    assert usd(catalog.cost(OWN, NOW)) == (1_000_000, 2_000_000)
    assert usd(catalog.cost(MINI, NOW)) == (150_000, 600_000)
    assert catalog.cost(UNKNOWN, NOW) is None
    assert catalog.cost("never configured", NOW) is None


def test_a_pattern_deployment_has_the_prices_of_the_model_it_is_asked_for(catalog: Catalog) -> None:
    assert usd(catalog.cost(f"{PATTERN}=gpt-4o", NOW)) == (2_500_000, 10_000_000)
    assert usd(catalog.cost(f"{PATTERN}=gpt-4o-mini", NOW)) == (150_000, 600_000)
    assert catalog.cost(f"{PATTERN}=gpt-nonsense", NOW) is None
    assert catalog.cost(PATTERN, NOW) is None


def test_the_platform_price_is_the_configured_charge_else_the_cost_with_the_markup(catalog: Catalog) -> None:
    assert usd(catalog.platform("own", OWN, NOW)) == (5_000_000, 6_500_000)
    assert usd(catalog.platform("mini", MINI, NOW)) == (165_000, 660_000)
    assert catalog.platform("none", UNKNOWN, NOW) is None


def test_a_configured_price_that_is_no_price_stops_the_start_and_names_the_deployment(databases: Databases) -> None:
    for prices in ({"input": "abc"}, {"inptu": "1"}, {"input": "-1", "output": "1"}, {"input": "0.0000001"}, {}):
        with pytest.raises(ValueError, match="x/y/0"):
            Catalog(databases.platform, [PriceOverride("x/y/0", "p", "m", prices=prices)])


async def test_another_configuration_holds_from_its_time_on_and_what_began_before_keeps_its_prices(
    catalog: Catalog, clock: Moment
) -> None:
    await catalog.load_app("usd")
    assert usd(catalog.app_cached("usd", USD, "own", OWN, NOW) or None) == (1_000_000, 2_000_000)
    clock.ms = NOW + 10
    dearer = PriceOverride(OWN, "vllm", "own", prices={"input": "3", "output": "4"})
    catalog.configure([dearer], 0)
    assert usd(catalog.cost(OWN, NOW + 11)) == usd(catalog.platform("own", OWN, NOW + 11)) == (3_000_000, 4_000_000)
    assert usd(catalog.app_cached("usd", USD, "own", OWN, NOW + 11) or None) == (3_000_000, 4_000_000)
    assert catalog.cost(MINI, NOW + 11) is None  # it is configured no more
    # A request that was admitted in that very moment, or before it:
    for at_ms in (NOW, NOW + 10):
        assert usd(catalog.cost(OWN, at_ms)) == (1_000_000, 2_000_000)
        assert usd(catalog.platform("own", OWN, at_ms)) == (5_000_000, 6_500_000)
        assert catalog.cost(MINI, at_ms) is not None
    clock.ms = NOW + 20
    catalog.configure(DEPLOYMENTS, 2_000)
    assert usd(catalog.cost(OWN, NOW + 15)) == (3_000_000, 4_000_000)
    assert usd(catalog.cost(OWN, NOW + 5)) == usd(catalog.cost(OWN, NOW + 21)) == (1_000_000, 2_000_000)
    with pytest.raises(ValueError, match=OWN):
        catalog.configure([PriceOverride(OWN, "vllm", "own", prices={"input": "x", "output": "1"})], 0)
    assert usd(catalog.cost(OWN, NOW + 30)) == (1_000_000, 2_000_000)  # what was in force stays


async def test_without_a_book_usd_takes_the_cost_tok_one_a_token_and_other_assets_have_no_price(catalog: Catalog) -> None:
    assert await catalog.app("usd", USD, "mini", MINI, NOW) == catalog.cost(MINI, NOW)
    tok = await catalog.app("tok", TOK, "mini", MINI, NOW)
    assert tok is not None
    assert tok.asset == TOK
    assert tok.price(Usage(input=3, cached_input=4, output=5, reasoning=1)) == 13_000_000
    assert await catalog.app("eur", "EUR", "mini", MINI, NOW) is None
    assert await catalog.app("usd", USD, "none", UNKNOWN, NOW) is None


async def test_the_hot_path_reads_memory_only_and_says_when_the_book_is_missing(catalog: Catalog, databases: Databases) -> None:
    assert catalog.app_cached("usd", USD, "mini", MINI, NOW) is False
    await catalog.load_app("usd")
    await databases.close()
    assert usd(catalog.app_cached("usd", USD, "mini", MINI, NOW)) == (150_000, 600_000)
    assert catalog.app_cached("usd", USD, "mini", MINI, NOW) is catalog.app_cached("usd", USD, "mini", MINI, NOW + 1)


async def test_a_price_holds_from_its_time_on_and_never_for_the_past(catalog: Catalog) -> None:
    await catalog.add_app_price("usd", "mini", NOW + 1_000, rates={"input": 7, "output": 9}, actor="op")
    await catalog.load_app("usd")
    before, after = [catalog.app_cached("usd", USD, "mini", MINI, at) for at in (NOW + 999, NOW + 1_000)]
    assert (usd(before), usd(after)) == ((150_000, 600_000), (7, 9))
    assert usd(catalog.app_cached("usd", USD, "other", MINI, NOW + 1_000)) == (150_000, 600_000)
    assert usd(catalog.app_cached("usd", USD, "mini", MINI, NOW + 999)) == (150_000, 600_000)
    assert usd(catalog.app_cached("usd", USD, "other", OWN, NOW + 1_000)) == (1_000_000, 2_000_000)


async def test_a_markup_is_on_the_provider_price_and_star_is_for_every_other_model(catalog: Catalog) -> None:
    await catalog.add_app_price("usd", "*", NOW, markup_bp=5_000, actor="op")
    await catalog.add_app_price("usd", "own", NOW, rates={"input": 1, "output": 2}, actor="op")
    cost = catalog.cost(MINI, NOW)
    assert cost is not None
    assert await catalog.app("usd", USD, "mini", MINI, NOW) == marked_up(cost, 5_000)
    assert usd(await catalog.app("usd", USD, "own", OWN, NOW)) == (1, 2)
    assert await catalog.app("usd", USD, "none", UNKNOWN, NOW) is None


async def test_an_app_in_another_asset_has_the_price_that_it_sets(catalog: Catalog) -> None:
    await catalog.add_app_price("eur", "*", NOW, rates={"input": 5, "output": 6}, actor="op")
    rates = await catalog.app("eur", "EUR", "none", UNKNOWN, NOW)
    assert rates is not None
    assert (rates.asset, rates.input, rates.output) == ("EUR", 5, 6)


async def test_adding_a_price_is_seen_at_once_here_and_within_the_ttl_elsewhere(
    catalog: Catalog, databases: Databases, clock: Moment
) -> None:
    other = Catalog(databases.platform, DEPLOYMENTS, clock=clock)
    for each in (catalog, other):
        assert usd(await each.app("usd", USD, "mini", MINI, NOW)) == (150_000, 600_000)
    await catalog.add_app_price("usd", "mini", NOW, rates={"input": 1, "output": 1}, actor="op")
    assert usd(await catalog.app("usd", USD, "mini", MINI, NOW)) == (1, 1)
    assert usd(other.app_cached("usd", USD, "mini", MINI, NOW + BOOK_TTL_MS)) == (150_000, 600_000)
    assert other.app_cached("usd", USD, "mini", MINI, NOW + BOOK_TTL_MS + 1) is False


@pytest.mark.parametrize(
    ("enterprise_id", "model", "at", "more", "expected", "param"),
    [
        ("usd", "m", NOW - 60_001, {"markup_bp": 0}, InvalidRequest, "effective_at"),
        ("usd", "m", NOW + 10**12, {"markup_bp": 0}, InvalidRequest, "effective_at"),
        ("usd", "", NOW, {"markup_bp": 0}, InvalidRequest, "model"),
        ("usd", "gpt-*", NOW, {"markup_bp": 0}, InvalidRequest, "model"),
        ("usd", "m" * 257, NOW, {"markup_bp": 0}, InvalidRequest, "model"),
        ("usd", "m", NOW, {}, InvalidRequest, "rates"),
        ("usd", "m", NOW, {"markup_bp": 1, "rates": {"input": 1, "output": 1}}, InvalidRequest, "rates"),
        ("usd", "m", NOW, {"markup_bp": -1}, InvalidRequest, "markup_bp"),
        ("usd", "m", NOW, {"markup_bp": 1_000_001}, InvalidRequest, "markup_bp"),
        ("tok", "m", NOW, {"markup_bp": 1}, InvalidRequest, "markup_bp"),
        ("usd", "m", NOW, {"rates": {"input": 1}}, InvalidRequest, "rates"),
        ("usd", "m", NOW, {"rates": {"input": 1, "output": -1}}, InvalidRequest, "rates"),
        ("usd", "m", NOW, {"rates": {"input": 1, "output": 10**15 + 1}}, InvalidRequest, "rates"),
        ("usd", "m", NOW, {"rates": {"input": 1, "output": 1.5}}, InvalidRequest, "rates"),
        ("usd", "m", NOW, {"rates": {"input": 1, "output": 1, "nonsense": 1}}, InvalidRequest, "rates"),
        ("nobody", "m", NOW, {"markup_bp": 0}, NotFound, "enterprise_id"),
    ],
)
async def test_a_price_that_cannot_stand_is_refused(
    catalog: Catalog, enterprise_id: str, model: str, at: int, more: Any, expected: type[GatewayError], param: str
) -> None:
    with pytest.raises(expected) as refused:
        await catalog.add_app_price(enterprise_id, model, at, actor="op", **more)
    assert refused.value.param == param
    assert list(await catalog.app_prices(enterprise_id)) == []


async def test_a_price_a_little_in_the_past_holds_from_now(catalog: Catalog) -> None:
    row = await catalog.add_app_price("usd", "m", NOW - 60_000, markup_bp=3, actor="op")
    assert row.version.effective_at_ms == NOW
    assert list(await catalog.app_prices("usd")) == [row]


async def test_two_prices_from_the_same_moment_are_a_conflict(catalog: Catalog) -> None:
    await catalog.add_app_price("usd", "m", NOW + 5, markup_bp=3, actor="op")
    with pytest.raises(Conflict):
        await catalog.add_app_price("usd", "m", NOW + 5, markup_bp=4, actor="op")
    await catalog.add_app_price("usd", "m", NOW + 6, markup_bp=4, actor="op")
    await catalog.add_app_price("tok", "m", NOW + 5, rates={"input": 1, "output": 0}, actor="op")
    assert [row.version.markup_bp for row in await catalog.app_prices("usd")] == [3, 4]


async def test_a_database_that_does_not_answer_is_unavailable_but_an_old_book_stays_in_use(
    databases: Databases, clock: Moment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = Catalog(databases.platform, DEPLOYMENTS, clock=clock)
    await catalog.load_app("usd")
    await databases.close()
    (tmp_path / "platform.db").unlink()
    (tmp_path / "platform.db").mkdir()
    for aside in ("-wal", "-shm"):
        (tmp_path / f"platform.db{aside}").unlink(missing_ok=True)
    clock.ms += BOOK_TTL_MS + 1
    assert usd(await catalog.app("usd", USD, "mini", MINI, clock.ms)) == (150_000, 600_000)
    with pytest.raises(Unavailable):
        await catalog.app("tok", TOK, "mini", MINI, clock.ms)
    with pytest.raises(Unavailable):
        await catalog.app_prices("usd")


async def test_names_that_clients_make_up_and_many_apps_do_not_grow_memory_without_bound(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_RESOLVED_MAX", 50)
    monkeypatch.setattr(module, "BOOKS_MAX", 5)
    for number in range(200):
        catalog.cost(f"{PATTERN}=gpt-{number}", NOW)
        catalog.app_cached("usd", USD, f"gpt-{number}", f"{PATTERN}=gpt-{number}", NOW)
    for number in range(12):
        await catalog.load_app(f"app{number}")
    await catalog.load_app("usd")
    for number in range(200):
        catalog.app_cached("usd", USD, f"gpt-{number}", f"{PATTERN}=gpt-{number}", NOW)
    assert len(catalog._provided) <= 50
    assert len(catalog._books) <= 5
    assert len(catalog._books["usd"].resolved) <= 50


def test_what_a_deployment_costs_says_where_it_is_from(databases: Databases) -> None:
    for markup_bp, told in ((0, "provider's price"), (1250, "markup 12.5 %"), (10_001, "markup 100.01 %")):
        catalog = Catalog(databases.platform, DEPLOYMENTS, markup_bp)
        mini = catalog.provided(MINI)
        assert mini.cost is not None
        assert (mini.cost.cached_input, mini.charge_source) == (75_000, told)
        assert mini.cost_source == f"shipped list (litellm {version('litellm')})"
        assert mini.charge == marked_up(mini.cost, markup_bp)
    own = catalog.provided(OWN)
    assert (own.cost_source, own.charge_source) == ("configuration", "configuration")
    for deployment_id in (PATTERN, UNKNOWN, "nobody/knows/0"):
        found = catalog.provided(deployment_id)
        assert (found.cost, found.cost_source, found.charge, found.charge_source) == (None, "none", None, "none")


async def test_what_an_app_takes_says_where_it_is_from_and_is_what_is_charged(catalog: Catalog) -> None:
    async def source(enterprise_id: str, asset: str, deployment_id: str = MINI) -> tuple[str, int | None]:
        found = await catalog.app_rates(enterprise_id, asset, "mini", deployment_id, NOW)
        assert found.rates == await catalog.app(enterprise_id, asset, "mini", deployment_id, NOW)
        return found.source, found.since_ms

    assert await source("usd", USD) == ("provider's price", None)
    assert await source("tok", TOK) == ("1 TOK a token", None)
    assert await source("eur", "EUR") == ("none", None)
    assert await source("usd", USD, UNKNOWN) == ("none", None)
    await catalog.add_app_price("usd", "*", NOW, markup_bp=2000, actor="a")
    assert await source("usd", USD) == ("app's markup 20 %", NOW)
    await catalog.add_app_price("usd", "mini", NOW, rates={"input": 1, "output": 2}, actor="a")
    await catalog.add_app_price("usd", "mini", NOW + 1, rates={"input": 9, "output": 9}, actor="a")
    assert await source("usd", USD) == ("app's price", NOW)
    assert await source("usd", USD, UNKNOWN) == ("app's price", NOW)


async def test_prices_that_the_configuration_changed_are_noted_once_with_what_they_were(
    databases: Databases, clock: Moment
) -> None:
    def started(price: str) -> Catalog:
        prices = {"input": price, "output": "2"}
        return Catalog(databases.platform, [PriceOverride("x/y/0", "p", "m", prices=prices)], clock=clock)

    assert [await started(price).record_configured() for price in ("1", "1", "3")] == [True, False, True]
    async with trail.reading(databases.platform) as conn:
        lines = [line async for line in trail.lines(conn, trail.trail_of(None)) if line.act == "prices.configure"]
    assert [line.before_json == "" for line in lines] == [True, False]
    assert lines[1].before_json == lines[0].after_json != lines[1].after_json
    assert '"input":3000000' in lines[1].after_json


def listing(**prices: str) -> bytes:
    """A price list of one model, in USD a million tokens."""
    entry: dict[str, Any] = {"litellm_provider": "openai", "mode": "chat"}
    entry |= {f"{kind}_cost_per_token": float(price) / 10**6 for kind, price in prices.items()}
    return json.dumps({"gpt-4o-mini": entry}).encode()


async def test_a_newer_list_holds_from_its_time_on_and_the_past_keeps_its_price(databases: Databases, clock: Moment) -> None:
    one, other = (Catalog(databases.platform, DEPLOYMENTS, platform_markup_bp=1_000, clock=clock) for _ in range(2))
    await one.add_app_price("usd", "*", NOW, markup_bp=10_000, actor="a")
    for catalog in (one, other, one, other):  # the first time its book is loaded, the second its rates are kept
        assert usd(await catalog.app("usd", USD, "mini", MINI, NOW)) == (300_000, 1_200_000)
    row = await one.lists.add(listing(input="0.25", output="1"), NOW + 5_000, "op", "operator")
    assert (row.effective_at_ms, row.models) == (NOW + 5_000, 1)
    for catalog in (one, other):
        assert usd(catalog.cost(MINI, NOW + 5_000)) == (150_000, 600_000), "it is not loaded yet"
        await catalog.load_lists()
        for at_ms, expected in [(NOW, 150_000), (NOW + 4_999, 150_000), (NOW + 5_000, 250_000), (NOW + 4_999, 150_000)]:
            assert catalog.cost(MINI, at_ms) == catalog.cost(MINI, at_ms)
            cost, charge = catalog.cost(MINI, at_ms), catalog.platform("mini", MINI, at_ms)
            assert cost is not None
            assert (cost.input, charge) == (expected, marked_up(cost, 1_000))
            assert usd(await catalog.app("usd", USD, "mini", MINI, at_ms)) == (2 * cost.input, 2 * cost.output)
        assert usd(catalog.cost(OWN, NOW + 5_000)) == (1_000_000, 2_000_000), "what the configuration says stays"
        assert usd(catalog.cost(f"{PATTERN}=gpt-4o", NOW + 5_000)) == (2_500_000, 10_000_000), "it is not in the newer list"
        assert catalog.provided(MINI).cost_source.startswith("shipped list (")
    clock.ms += 5_000
    assert one.provided(MINI).cost_source == "updated list (2027-01-15)"
    await one.lists.add(listing(input="1", output="1"), clock.ms + 1, "op", "operator")
    clock.ms += 1
    await one.load_lists()
    assert usd(one.cost(MINI, clock.ms)) == (1_000_000, 1_000_000)
    assert usd(one.cost(MINI, clock.ms - 1)) == (250_000, 1_000_000), "for a request that began before it"
    assert usd(other.cost(MINI, clock.ms)) == (250_000, 1_000_000)


@pytest.mark.parametrize(
    ("content", "at", "expected"),
    [
        (listing(input="1", output="1"), NOW - 60_001, InvalidRequest),
        (listing(input="1", output="1"), NOW + 11 * 366 * 24 * 3_600_000, InvalidRequest),
        (listing(input="1"), NOW, InvalidRequest),
        (b"{}", NOW, InvalidRequest),
        (b"nonsense", NOW, InvalidRequest),
        (listing(input="1", output="1"), NOW + 1, Conflict),
    ],
)
async def test_a_list_that_cannot_stand_is_refused_whole(
    catalog: Catalog, content: bytes, at: int, expected: type[GatewayError]
) -> None:
    await catalog.lists.add(listing(input="7", output="7"), NOW + 1, "op", "operator")
    with pytest.raises(expected):
        await catalog.lists.add(content, at, "op", "operator")
    assert [row.effective_at_ms for row in await catalog.lists.rows()] == [NOW + 1]


async def test_a_price_of_long_prompts_that_cannot_stand_stops_the_start_and_names_the_field(databases: Databases) -> None:
    prices = {"input": "1", "output": "2", "above": 200_000, "long": {"inptu": "2"}}
    with pytest.raises(ValueError, match=r"prices of x/y/0: long\.inptu: `inptu` is no kind of price"):
        Catalog(databases.platform, [PriceOverride("x/y/0", "p", "m", prices=prices)])
