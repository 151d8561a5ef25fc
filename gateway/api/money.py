"""Handlers: grants, wallets and the books."""

import hashlib

import msgspec

from gateway.api.endpoint import ApiContext, Call
from gateway.api.shapes import (
    AccountAnswer,
    EntryAnswer,
    GrantAnswer,
    GrantBody,
    Listing,
    LotAnswer,
    TransactionAnswer,
    WalletAnswer,
    WalletName,
    ms_of,
)
from gateway.api.wire import listing
from gateway.core.clock import now_ms, rfc3339
from gateway.core.errors import Conflict, Forbidden, InvalidRequest, NotFound
from gateway.core.ids import is_outside_id
from gateway.core.words import CostPolicy, LotSource
from gateway.identity.model import Actor, Role
from gateway.identity.rules import outside_id
from gateway.ledger import queries
from gateway.ledger.model import PLATFORM_ASSET, Account, GrantRequest, Lot, Txn, WalletKey


async def grant(context: ApiContext, call: Call) -> GrantAnswer:
    """POST grants: once per Idempotency-Key, role and book; the same key with another body is a conflict."""
    body: GrantBody = call.body
    wallet, asset = await _granted_wallet(context, call.actor, body.wallet)
    source = LotSource(body.source)
    if source == LotSource.PAID and call.actor.role != Role.OPERATOR:
        raise Forbidden("Only an operator records what was paid.", param="source")
    assert call.idempotency_key is not None
    request = GrantRequest(
        wallet=wallet,
        amount_micro=body.amount_micro,
        asset=asset,
        source=source,
        op_id=f"grant:{call.actor.role}:{call.idempotency_key}",
        actor=call.actor.name,
        reason=body.reason,
        role=call.actor.role,
        priority=body.priority,
        expires_at_ms=None if body.expires_at is None else ms_of(body.expires_at),
        effective_at_ms=None if body.effective_at is None else ms_of(body.effective_at),
    )
    # Of the body alone: a repeat with a fresh management key is still the same request.
    fingerprint = hashlib.sha256(msgspec.json.encode(body)).hexdigest()
    try:
        granted = await context.wallets.grant(request, fingerprint)
    except Conflict as used:
        raise Conflict("This Idempotency-Key was used for another request.", param="Idempotency-Key") from used
    lot = granted.lot
    return GrantAnswer(granted.txn_id, body.wallet, asset, lot.granted_micro, lot.source, _lot(lot))


async def creator_wallet(context: ApiContext, call: Call) -> WalletAnswer:
    """GET wallets/{user_id}."""
    creator = await context.registry.creator(call.actor, call.path["user_id"])
    return await _wallet(context, WalletKey(creator.user_id))


async def end_user_wallet(context: ApiContext, call: Call) -> WalletAnswer:
    """GET apps/{enterprise_id}/wallets/{platform_user_id}; an end user sees its own."""
    app = await context.registry.app(call.actor, call.path["enterprise_id"])
    end_user = call.path["platform_user_id"]
    if not is_outside_id(end_user) or (call.actor.role == Role.END_USER and call.actor.platform_user_id != end_user):
        raise NotFound("There is no such wallet.", param="platform_user_id")
    return await _wallet(context, WalletKey(end_user, app.enterprise_id))


async def transactions(context: ApiContext, call: Call) -> Listing[TransactionAnswer]:
    """GET ledger/transactions, newest first."""
    await _check_book(context, call)
    query = call.query
    found = await queries.transactions(
        context.databases, query.enterprise_id, owner=query.owner, kind=query.kind, limit=query.limit, cursor=query.cursor
    )
    return listing(found.rows, found.next_cursor, _transaction)


async def accounts(context: ApiContext, call: Call) -> Listing[AccountAnswer]:
    """GET ledger/accounts, oldest first."""
    await _check_book(context, call)
    query = call.query
    found = await queries.accounts(
        context.databases, query.enterprise_id, owner=query.owner, kind=query.kind, limit=query.limit, cursor=query.cursor
    )
    return listing(found.rows, found.next_cursor, _account)


async def _granted_wallet(context: ApiContext, actor: Actor, name: WalletName) -> tuple[WalletKey, str]:
    """The wallet that a grant goes into, and its asset."""
    if name.user_id is not None and name.enterprise_id is None and name.platform_user_id is None:
        outside_id(name.user_id, "wallet.user_id")
        if actor.role != Role.OPERATOR:
            raise Forbidden("Only an operator grants into a creator's wallet.", param="wallet.user_id")
        await context.registry.creator(actor, name.user_id)
        return WalletKey(name.user_id), PLATFORM_ASSET
    if name.user_id is not None or name.enterprise_id is None or name.platform_user_id is None:
        raise InvalidRequest("Name the wallet by `user_id`, or by `enterprise_id` and `platform_user_id`.", param="wallet")
    outside_id(name.platform_user_id, "wallet.platform_user_id")
    app = await context.registry.app(actor, outside_id(name.enterprise_id, "wallet.enterprise_id"))
    if actor.role != Role.OPERATOR and app.cost_policy != CostPolicy.CREATOR_PAYS:
        # Otherwise a creator could give away, without end, what the operator pays the providers for.
        raise Forbidden("A creator grants only in apps whose usage it pays for (cost_policy creator_pays).", param="wallet")
    return WalletKey(name.platform_user_id, app.enterprise_id), app.asset


async def _check_book(context: ApiContext, call: Call) -> None:
    """The platform's book is the operator's; an app's also its creator's."""
    if call.query.enterprise_id is not None:
        await context.registry.app(call.actor, call.query.enterprise_id)
    elif call.actor.role != Role.OPERATOR:
        raise InvalidRequest("Name the app whose books you mean.", param="enterprise_id")


async def _wallet(context: ApiContext, key: WalletKey) -> WalletAnswer:
    status = await context.wallets.view(key)
    lots = await queries.lots_shown(context.databases, key, status.asset, now_ms(context.clock))
    left_micro, spendable_micro = sum(lot.left_micro for lot in lots), status.available_micro - status.debt_micro
    return WalletAnswer(
        asset=status.asset,
        available_micro=status.available_micro,
        held_micro=status.held_micro,
        debt_micro=status.debt_micro,
        pending_micro=status.pending_micro,
        left_micro=left_micro,
        owed_micro=status.owed_micro,
        undrained_micro=left_micro - status.owed_micro - status.held_micro - status.pending_micro - spendable_micro,
        lots=tuple(_lot(lot) for lot in lots),
    )


def _lot(lot: Lot) -> LotAnswer:
    return LotAnswer(
        id=lot.id,
        source=lot.source,
        priority=lot.priority,
        granted_micro=lot.granted_micro,
        spent_micro=lot.spent_micro,
        expired_micro=lot.expired_micro,
        refunded_micro=lot.refunded_micro,
        frozen_micro=lot.frozen_micro,
        left_micro=lot.left_micro,
        effective_at=rfc3339(lot.effective_at_ms),
        expires_at=None if lot.expires_at_ms is None else rfc3339(lot.expires_at_ms),
        created_at=rfc3339(lot.created_at_ms),
    )


def _transaction(txn: Txn) -> TransactionAnswer:
    entries = [
        EntryAnswer(entry.account.owner, entry.account.kind, entry.account.asset, entry.amount_micro, entry.lot_id)
        for entry in txn.entries
    ]
    return TransactionAnswer(txn.id, txn.op_id, txn.kind, txn.actor, txn.reason, rfc3339(txn.at_ms), txn.reverses, tuple(entries))


def _account(account: Account) -> AccountAnswer:
    return AccountAnswer(account.owner, account.kind, account.asset, account.balance_micro)
