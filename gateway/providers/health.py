"""Which deployments are left alone for a while, because they failed: what one process has seen, no state that matters.

Here is counted, too, how those that did not serve did not: failures are seldom, so counting them costs nobody anything.

A deployment that fails `FAILURES` times with no answer in between rests for `REST_S`; one that says how long to wait, or
refuses our credentials, rests at once. When the rest is over one request is let through to see (half-open); its failure
doubles the rest, its success ends it. An answer that has begun is a success, except for those that broke answers off: of them
only a whole one is. Only a request that is really sent there counts as that one: who chose it and was then
refused, for want of money say, keeps the others from it for a moment and no longer.
"""

from collections.abc import Callable
from time import monotonic
from typing import Final

FAILURES: Final = 3
REST_S: Final = 5.0
REST_S_MAX: Final = 300.0
TROUBLED_MAX: Final = 10_000  # a pattern's deployment has as many ids as clients make up names of models
_PROBE_S: Final = 60.0  # a probe that never came back keeps the next one waiting no longer
_CHOSEN_S: Final = 0.5  # between the choice of a deployment and its being asked lies the hold


class _Trouble:
    """One deployment's failures since its last answer."""

    __slots__ = ("breaks_off", "failures", "probing_until", "rest_s", "until")

    def __init__(self) -> None:
        self.breaks_off = False
        self.failures = 0
        self.rest_s = 0.0
        self.until = 0.0
        self.probing_until = 0.0


class Health:
    """By deployment id. `troubled` is empty while everybody serves, so that asking costs nothing then."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self.troubled: dict[str, _Trouble] = {}
        self.counts: dict[tuple[str, str], int] = {}  # of each deployment: see `count`

    def failed(self, deployment_id: str, rest_s: float | None = None, *, began: bool = False) -> None:
        """It failed; `rest_s` is given when it must rest at once, for at least so long. `began`: it broke its answer off."""
        self.count(deployment_id, "failed")
        if len(self.troubled) >= TROUBLED_MAX and deployment_id not in self.troubled:
            del self.troubled[next(iter(self.troubled))]
        trouble = self.troubled.setdefault(deployment_id, _Trouble())
        trouble.failures += 1
        trouble.breaks_off = trouble.breaks_off or began
        trouble.probing_until = 0.0
        if rest_s is None and trouble.failures < FAILURES:
            return
        trouble.rest_s = min(REST_S_MAX, max(rest_s or 0.0, 2 * trouble.rest_s, REST_S))
        trouble.until = self._clock() + trouble.rest_s
        self.count(deployment_id, "rests")

    def count(self, deployment_id: str, what: str) -> None:
        """One more of: `failed`, `refused` (what the caller must mend), `full`, `too_long`, `rests`, `recoveries`."""
        name = deployment_id, what
        if name not in self.counts and len(self.counts) >= TROUBLED_MAX:
            name = "other", what
        self.counts[name] = self.counts.get(name, 0) + 1

    def served(self, deployment_id: str, *, whole: bool = False) -> None:
        """It answers, or has given a `whole` answer."""
        trouble = self.troubled.get(deployment_id)
        if trouble is None or (trouble.breaks_off and not whole):
            return
        del self.troubled[deployment_id]
        if trouble.until:
            self.count(deployment_id, "recoveries")

    def forget(self, deployment_id: str) -> None:
        """It is another one now, under the same name."""
        self.troubled.pop(deployment_id, None)

    def may_try(self, deployment_id: str) -> bool:
        """Whether a request may go there now; at the end of a rest one at a time."""
        trouble = self.troubled.get(deployment_id)
        if trouble is None or not trouble.until:
            return True
        now = self._clock()
        return now >= trouble.until and now >= trouble.probing_until

    def chosen(self, deployment_id: str) -> None:
        """A request is about to be sent there, if it is not refused before."""
        self._probed(deployment_id, _CHOSEN_S)

    def asked(self, deployment_id: str) -> None:
        """A request is sent there: should it rest, this is the one that sees whether it serves again."""
        self._probed(deployment_id, _PROBE_S)

    def said_nothing(self, deployment_id: str) -> None:
        """It was asked, and its answer says neither that it serves nor that it fails: somebody else may see."""
        self.count(deployment_id, "refused")
        trouble = self.troubled.get(deployment_id)
        if trouble is not None:
            trouble.probing_until = 0.0

    def _probed(self, deployment_id: str, for_s: float) -> None:
        trouble = self.troubled.get(deployment_id)
        if trouble is not None and trouble.until:
            trouble.probing_until = max(trouble.probing_until, self._clock() + for_s)

    def resting(self) -> dict[str, float]:
        """The deployments that are left alone or on probation, and for how many seconds more (0: it may be tried)."""
        now = self._clock()
        return {name: max(0.0, trouble.until - now) for name, trouble in self.troubled.items() if trouble.until}
