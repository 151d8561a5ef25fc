"""The closed sets of words that rows, events and requests use."""

from enum import StrEnum


class Level(StrEnum):
    """Who pays: the creator's wallet (building an app) or the end user's (using it)."""

    PLATFORM = "platform"
    APP_USAGE = "app_usage"


class Enforcement(StrEnum):
    """Whether an app's requests need a balance, or are measured only."""

    PREPAID = "prepaid"
    ANALYTICS_ONLY = "analytics_only"


class CostPolicy(StrEnum):
    """Who bears the provider's cost of level 2 usage."""

    PLATFORM_PAYS = "platform_pays"
    CREATOR_PAYS = "creator_pays"
    OWN_KEYS = "own_keys"


class HoldPolicy(StrEnum):
    """What happens when the wallet does not cover the output cap that the client asked for."""

    STRICT = "strict"
    CLAMP = "clamp"


class DisconnectPolicy(StrEnum):
    """What becomes of a stream whose client left: read on (to a limit) and billed whole, or cancelled and billed so far."""

    DRAIN = "drain"
    CANCEL = "cancel"


class UsageSource(StrEnum):
    """Where the token counts of a usage record come from."""

    UPSTREAM = "upstream"
    COUNTED = "counted"
    NONE = "none"


class RequestStatus(StrEnum):
    """How a metered request ended."""

    SERVED = "served"
    CLIENT_LEFT = "client_left"
    UPSTREAM_BROKE = "upstream_broke"
    ABANDONED = "abandoned"


class LotSource(StrEnum):
    """Where a grant into a wallet comes from."""

    PAID = "paid"
    PROMO = "promo"
    TRIAL = "trial"
    ROLLOVER = "rollover"
    OVERAGE = "overage"  # lent beyond an allowance: what is used of it is billed
