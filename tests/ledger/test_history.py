"""Random histories in SQL against a model that fits on a page. SEED repeats one, STEPS makes it longer."""

import os
import random
from dataclasses import dataclass, field

import pytest

from gateway.db.engines import Databases
from gateway.ledger.audit import audit
from gateway.ledger.model import UsagePosting, WalletKey
from gateway.ledger.service import Ledger
from tests.ledger.conftest import APPS, Clock
from tests.ledger.values import grant_request, posting

WALLETS = [WalletKey(user, app) for app in APPS for user in ("ann", "bob", "carol")] + [WalletKey("carol"), WalletKey("dave")]


@dataclass
class Purse:
    """A wallet in the model: lots as [burn key, left, effective_at], the debt, and what the hot store would have."""

    lots: list[list[object]] = field(default_factory=list)
    debt: int = 0
    hot: int = 0

    def spend(self, amount: int, now: int) -> None:
        self.hot -= amount
        for lot in sorted(self.lots, key=lambda lot: lot[0]):  # type: ignore[arg-type,return-value]
            if lot[2] <= now:  # type: ignore[operator]
                part = min(amount, lot[1])  # type: ignore[call-overload]
                lot[1] -= part
                amount -= part
        self.debt += amount

    @property
    def left(self) -> int:
        return sum(lot[1] for lot in self.lots)  # type: ignore[misc]


class History:
    def __init__(self, ledger: Ledger, clock: Clock, seed: int) -> None:
        self.ledger, self.clock, self.pick = ledger, clock, random.Random(seed)
        self.purses = {wallet: Purse() for wallet in WALLETS}
        self.requests = 0
        self.grants = 0
        self.past: list[UsagePosting] = []
        self.granted: list[tuple[WalletKey, object]] = []
        self.in_app: set[str] = set()
        self.in_platform: set[str] = set()

    async def step(self) -> None:
        self.clock.ms += self.pick.randrange(50)
        await self.pick.choices([self.grant, self.grant_again, self.use, self.apply], [4, 1, 8, 3])[0]()

    async def grant(self) -> None:
        wallet, now = self.pick.choice(WALLETS), self.clock.ms
        self.grants += 1
        starts = now + self.pick.randrange(1, 300) if self.pick.random() < 0.1 else None
        ends = (starts or now) + self.pick.randrange(1, 5000) if self.pick.random() < 0.5 else None
        request = grant_request(
            f"grant-{self.grants}",
            self.pick.randrange(1, 500),
            wallet,
            source=self.pick.choice(["paid", "promo", "trial", "rollover"]),
            priority=self.pick.randrange(3),
            effective_at_ms=starts,
            expires_at_ms=ends,
        )
        done = await self.ledger.grant(request)
        self.granted.append((wallet, request))
        purse, amount = self.purses[wallet], request.amount_micro
        if starts is None:
            repaid = min(purse.debt, amount)
            purse.debt -= repaid
            amount -= repaid
        key = (request.priority, ends or 2**63, request.source == "paid", now, done.lot.id)
        purse.lots.append([key, amount, starts or now])
        await self.check(wallet)

    async def grant_again(self) -> None:
        if self.granted:
            wallet, request = self.pick.choice(self.granted)
            assert not (await self.ledger.grant(request)).first  # type: ignore[arg-type]
            await self.check(wallet)

    async def use(self) -> None:
        """A batch as the drain makes one: new requests, doubles, old ones; into one book or both."""
        app = self.pick.choice(list(APPS))
        batch = [self.request(app) for _ in range(self.pick.randrange(1, 8))]
        batch += self.pick.choices(batch, k=self.pick.randrange(3))
        batch += [old for old in self.pick.choices(self.past, k=2) if old.enterprise_id == app] if self.past else []
        self.past += batch
        await self.ledger.post_app_usage(app, batch)
        for one in batch:
            if one.row.request_id not in self.in_app:
                self.in_app.add(one.row.request_id)
                if one.end_user_micro:
                    self.purses[WalletKey(one.row.platform_user_id, app)].spend(one.end_user_micro, self.clock.ms)
        if self.pick.random() < 0.7:
            await self.to_platform(batch)
        for user in sorted({one.row.platform_user_id for one in batch if one.end_user_micro}):
            await self.check(WalletKey(user, app), opening=self.pick.random() < 0.2)

    async def to_platform(self, batch: list[UsagePosting]) -> None:
        await self.ledger.post_platform_usage(batch)
        for one in batch:
            if one.row.request_id not in self.in_platform:
                self.in_platform.add(one.row.request_id)
                if one.row.creator_micro:
                    self.purses[WalletKey(one.row.user_id)].spend(one.row.creator_micro, self.clock.ms)
        await self.check(WalletKey(batch[0].row.user_id), opening=self.pick.random() < 0.2)

    def request(self, app: str) -> UsagePosting:
        self.requests += 1
        amount, creator = self.pick.choice([0, 1, 40, 150]), self.pick.choice([0, 1, 30])
        user, level = self.pick.choice(["ann", "bob", "carol"]), self.pick.choice(["app_usage", "app_usage", "platform"])
        if level == "platform":
            amount = creator
        return posting(
            f"req_{self.requests}",
            app,
            user,
            level=level,
            amount_micro=amount,
            creator_micro=creator,
            provider_cost_micro=self.pick.choice([0, 7]),
            bears_cost=self.pick.random() < 0.8,
        )

    async def apply(self) -> None:
        book = self.pick.choice([None, *APPS])
        for credit in await self.ledger.waiting_credits(book, limit=self.pick.choice([1, 3, 500])):
            owner = credit.wallet.split("/")[-1]
            self.purses[WalletKey(owner, book)].hot += credit.delta_micro
            await self.ledger.mark_applied(book, [credit.txn_id])
            await self.check(WalletKey(owner, book))

    async def check(self, wallet: WalletKey, opening: bool = True) -> None:
        """The books say what the model says; the hot store would open with what it has."""
        view, purse = await self.ledger.wallet(wallet), self.purses[wallet]
        assert (view.available_micro, view.debt_micro) == (purse.left, purse.debt)
        assert [(lot.id, lot.left_micro) for lot in view.lots] == [
            (lot[0][-1], lot[1]) for lot in sorted(purse.lots, key=lambda lot: lot[0]) if lot[1]  # type: ignore[index,arg-type,return-value]
        ]  # fmt: skip
        if opening:
            assert (await self.ledger.opening(wallet)).amount_micro == purse.hot


@pytest.mark.parametrize(("urls", "steps"), [("sqlite", 120), ("postgres", 40)], indirect=["urls"])
async def test_any_history_of_grants_overruns_doubles_and_replays_leaves_the_books_right(
    ledger: Ledger, databases: Databases, clock: Clock, steps: int
) -> None:
    seed, steps = int(os.environ.get("SEED", random.randrange(2**32))), int(os.environ.get("STEPS", steps))
    print("seed", seed)
    history = History(ledger, clock, seed)
    for _ in range(steps):
        await history.step()
    for app in APPS:  # the drain catches up
        for at in range(0, len(history.past), 500):
            await history.to_platform(
                [one for one in history.past[at : at + 500] if one.enterprise_id == app] or history.past[:1]
            )
    report = await audit(databases, list(APPS), None)
    assert report.ok, [check.violations for check in report.checks]
    looked = {check.name.split()[0] for check in report.checks if check.counted}
    assert looked >= {"1", "2", "3", "4", "5", "6", "8", "11", "14", "15"}
    for wallet in WALLETS:
        await history.check(wallet)
