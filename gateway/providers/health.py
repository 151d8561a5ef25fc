"""Which deployments are left alone for a while, because they failed: what one process has seen, no state that matters.

Here is counted, too, how those that did not serve did not: failures are seldom, so counting them costs nobody anything.

A deployment that fails `FAILURES` times with no answer in between rests for `REST_S`; one that refuses our credentials rests
at once, one that says how long to wait for as long as it says. What one creator's requests may have provoked (a slow answer,
a refusal) rests it for that creator alone; for all of them when another one's have seen it, too. When the rest is over one
request is let through to see (half-open); its failure doubles the rest, its success ends it. An answer that has begun is a
success, except for those that broke answers off: of them only a whole one is. Only a request that is really sent there counts
as that one: who chose it and was then refused, for want of money say, keeps the others from it for a moment and no longer.
"""

from collections.abc import Callable
from time import monotonic
from typing import Final

FAILURES: Final = 3
REST_S: Final = 5.0
REST_S_MAX: Final = 300.0
TOLD_S_MAX: Final = 60.0  # of a rest that a provider asked for: one request sees then
OWN_RESTS_MAX: Final = 100  # creators for whom alone one deployment rests
TROUBLED_MAX: Final = 10_000  # a pattern's deployment has as many ids as clients make up names of models
_PROBE_S: Final = 60.0  # a probe that never came back keeps the next one waiting no longer
_CHOSEN_S: Final = 0.5  # between the choice of a deployment and its being asked lies the hold


class _Rest:
    """Failures since the last answer, and the rest that they made."""

    __slots__ = ("failures", "probing_until", "rest_s", "until")

    def __init__(self) -> None:
        self.failures = 0
        self.rest_s = 0.0
        self.until = 0.0
        self.probing_until = 0.0

    def begin(self, now: float, least_s: float = 0.0) -> None:
        self.rest_s = min(REST_S_MAX, max(least_s, 2 * self.rest_s, REST_S))
        self.until = now + self.rest_s

    def may_try(self, now: float) -> bool:
        return not self.until or (now >= self.until and now >= self.probing_until)

    def probed(self, until: float) -> None:
        if self.until:
            self.probing_until = max(self.probing_until, until)


class _Trouble(_Rest):
    """One deployment's: for all, and for single creators."""

    __slots__ = ("breaks_off", "own", "seen_by")

    def __init__(self) -> None:
        super().__init__()
        self.breaks_off = False
        self.seen_by: set[str] = set()  # creators, "" for what is certain; two are enough
        self.own: dict[str, _Rest] = {}

    def rests(self) -> list[_Rest]:
        return [each for each in (self, *self.own.values()) if each.until]


class Health:
    """By deployment id. `troubled` is empty while everybody serves, so that asking costs nothing then."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self.troubled: dict[str, _Trouble] = {}
        self.counts: dict[tuple[str, str], int] = {}  # of each deployment: see `count`

    def failed(self, deployment_id: str, rest_s: float | None = None, *, told_s: float | None = None) -> None:
        """It failed as it would for anybody. `rest_s` is given when it must rest at once, for at least so long; `told_s` when it
        asked to be left alone for that time.
        """
        trouble = self._counted(deployment_id, "")
        if told_s is not None:
            until = self._clock() + min(told_s, TOLD_S_MAX)
            trouble.rest_s = trouble.rest_s or min(told_s, REST_S)
            if until > trouble.until:
                trouble.until = until
                self.count(deployment_id, "rests")
        elif rest_s is not None or trouble.failures >= FAILURES:
            trouble.begin(self._clock(), rest_s or 0.0)
            self.count(deployment_id, "rests")

    def suspected(
        self, deployment_id: str, by: str, rest_s: float = 0.0, *, began: bool = False, alone: bool = True, all_: bool = True
    ) -> None:
        """It failed, and the request of the creator `by` may be why. `began`: it broke its answer off.

        `alone`: it may rest for that creator alone; `all_`: this says something about everybody's requests.
        """
        now = self._clock()
        trouble = self._counted(deployment_id, by, failures=all_)
        trouble.breaks_off = trouble.breaks_off or began
        if all_ and len(trouble.seen_by) > 1 and trouble.failures >= FAILURES:
            trouble.begin(now, rest_s)
            self.count(deployment_id, "rests")
        elif alone and (by in trouble.own or len(trouble.own) < OWN_RESTS_MAX):
            own = trouble.own.setdefault(by, _Rest())
            own.failures += 1
            own.probing_until = 0.0
            if own.failures >= FAILURES:
                own.begin(now, rest_s)
                self.count(deployment_id, "rests")

    def _counted(self, deployment_id: str, by: str, *, failures: bool = True) -> _Trouble:
        self.count(deployment_id, "failed")
        if len(self.troubled) >= TROUBLED_MAX and deployment_id not in self.troubled:
            del self.troubled[next(iter(self.troubled))]
        trouble = self.troubled.setdefault(deployment_id, _Trouble())
        trouble.probing_until = 0.0
        if failures:
            trouble.failures += 1
            if len(trouble.seen_by) < 2:
                trouble.seen_by.add(by)
        return trouble

    def count(self, deployment_id: str, what: str) -> None:
        """One more of: `failed`, `refused` (what the caller must mend), `full`, `too_long`, `rests`, `recoveries`."""
        name = deployment_id, what
        if name not in self.counts and len(self.counts) >= TROUBLED_MAX:
            name = "other", what
        self.counts[name] = self.counts.get(name, 0) + 1

    def served(self, deployment_id: str, *, whole: bool = False, only: str | None = None) -> None:
        """It answers, or has given a `whole` answer; with `only`, to a creator's own key, which says nothing about ours."""
        trouble = self.troubled.get(deployment_id)
        if trouble is None or (trouble.breaks_off and not whole):
            return
        if only is not None:
            trouble.own.pop(only, None)
            trouble.probing_until = 0.0
            if trouble.failures or trouble.own:
                return
        del self.troubled[deployment_id]
        if trouble.rests():
            self.count(deployment_id, "recoveries")

    def forget(self, deployment_id: str) -> None:
        """It is another one now, under the same name."""
        self.troubled.pop(deployment_id, None)

    def may_try(self, deployment_id: str, by: str = "") -> bool:
        """Whether a request of the creator `by` may go there now; at the end of a rest one at a time."""
        trouble = self.troubled.get(deployment_id)
        if trouble is None:
            return True
        now = self._clock()
        own = trouble.own.get(by)
        return trouble.may_try(now) and (own is None or own.may_try(now))

    def chosen(self, deployment_id: str, by: str = "") -> None:
        """A request is about to be sent there, if it is not refused before."""
        self._probed(deployment_id, by, _CHOSEN_S)

    def asked(self, deployment_id: str, by: str = "") -> None:
        """A request is sent there: should it rest, this is the one that sees whether it serves again."""
        self._probed(deployment_id, by, _PROBE_S)

    def said_nothing(self, deployment_id: str, by: str = "") -> None:
        """It was asked, and its answer says neither that it serves nor that it fails: somebody else may see."""
        self.count(deployment_id, "refused")
        trouble = self.troubled.get(deployment_id)
        if trouble is not None:
            trouble.probing_until = 0.0
            if by in trouble.own:
                trouble.own[by].probing_until = 0.0

    def _probed(self, deployment_id: str, by: str, for_s: float) -> None:
        trouble = self.troubled.get(deployment_id)
        if trouble is not None:
            until = self._clock() + for_s
            trouble.probed(until)
            if by in trouble.own:
                trouble.own[by].probed(until)

    def resting(self) -> dict[str, float]:
        """The deployments that are left alone or on probation, if by one creator only, and for how many seconds more (0: it
        may be tried).
        """
        now = self._clock()
        found = {name: trouble.rests() for name, trouble in self.troubled.items()}
        return {name: max(0.0, *(each.until - now for each in rests)) for name, rests in found.items() if rests}
