"""`gateway reconcile` as an operator runs it: what it tells, what it repairs, and its exit status."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.balance.embedded_redis import _socket_path
from gateway.balance.redis_balance import RedisBalance
from gateway.core.ids import app_wallet, shard_of
from tests.path.conftest import Stack, free_port, start_gateway

FUNDS = 1_000_000


@pytest.fixture
def own(tmp_path: Path, upstream_url: str) -> Iterator[Stack]:
    stack = start_gateway(tmp_path, upstream_url)
    try:
        yield stack
    finally:
        stack.admin.close()
        stack.process.stop()


def hot(stack: Stack, *words: str | int) -> None:
    """One command, past the gateway."""

    async def call() -> None:
        balance = RedisBalance(f"unix://{_socket_path((stack.data_dir / 'redis').resolve())}")
        await balance.link.call(*words)
        await balance.close()

    asyncio.run(call())


def test_it_tells_a_difference_leaves_it_alone_and_repairs_it_when_told_to(own: Stack) -> None:
    app = own.app()
    user_id = own.get(f"/apps/{app}")["user_id"]
    for end_user in ("ann", "bob", "carl"):
        own.fund(app, end_user, FUNDS)
    assert json.loads(own.cli("reconcile", "--json")) == {"ok": True, "differences": []}

    shard = shard_of(user_id)
    keys = {end_user: f"mzk:{{s{shard:03d}}}:w:{app_wallet(app, end_user)}" for end_user in ("ann", "bob")}
    hot(own, "HINCRBY", keys["ann"], "a", -70)
    hot(own, "DEL", keys["bob"])
    ann, bob = [
        {
            "wallet": app_wallet(app, end_user),
            "shard": shard,
            "hot_micro": has,
            "books_micro": FUNDS,
            "asset": "USD",
            "repaired_micro": None,
        }
        for end_user, has in (("ann", FUNDS - 70), ("bob", None))
    ]
    told = json.loads(own.cli("reconcile", "--json", status=1))
    assert told["ok"] is False
    assert sorted(told["differences"], key=lambda one: str(one["wallet"])) == [ann, bob]
    assert own.wallet(app, "ann")["available_micro"] == FUNDS - 70, "nothing is repaired unasked"

    whose = [f"The hot balance of end user {end_user} of app {app} is" for end_user in ("ann", "bob")]
    left = own.cli("reconcile", status=1).splitlines()
    assert left[-1] == "`gateway reconcile --fix` puts them right."
    assert f"{whose[0]} 0.99993 USD, the books say 1 USD: 0.00007 USD too little; left as it is." in left
    assert sorted(own.cli("reconcile", "--fix").splitlines()) == [
        f"{whose[0]} 0.99993 USD, the books say 1 USD: 0.00007 USD too little; repaired, 0.00007 USD added.",
        f"{whose[1]} lost; the books say 1 USD: made again from the books.",
    ]
    assert own.cli("reconcile", "--fix") == "The hot balances are those of the books.\n"
    assert [own.wallet(app, end_user)["available_micro"] for end_user in ("ann", "bob", "carl")] == [FUNDS] * 3
    lines_of_trail = json.loads(own.cli("trail", "show", "--app", app, "--json"))["data"]
    [repair] = [line for line in lines_of_trail if line["act"] == "wallet.reconcile"]
    assert (repair["actor"], repair["subject"]) == ("gateway reconcile", ann["wallet"])
    assert "VIOLATED" not in own.cli("audit")


def test_what_could_not_be_looked_at_is_neither_clean_nor_a_difference(own: Stack, tmp_path: Path) -> None:
    own.fund(own.app(), "ann", FUNDS)
    nowhere = {"MOZAIKS_DATABASE_URL": f"postgresql+asyncpg://nobody@/none?host={tmp_path}"}
    nowhere["MOZAIKS_APP_DATABASE_URL"] = f"postgresql+asyncpg://nobody@/none_{{enterprise_id}}?host={tmp_path}"
    whole = own.env
    cut_off = {"MOZAIKS_REDIS_URL": f"redis://127.0.0.1:{free_port()}"}
    for wrong, more in ((nowhere, "--json"), (cut_off, "--fix"), ({"MOZAIKS_PORT": "http"}, "--json")):
        own.env = {**whole, **wrong}
        assert own.cli("reconcile", more, status=2) == ""
