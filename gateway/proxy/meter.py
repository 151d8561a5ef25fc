"""What one web process has served, in numbers: counted from what each request leaves behind, beside the requests.

A request that ends leaves one row (`Seen`) in a queue; `Meter.count` makes counts and histograms of them every now and then.
So a request pays for one row, and only who looks pays for the rest.
"""

from bisect import bisect_left
from collections import deque
from typing import Final

# The surface's path, the model, the deployment that answered ("" for none), the status; begin, first byte and end, in seconds.
Seen = tuple[str, str, str, int, float, float, float]
SEEN_MAX: Final = 100_000
BOUNDS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_SERIES_MAX: Final = 500  # clients choose names of models: behind so many of them the rest is one
_OTHER: Final = "other"


class Histogram:
    """How many took how long: one count a bound of `BOUNDS_S`, and one for what took longer."""

    __slots__ = ("counts", "sum_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_S) + 1)
        self.sum_s = 0.0

    def add(self, seconds: float) -> None:
        """One more."""
        self.counts[bisect_left(BOUNDS_S, seconds)] += 1
        self.sum_s += seconds


class Meter:
    """Counts since the start. `requests` by surface, model and status; times by surface and model; `served` by deployment."""

    def __init__(self, seen: deque[Seen]) -> None:
        self._seen = seen
        self._models: set[tuple[str, str]] = set()
        self.requests: dict[tuple[str, str, int], int] = {}
        self.latency: dict[tuple[str, str], Histogram] = {}
        self.first_byte: dict[tuple[str, str], Histogram] = {}
        self.served: dict[str, int] = {}

    def count(self) -> None:
        """Take what has ended since the last time."""
        while self._seen:
            surface, model, deployment, status, began, first_byte, ended = self._seen.popleft()
            name = self._named(surface, model)
            self.requests[*name, status] = self.requests.get((*name, status), 0) + 1
            if not deployment:
                continue
            self.latency.setdefault(name, Histogram()).add(ended - began)
            self.first_byte.setdefault(name, Histogram()).add(first_byte - began)
            if deployment not in self.served and len(self.served) >= _SERIES_MAX:
                deployment = _OTHER
            self.served[deployment] = self.served.get(deployment, 0) + 1

    def _named(self, surface: str, model: str) -> tuple[str, str]:
        """The surface's name, and the model's as long as there are few."""
        name = surface.strip("/"), model
        if name not in self._models:
            if not model or len(self._models) >= _SERIES_MAX:
                return name[0], model and _OTHER
            self._models.add(name)
        return name
