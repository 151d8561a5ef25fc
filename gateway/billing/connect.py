"""Creators' accounts at Stripe: made, led through Stripe's questions, and ready to sell or not.

What Stripe says of an account comes with webhooks; here it is asked as well, whenever the account's state is looked at or stands
in the way of a sale, so that no sale waits for a webhook.
"""

import re
from typing import Final

from gateway.billing.acts import act, op_of, url
from gateway.billing.model import PLATFORM_ACCOUNT, Account, AccountState
from gateway.billing.ports import AccountFacts, Payments, PaymentsRefused
from gateway.billing.store import Store
from gateway.core.clock import Clock, now_ms
from gateway.core.errors import Conflict, InvalidRequest, NotFound
from gateway.identity.model import Actor, App, Role
from gateway.identity.registry import Registry
from gateway.trail.model import Act

_EMAIL_CHARS_MAX: Final = 254
_COUNTRY: Final = re.compile(r"[A-Z]{2}")


def state_after(state: str, facts: AccountFacts | None) -> AccountState:
    """What an account's state becomes by what Stripe says of it; None: that it does not let us in."""
    if facts is None:
        return AccountState.DEAUTHORIZED
    if facts.can_charge:
        return AccountState.ACTIVE
    was_active = state in (AccountState.ACTIVE, AccountState.RESTRICTED)
    return AccountState.RESTRICTED if was_active else AccountState.ONBOARDING


def email(value: str | None) -> str:
    """An address for Stripe's mails, or none; Stripe decides whether it is one."""
    text = (value or "").strip()
    if text and ("@" not in text or len(text) > _EMAIL_CHARS_MAX or not text.isprintable() or " " in text):
        raise InvalidRequest("`email` must be an address", param="email")
    return text


def _no_account(**whose: str) -> dict[str, str]:
    return {"account_state": "none", **whose}


class Connect:
    """The accounts. Raises PaymentsDown and PaymentsRefused besides what each method says."""

    def __init__(self, store: Store, registry: Registry, payments: Payments, clock: Clock) -> None:
        self._store = store
        self._registry = registry
        self._payments = payments
        self._clock = clock

    async def create(self, actor: Actor, user_id: str, given_email: str, country: str | None) -> Account:
        """A creator's account; the one that it has, unless its owner took our access to it away. InvalidRequest, NotFound.

        Conflict where the one that it has is of another address or country.
        """
        creator = await self._registry.creator(actor, user_id)
        address = email(given_email)
        if not address:
            raise InvalidRequest("`email` must be an address", param="email")
        if country is not None and not _COUNTRY.fullmatch(country):
            raise InvalidRequest("`country` must be a country's two capital letters", param="country")
        held = await self._store.account(user_id)
        if held is not None and held.state != AccountState.DEAUTHORIZED:
            await self._check_same(held, address, country)
            return held
        at_ms = now_ms(self._clock)
        op_id = op_of("account", user_id, held.account_id if held else "", creator.name, address, country or "")
        facts = await self._payments.create_account(op_id, user_id, creator.name, address, country or "")
        state = state_after(AccountState.ONBOARDING, facts)
        account = Account(user_id, facts.account_id, state, facts.wanted, at_ms, at_ms)
        made = act(actor, "billing_account.create", facts.account_id, None, user_id=user_id, after={"state": state.value})
        await self._store.put_account(account, made)
        return account

    async def _check_same(self, held: Account, address: str, country: str | None) -> None:
        """Nobody is to believe that an account was made, or changed, as it was asked for. Conflict."""
        try:
            facts = await self._payments.account(held.account_id)
        except PaymentsRefused as refused:
            if not refused.is_revoked:
                raise
            return
        for name, said, there in (("email", address, facts.email), ("country", country, facts.country)):
            if said and there and said.casefold() != there.casefold():
                raise Conflict(
                    f"This creator has an account already, {held.account_id}, and its {name} is {there}: nothing was changed. "
                    "Its owner changes it at Stripe.",
                    param=name,
                )

    async def status(self, actor: Actor, user_id: str) -> Account:
        """A creator's account, as Stripe has it now. NotFound."""
        await self._registry.creator(actor, user_id)
        held = await self._store.account(user_id)
        if held is None:
            raise NotFound("This creator has no account to sell with.", param="user_id", details=_no_account(user_id=user_id))
        return await self._refreshed(held, actor.role, actor.name)

    async def onboarding_link(self, actor: Actor, user_id: str, return_url: str, refresh_url: str | None) -> str:
        """Where the creator answers Stripe's questions. NotFound; Conflict when our access was taken away."""
        back = url(return_url, "return_url")
        again = back if refresh_url is None else url(refresh_url, "refresh_url")
        account = await self.status(actor, user_id)
        if account.state == AccountState.DEAUTHORIZED:
            raise Conflict("The account's owner has disconnected it: make another.", code="account_deauthorized")
        return await self._payments.onboarding_link(account.account_id, back, again)

    async def selling_account(self, seller: App | None) -> str:
        """The account that takes a seller's charges. Conflict `selling_blocked` while it cannot."""
        if seller is None:
            return PLATFORM_ACCOUNT
        held = await self._store.account(seller.user_id)
        if held is None:
            details = _no_account(enterprise_id=seller.enterprise_id)
            raise Conflict("The app's creator has no account to sell with.", code="selling_blocked", details=details)
        if held.state != AccountState.ACTIVE:
            held = await self._refreshed(held, Role.OPERATOR, "stripe")
        if held.state != AccountState.ACTIVE:
            wanted = f"; Stripe wants: {', '.join(held.wanted)}" if held.wanted else ""
            found = {"account_state": held.state, "enterprise_id": seller.enterprise_id, "wanted": list(held.wanted)}
            raise Conflict(f"The creator's account cannot take charges now{wanted}.", code="selling_blocked", details=found)
        return held.account_id

    async def look_again(self, seller: App | None) -> None:
        """Stripe refused to sell: perhaps of a change of the account that we were not told of."""
        held = None if seller is None else await self._store.account(seller.user_id)
        if held is not None:
            await self._refreshed(held, Role.OPERATOR, "stripe")

    async def existing_account(self, seller: App | None) -> str:
        """The account of what was sold, whether or not it can take charges now. NotFound."""
        if seller is None:
            return PLATFORM_ACCOUNT
        held = await self._store.account(seller.user_id)
        if held is None:
            details = _no_account(enterprise_id=seller.enterprise_id)
            raise NotFound("The app's creator has no account to sell with.", details=details)
        return held.account_id

    async def _refreshed(self, held: Account, role: str, name: str) -> Account:
        facts: AccountFacts | None = None
        try:
            facts = await self._payments.account(held.account_id)
        except PaymentsRefused as refused:
            if not refused.is_revoked:
                raise
        state, wanted = state_after(held.state, facts), facts.wanted if facts else ()
        if (state, wanted) == (held.state, held.wanted):
            return held
        at_ms = now_ms(self._clock)
        line = Act("billing_account.update", role, name, held.account_id, user_id=held.user_id)
        await self._store.set_account(held.account_id, state, wanted, at_ms, line)
        return Account(held.user_id, held.account_id, state, wanted, held.created_at_ms, at_ms)
