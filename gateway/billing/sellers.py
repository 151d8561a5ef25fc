"""Whose an object at Stripe is: what its metadata says, believed only where the account that it lies in bears it out."""

from gateway.billing.minor_units import micro_from_minor
from gateway.billing.model import PLATFORM_ACCOUNT
from gateway.billing.ports import Metadata, PaymentFacts, Payments
from gateway.billing.store import Store
from gateway.core.errors import InvalidRequest
from gateway.ledger.model import Paid, WalletKey
from gateway.ledger.service import Ledger


class NotOurs(Exception):
    """It concerns us not; the text says why."""


class Withheld(NotOurs):
    """It is of a plan of ours, and rightly gets nothing; the text says why. An operator is shown it."""


class Rejected(Exception):
    """It would concern us, and is wrong in a way that stays; the text says how."""


class Sellers:
    """Finds wallets. Raises NotOurs, Rejected, SqlDown."""

    def __init__(self, payments: Payments, store: Store, ledger: Ledger) -> None:
        self._payments = payments
        self._store = store
        self._ledger = ledger

    async def wallet_of(self, account_id: str, metadata: Metadata | None) -> WalletKey:
        """The wallet of an object's buyer.

        A creator writes on the own account whatever it likes; so an app must be that creator's, and level 1 is sold on the
        platform's own account alone.
        """
        if metadata is None:
            raise NotOurs("it does not carry our metadata")
        wallet = WalletKey(metadata.owner, metadata.enterprise_id)
        if not wallet.is_valid:
            raise Rejected("its metadata names nobody that could be")
        if account_id == PLATFORM_ACCOUNT:
            if metadata.enterprise_id is not None:
                raise Rejected(f"a sale of app {metadata.enterprise_id} on the platform's own account")
            return wallet
        account = await self._store.account_by_id(account_id)
        if account is None:
            raise Rejected(f"no creator has the account {account_id}")
        if metadata.enterprise_id is None:
            raise Rejected(f"a sale of the platform's on the account of creator {account.user_id}")
        app = (await self._ledger.apps([metadata.enterprise_id])).get(metadata.enterprise_id)
        if app is None:
            raise Rejected(f"there is no app {metadata.enterprise_id}")
        if app.user_id != account.user_id:
            raise Rejected(f"app {metadata.enterprise_id} is not of creator {account.user_id}, whose account it is")
        return wallet

    async def bind(self, account_id: str, payment_id: str, wallet: WalletKey, at_ms: int) -> None:
        """A payment is of this wallet's seller for ever. Rejected where it is another's."""
        seller = await self._store.bind_payment(account_id, payment_id, wallet.enterprise_id, at_ms)
        if seller != wallet.enterprise_id:
            raise Rejected(f"it was granted in {f'app {seller}' if seller else 'a sale of the platform'} already")

    async def payer_of(self, account_id: str, payment: PaymentFacts) -> WalletKey:
        """The wallet that a payment was granted to, as the books say; of one that they do not have, as it says itself.

        What is written on a payment can be changed by the account's owner, and who has been granted it cannot.
        """
        seller = await self._store.seller_of(account_id, payment.payment_id)
        if seller is not None:
            owner = await self._ledger.payments.payer(seller or None, payment.payment_id)
            if owner is not None:
                return WalletKey(owner, seller or None)
        metadata = payment.metadata
        if metadata is None and payment.invoice_id is not None:
            metadata = (await self._payments.invoice(account_id, payment.invoice_id)).metadata
        return await self.wallet_of(account_id, metadata)

    async def is_platforms_cost(self, wallet: WalletKey) -> bool:
        """Whether what is bought for a wallet of an app is spent at providers whom the platform pays."""
        if wallet.enterprise_id is None:
            return False
        return (await self._ledger.apps([wallet.enterprise_id]))[wallet.enterprise_id].is_platforms_cost

    async def asset_of(self, wallet: WalletKey) -> str:
        """The asset that a wallet holds. NotFound for nobody's."""
        return (await self._ledger.owner_of(wallet)).asset


def micro(amount_minor: int, currency: str) -> int:
    """Micro-units of what Stripe says; InvalidRequest for a currency that is none."""
    try:
        return micro_from_minor(amount_minor, currency)
    except ValueError as odd:
        raise InvalidRequest(str(odd), param="currency") from odd


def paid_for(amount_minor: int, currency: str, asset: str, granted_micro: int, given_micro: int = 0) -> Paid | None:
    """What was paid, where it is not what is granted, or some of that was given."""
    paid = Paid(currency, micro(amount_minor, currency))
    return None if paid == Paid(asset, granted_micro) and not given_micro else paid
