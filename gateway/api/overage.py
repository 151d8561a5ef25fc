"""Handlers and JSON of overage: what buyers agree to use beyond their allowances, how they stand, and what they are billed."""

from typing import Annotated, Final

import msgspec
from msgspec import UNSET, Meta, UnsetType

from gateway.api.billing_shapes import OverageAnswer, SalesQuery
from gateway.api.endpoint import ANYONE_KNOWN, ApiContext, Call, Endpoint
from gateway.api.shapes import Answer, Body, Listing, Micro, Stamp, WalletName
from gateway.api.wire import listing
from gateway.billing.acts import Named
from gateway.billing.minor_units import micro_from_minor
from gateway.billing.overage.agreeing import Billed, Standing
from gateway.billing.overage.model import BillState
from gateway.core.clock import rfc3339
from gateway.identity.model import Role
from gateway.ledger.model import WalletKey

_STATUS = "`on`, `idle` (agreed to, and nothing can be used now), `paused` or `off`; `reason` says why it is idle or paused"
_REASON = (
    "Why it is idle: `no_subscription`, `plan_without_overage`, `not_paid_for` (the period: a trial, a gift, past due or paid "
    "back), `in_debt` (the wallet) or `limit_reached` (what was used and is not paid takes all of it). Why it is paused: "
    "`payment_refunded` until it is agreed to again, `payment_disputed` or `unpaid` until its seller agrees. Else \"\", also "
    "where something is lent in a moment."
)
_BILLED = "`open`, `paid`, `given` (taken back, paid by credit alone, or less than is charged) or `lost` (nobody pays it)"
_WHY = 'Stripe\'s word or ours for why it is not sent yet, or was given or lost; else ""'


class AgreementBody(Body, frozen=True):
    """Use up to `limit_micro` of the wallet's asset beyond allowances, and pay for it later.

    That much may be used and be unpaid at any time; where the plan's `max_micro` is less, that. An end user's token, and a
    creator for the own wallet, name nobody.
    """

    limit_micro: Micro
    enterprise_id: str | None = None
    platform_user_id: str | None = None
    user_id: str | None = None


class AgreementQuery(Body, frozen=True):
    """Whose agreement; an end user's token, and a creator for the own wallet, name nobody."""

    enterprise_id: str | None = None
    platform_user_id: str | None = None
    user_id: str | None = None


class AgreementAnswer(Answer, frozen=True):
    """What a buyer agreed to and where it stands, in micro-units of the wallet's asset, which is `asset`.

    `most_micro`: what of the limit the plan allows to be unpaid. `lent_micro`: what can be used now, or was used of that, which
    is `used_micro`, by the books: requests of the last moment are not in it yet. `unbilled_micro`: used before, and to be
    billed; `unpaid_micro`: billed, and not paid. `cost_micro`: what used and unbilled cost so far, in micro-units of `currency`,
    as a bill would ask for it now. `plan_id`, its `currency` and its terms (`overage`) are those of the buyer's latest
    subscription; null without one, `overage` also where the plan has none.
    """

    wallet: WalletName
    asset: str
    limit_micro: Micro
    most_micro: Micro
    lent_micro: Micro
    used_micro: Micro
    unbilled_micro: Micro
    unpaid_micro: Micro
    cost_micro: Micro | None
    plan_id: str | None
    currency: str | None
    overage: OverageAnswer | None
    status: Annotated[str, Meta(description=_STATUS)]
    reason: Annotated[str, Meta(description=_REASON)]
    updated_at: Stamp


class OverageBillAnswer(Answer, frozen=True, omit_defaults=True):
    """`used_micro` of the wallet's asset was used beyond an allowance, and `amount_micro` of `currency` is asked for it.

    End users and an app's servers are not shown the platform's share and the payment, by whose id it is refunded: the first,
    where several paid it.
    """

    id: str
    wallet: WalletName
    subscription_id: str
    state: Annotated[BillState, Meta(description=_BILLED)]
    currency: str
    used_micro: Micro
    amount_micro: Micro
    reason: Annotated[str, Meta(description=_WHY)]
    created_at: Stamp
    ended_at: Stamp | None
    fee_micro: Micro | UnsetType = UNSET
    payment_id: str | UnsetType | None = UNSET


async def agree(context: ApiContext, call: Call) -> AgreementAnswer:
    """PUT overage. What is lent follows at once."""
    body: AgreementBody = call.body
    return _standing(await context.sales.overage.agree(call.actor, body.enterprise_id, _buyer(body), body.limit_micro))


async def end(context: ApiContext, call: Call) -> AgreementAnswer:
    """DELETE overage."""
    return _standing(await context.sales.overage.end(call.actor, call.query.enterprise_id, _buyer(call.query)))


async def agreements(context: ApiContext, call: Call) -> Listing[AgreementAnswer]:
    """GET overage, by owner."""
    query: SalesQuery = call.query
    page = await context.sales.overage.listed(call.actor, query.enterprise_id, _buyer(query), query.cursor, query.limit)
    return listing(page.rows, page.next_cursor, _standing)


async def bills(context: ApiContext, call: Call) -> Listing[OverageBillAnswer]:
    """GET overage-bills, newest first."""
    query: SalesQuery = call.query
    page = await context.sales.overage.bills(call.actor, query.enterprise_id, _buyer(query), query.cursor, query.limit)
    whole = call.actor.role in (Role.OPERATOR, Role.CREATOR)
    return listing(page.rows, page.next_cursor, lambda billed: _bill(billed, whole=whole))


def _buyer(given: AgreementBody | AgreementQuery | SalesQuery) -> Named:
    return Named(given.platform_user_id, given.user_id)


def _wallet(key: WalletKey) -> WalletName:
    if key.enterprise_id is None:
        return WalletName(user_id=key.owner)
    return WalletName(enterprise_id=key.enterprise_id, platform_user_id=key.owner)


def _standing(found: Standing) -> AgreementAnswer:
    agreed, plan = found.agreement, found.plan
    terms = None if plan is None else plan.overage
    return AgreementAnswer(
        wallet=_wallet(agreed.wallet),
        asset=found.asset,
        limit_micro=agreed.limit_micro,
        most_micro=found.most_micro,
        lent_micro=found.lent_micro,
        used_micro=found.used_micro,
        unbilled_micro=found.unbilled_micro,
        unpaid_micro=found.unpaid_micro,
        cost_micro=found.cost_micro,
        plan_id=None if plan is None else plan.id,
        currency=None if plan is None else plan.currency,
        overage=None if terms is None else OverageAnswer(**msgspec.structs.asdict(terms)),
        status=found.status,
        reason=found.reason,
        updated_at=rfc3339(agreed.updated_at_ms),
    )


def _bill(billed: Billed, *, whole: bool) -> OverageBillAnswer:
    bill = billed.bill
    answer = OverageBillAnswer(
        id=bill.id,
        wallet=_wallet(bill.wallet),
        subscription_id=billed.subscription_id,
        state=BillState(bill.state),
        currency=bill.currency,
        used_micro=bill.used_micro,
        amount_micro=micro_from_minor(bill.amount_minor, bill.currency),
        reason=bill.reason,
        created_at=rfc3339(bill.created_at_ms),
        ended_at=None if bill.ended_at_ms is None else rfc3339(bill.ended_at_ms),
    )
    if not whole:
        return answer
    fee_micro = micro_from_minor(bill.fee_minor, bill.currency)
    return msgspec.structs.replace(answer, fee_micro=fee_micro, payment_id=bill.payment_id)


_V1: Final = "/api/v1"
_ON, _OFF = "Agree to use beyond allowances and pay later", "Use no more beyond allowances"
_LIST, _BILLS = "List agreements to overage, by owner", "List bills of overage, newest first"
_STANDINGS, _OF_BILLS = Listing[AgreementAnswer], Listing[OverageBillAnswer]
ROWS: Final = (  # of `table`
    Endpoint("PUT", f"{_V1}/overage", ANYONE_KNOWN, agree, AgreementAnswer, _ON, AgreementBody, sells=True),
    Endpoint("GET", f"{_V1}/overage", ANYONE_KNOWN, agreements, _STANDINGS, _LIST, query=SalesQuery, sells=True),
    Endpoint("DELETE", f"{_V1}/overage", ANYONE_KNOWN, end, AgreementAnswer, _OFF, query=AgreementQuery, sells=True),
    Endpoint("GET", f"{_V1}/overage-bills", ANYONE_KNOWN, bills, _OF_BILLS, _BILLS, query=SalesQuery, sells=True),
)
