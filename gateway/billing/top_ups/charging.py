"""Automatic top-up at work: rules whose wallet has fallen below its threshold, and purchases that are on their way.

    usage is in the books -> `noticed` -> the rules of those wallets -> below, and the last purchase ended?
      -> a purchase, committed as the rule's last -> Stripe is asked in its name -> paid: granted as any package is
                                                                                  -> refused: the rule is off, for that reason

Nothing of it lies in the way of a request: the drain tells whose usage it has posted, and an app without rules is not asked.
What nobody told, as a process ended at the wrong moment, is found by a walk over all rules a minute later. The balance is the
books': a grant stands there before anything else knows of it, so no payment that was granted is missed, and usage follows in
a moment.

Whenever this process ends, another goes on with the same purchase: it asks Stripe again under the same name, with the very same
parameters, and gets the first answer as long as Stripe remembers it; after that it looks for the payment among Stripe's.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Final

from gateway.billing.acts import system_act, told
from gateway.billing.effects import Effects, NotOurs, Rejected
from gateway.billing.fees import fee_minor
from gateway.billing.model import PLATFORM_ACCOUNT, Purchase, PurchaseState, TopUpRule
from gateway.billing.ports import Metadata, PaymentFacts, Payments, PaymentsDown, PaymentsRefused
from gateway.billing.store import Store
from gateway.billing.top_ups.rules import can_sell, since
from gateway.billing.top_ups.store import Begun, TopUpStore
from gateway.core.clock import Clock, now_ms
from gateway.core.errors import GatewayError
from gateway.core.ids import new_id
from gateway.core.tasks import Tasks
from gateway.db.faults import SqlDown, SqlRefused
from gateway.identity.model import Actor, Role
from gateway.identity.registry import Registry
from gateway.ledger.model import WalletKey
from gateway.ledger.service import Ledger

_log = logging.getLogger(__name__)

_SWEEP_EVERY_S: Final = 60.0
_LOOK_EVERY_S: Final = 0.5
_FOLD_S: Final = 0.1  # what is noticed within it is looked at at once
_AGAIN_S: Final = 5.0  # after Stripe could not be reached
_NOTICED_MAX: Final = 50_000  # beyond it the sweep finds them
_PAGE: Final = 500
_AT_ONCE: Final = 16
_REMEMBERED_MS: Final = 23 * 3_600_000  # Stripe forgets the name of an operation after a day
_LOOK_AROUND_MS: Final = 86_400_000
_FINISH_S: Final = 20.0  # what does not end by then, the next process goes on with
_ACTOR: Final = Actor(role=Role.OPERATOR, name="top-up")
_UNCLEAR: Final = ("idempotency_error", "unexpected_answer")  # what was asked may have happened


class ToppingUp:
    """Acts on rules. Any number of processes may, beside each other."""

    def __init__(
        self,
        payments: Payments,
        store: Store,
        rows: TopUpStore,
        effects: Effects,
        ledger: Ledger,
        registry: Registry,
        enterprise_ids: Callable[[], Awaitable[Sequence[str]]],
        clock: Clock,
    ) -> None:
        self._payments = payments
        self._store = store
        self._rows = rows
        self._effects = effects
        self._ledger = ledger
        self._registry = registry
        self._enterprise_ids = enterprise_ids
        self._clock = clock
        self._tasks = Tasks()
        self._free = asyncio.Semaphore(_AT_ONCE)
        self._news = asyncio.Event()
        self._noticed: set[WalletKey] = set()
        self._sellers: set[str | None] | None = None  # of whose wallets one at least has a rule; None: not known yet
        self._later: set[WalletKey] = set()  # Stripe could not be reached for them
        self._busy: set[WalletKey] = set()
        self._skipped: set[WalletKey] = set()  # noticed while they were busy

    def turned_on(self, wallets: Collection[WalletKey]) -> None:
        """Their rule is new, or another one, in this process or in another. What nobody told is found by the walk."""
        if self._sellers is not None:
            self._sellers.update(wallet.enterprise_id for wallet in wallets)
        self.noticed(wallets)

    def noticed(self, wallets: Collection[WalletKey]) -> None:
        """Something was taken from these wallets."""
        if len(self._noticed) < _NOTICED_MAX:
            self._noticed.update(wallets)
            self._news.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Look at what was noticed, and at everything once a minute, until `stop` is set; what has begun is finished."""
        loop = asyncio.get_running_loop()
        sweep_at = again_at = loop.time()
        sweep: asyncio.Task[None] | None = None
        while not stop.is_set():
            wallets, self._noticed = self._noticed, set()
            self._news.clear()
            if loop.time() >= again_at:
                wallets, self._later = wallets | self._later, set()
                again_at = loop.time() + _AGAIN_S
            self._start(await self._rules_of(wallets))
            if loop.time() >= sweep_at and (sweep is None or sweep.done()):
                sweep_at = loop.time() + _SWEEP_EVERY_S
                sweep = self._tasks.spawn(self._sweep(), "top up what nobody told")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), _LOOK_EVERY_S)
            await asyncio.sleep(_FOLD_S)
        await self._tasks.finish(_FINISH_S)

    async def step(self, wallets: Collection[WalletKey]) -> None:
        """Look at these wallets now, one after the other. Raises what `run` waits out."""
        for rule in await self._rules_of(wallets):
            await self._look(rule)

    async def _sweep(self) -> None:
        try:
            sellers = (None, *await self._enterprise_ids())
        except GatewayError as down:
            _log.warning("automatic top-up waits: %s", down)
            return
        known = set(sellers) if self._sellers is None else self._sellers
        for enterprise_id in sellers:
            try:
                # Also of rules that were turned off since.
                self._start(await self._rows.on_their_way(enterprise_id, _PAGE))
                rules = await self._rows.enabled(enterprise_id, "", _PAGE)
                known.add(enterprise_id) if rules else known.discard(enterprise_id)
                while rules:
                    await asyncio.gather(*self._start(rules))
                    rules = await self._rows.enabled(enterprise_id, rules[-1].wallet.owner, _PAGE)
            except (SqlDown, SqlRefused) as down:
                _log.warning("automatic top-up of %s waits: %s", enterprise_id or "creators", down)
        self._sellers = known

    async def _rules_of(self, wallets: Collection[WalletKey]) -> list[TopUpRule]:
        by_seller: dict[str | None, list[str]] = {}
        for wallet in wallets:
            if self._sellers is None or wallet.enterprise_id in self._sellers:
                by_seller.setdefault(wallet.enterprise_id, []).append(wallet.owner)
        found: list[TopUpRule] = []
        for enterprise_id, owners in by_seller.items():
            for first in range(0, len(owners), _PAGE):
                try:
                    found += await self._rows.enabled_of(enterprise_id, owners[first : first + _PAGE])
                except (SqlDown, SqlRefused) as down:
                    _log.warning("automatic top-up of %s waits: %s", enterprise_id or "creators", down)
        return found

    def _start(self, rules: Sequence[TopUpRule]) -> list[asyncio.Task[None]]:
        started = []
        for rule in rules:
            if rule.wallet in self._busy:
                self._skipped.add(rule.wallet)
                continue
            self._busy.add(rule.wallet)
            started.append(self._tasks.spawn(self._guarded(rule), "top up"))
        return started

    async def _guarded(self, rule: TopUpRule) -> None:
        try:
            async with self._free:
                await self._look(rule)
        except PaymentsDown as down:
            _log.warning("automatic top-up waits for Stripe: %s", down)
            self._later.add(rule.wallet)
        except (SqlDown, SqlRefused, PaymentsRefused, NotOurs, Rejected, GatewayError) as fault:
            _log.error("automatic top-up (purchase %s): %s", rule.last_purchase_id, fault)
        except Exception:  # noqa: BLE001 - edge of the worker: a defect with one wallet must not stop the others
            _log.exception("automatic top-up (purchase %s)", rule.last_purchase_id)
        finally:
            self._busy.discard(rule.wallet)
            if rule.wallet in self._skipped:
                self._skipped.discard(rule.wallet)
                self.noticed([rule.wallet])

    # ---- one wallet ----------------------------------------------------------------------------

    async def _look(self, rule: TopUpRule) -> None:
        wallet = rule.wallet
        last = None
        if rule.last_purchase_id is not None:
            last = await self._store.purchase(wallet.enterprise_id, rule.last_purchase_id)
        if last is not None and last.state == PurchaseState.OPEN:
            await self._go_on(last)
        elif rule.is_enabled and await self._ledger.settled(wallet) < rule.below_micro:
            # In this order: what the last purchase has granted is in the books by the time that it has ended.
            await self._buy(rule)

    async def _buy(self, rule: TopUpRule) -> None:
        wallet = rule.wallet
        if not await can_sell(self._store, self._registry, wallet.enterprise_id):
            return
        plan = await self._store.plan(rule.plan_id)
        app = None if wallet.enterprise_id is None else await self._registry.app(_ACTOR, wallet.enterprise_id)
        if plan is None or plan.archived_at_ms is not None:
            await self._rows.pause(rule, "plan_archived", now_ms(self._clock))
            return
        account_id, fee_bp, at_ms = PLATFORM_ACCOUNT, 0, now_ms(self._clock)
        if app is not None:
            account = await self._store.account(app.user_id)
            assert account is not None, "it can sell"
            account_id, fee_bp = account.account_id, await self._store.fee_bp(app.user_id, app.enterprise_id, at_ms)
        saved = await self._rows.saved(wallet, account_id)
        if saved is None or saved.method_id is None:  # or on an account that the creator has replaced
            await self._rows.pause(rule, "no_payment_method", at_ms)
            return
        purchase = Purchase(
            id=new_id("pur"),
            wallet=wallet,
            plan_id=plan.id,
            account_id=account_id,
            state=PurchaseState.OPEN,
            amount_minor=plan.price_minor,
            currency=plan.currency,
            fee_minor=fee_minor(plan.price_minor, fee_bp),
            grant_micro=plan.grant_micro,
            created_at_ms=at_ms,
            is_automatic=True,
            method_id=saved.method_id,
        )
        if (await self._rows.spent(wallet, plan.currency, since(at_ms))).over(rule, plan.price_minor):
            return  # `begin` looks again, and is what counts
        after: dict[str, object] = {
            "plan_id": plan.id,
            "owner": wallet.owner,
            "amount_minor": plan.price_minor,
            "currency": plan.currency,
        }
        after["fee_minor"] = purchase.fee_minor
        line = system_act("purchase.create", purchase.id, wallet, after=told(after), reason="automatic top-up")
        if await self._rows.begin(rule, purchase, since(at_ms), line) == Begun.YES:
            await self._charge(purchase, saved.customer_id)

    async def _go_on(self, purchase: Purchase) -> None:
        """A purchase that somebody began, and whose end nobody has told."""
        if purchase.payment_id is not None:
            await self._end(purchase, await self._payments.payment(purchase.account_id, purchase.payment_id))
            return
        saved = await self._rows.saved(purchase.wallet, purchase.account_id)
        is_remembered = now_ms(self._clock) - purchase.created_at_ms < _REMEMBERED_MS
        if is_remembered and saved is not None:
            await self._charge(purchase, saved.customer_id)
        elif not await self._found(purchase):
            await self._fail(purchase, PurchaseState.EXPIRED, "never_asked")

    async def _charge(self, purchase: Purchase, customer_id: str) -> None:
        assert purchase.method_id is not None
        wallet = purchase.wallet
        try:
            facts = await self._payments.charge_saved(
                purchase.id,
                purchase.account_id,
                customer_id=customer_id,
                method_id=purchase.method_id,
                amount_minor=purchase.amount_minor,
                currency=purchase.currency,
                fee_minor=purchase.fee_minor,
                metadata=Metadata(wallet.enterprise_id, wallet.owner, purchase.plan_id, purchase.id),
            )
        except PaymentsRefused as refused:
            if refused.code in _UNCLEAR:
                if not await self._found(purchase):
                    raise
                return
            reason = "account_deauthorized" if refused.is_revoked else refused.code or "payment_refused"
            await self._fail(purchase, PurchaseState.FAILED, reason)
            if refused.is_revoked and purchase.account_id != PLATFORM_ACCOUNT:
                await self._effects.account(purchase.account_id)
            return
        await self._end(purchase, facts)

    async def _end(self, purchase: Purchase, facts: PaymentFacts) -> None:
        if facts.status == "succeeded":
            await self._effects.payment(purchase.account_id, facts)
            self.noticed([purchase.wallet])  # it may still be below
        elif facts.status == "processing":
            await self._rows.set_payment(purchase, facts.payment_id)
        else:  # one that wants the buyer's action cannot get it; should it succeed all the same, it is granted as any
            await self._fail(purchase, PurchaseState.FAILED, facts.failure or facts.status)

    async def _found(self, purchase: Purchase) -> bool:
        """Whether Stripe has a payment of this purchase, which is acted upon then."""
        begun = purchase.created_at_ms
        walk = self._payments.payments_between(purchase.account_id, begun - _LOOK_AROUND_MS, begun + 2 * _LOOK_AROUND_MS)
        async for facts in walk:
            if facts.metadata is not None and facts.metadata.purchase_id == purchase.id:
                await self._end(purchase, facts)
                return True
        return False

    async def _fail(self, purchase: Purchase, state: PurchaseState, reason: str) -> None:
        if await self._rows.fail(purchase, state, reason, now_ms(self._clock)):
            _log.info("automatic top-up: purchase %s has failed: %s", purchase.id, reason)
