"""Three ways to look at what one thread executes: calls, bytecodes, and body-sized blocks of memory.

Each looks while it is on (`start`, `stop`) and gives what it saw with `take`. Code of this folder is not counted, nor
what it calls. A call that C code makes into C, as `map(decode, parts)` does, is seen by no tracer of Python's.
"""

import sys
import tracemalloc
from collections import Counter
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Final

import msgspec

from bench.counts.steps import LINE, PACKAGE, step_of

_OWN: Final = str(Path(__file__).parent)
_PACKAGE: Final = f"{PACKAGE}/"
_INLINED: Final = (".<locals>.<listcomp>", ".<locals>.<dictcomp>", ".<locals>.<setcomp>")  # no calls any more from 3.12 on
_CODERS: Final = (msgspec.json.Decoder, msgspec.json.Encoder, msgspec.msgpack.Decoder, msgspec.msgpack.Encoder)
_FUNCTIONS: Final = {
    id(getattr(module, name)): name for module in (msgspec.json, msgspec.msgpack) for name in ("decode", "encode")
}
_STDLIB_JSON: Final = {("json/decoder.py", "JSONDecoder.decode"): "decode", ("json/encoder.py", "JSONEncoder.encode"): "encode"}

Key = tuple[str, str]  # what ("proxy/wire.py parse"; "~asyncio/timeouts.py ..." for a library), step


class Code(msgspec.Struct, frozen=True):
    """What is known of one code object. `step` None: the caller's. `counts` False: this folder's own."""

    name: str
    step: str | None
    ours: bool = False
    counts: bool = True
    inlined: bool = False
    coder: str = ""


def describe(code: CodeType) -> Code:
    """See `Code`."""
    path = code.co_filename
    if path.startswith(_OWN):
        return Code("", None, counts=False)
    function = code.co_qualname
    if path.startswith(_PACKAGE):
        path, inlined = path[len(_PACKAGE) :], function.endswith(_INLINED)
        if inlined:
            function = function.rpartition(".<locals>.")[0]
        return Code(f"{path} {function}", step_of(path, function), ours=True, inlined=inlined)
    for mark in ("site-packages/", f"lib/python3.{sys.version_info.minor}/"):
        path = path.rpartition(mark)[2]
    return Code(f"~{path} {function}", None, coder=_STDLIB_JSON.get((path, function), ""))


class Tracer:
    """Knows at each moment which code runs, and for which step."""

    def __init__(self) -> None:
        self._codes: dict[CodeType, Code] = {}
        self._running: list[tuple[Code, str | None]] = []
        self._last = LINE  # the step of what ran last: a callback is for who waits

    def entered(self, frame: FrameType) -> tuple[Code, str | None]:
        """A frame begins, or goes on after a wait."""
        code = self._codes.get(frame.f_code)
        if code is None:
            code = self._codes[frame.f_code] = describe(frame.f_code)
        step = code.step or (self._running[-1][1] if self._running else self._last)
        if not code.counts:
            step = None
        self._running.append((code, step))
        if step is not None:
            self._last = step
        return code, step

    def left(self) -> None:
        """A frame ends or waits. (The one that switched the tracer on was never seen to begin.)"""
        if self._running:
            self._running.pop()

    def start(self) -> None:
        """From here on, in this thread."""
        self._running.clear()
        self._last = LINE

    def stop(self) -> None:
        """No more."""
        sys.settrace(None)
        sys.setprofile(None)


class Calls(Tracer):
    """Counts Python calls, the package's calls into C, and JSON coded or decoded by whom it may be."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[Key] = Counter()
        self.into_c: Counter[Key] = Counter()
        self.json: Counter[Key] = Counter()  # by ("decode" or "encode", by whom)

    def start(self) -> None:
        super().start()
        sys.setprofile(self._look)

    def take(self) -> tuple[Counter[Key], Counter[Key], Counter[Key]]:
        """Calls, calls into C, JSON since the last time."""
        seen = self.calls, self.into_c, self.json
        self.calls, self.into_c, self.json = Counter(), Counter(), Counter()
        return seen

    def _look(self, frame: FrameType, event: str, arg: Any) -> None:
        if event == "return":
            self.left()
        elif event == "call":
            code, step = self.entered(frame)
            if step is not None and not code.inlined:
                self.calls[code.name, step] += 1
                if code.coder:
                    self.json[code.coder, code.name] += 1
        elif event == "c_call" and self._running:
            code, step = self._running[-1]
            if step is None:
                return
            if code.ours:
                self.into_c[code.name, step] += 1
            if isinstance(getattr(arg, "__self__", None), _CODERS):
                self.json[arg.__name__, code.name] += 1
            elif id(arg) in _FUNCTIONS:
                self.json[_FUNCTIONS[id(arg)], code.name] += 1


class Bytecodes(Tracer):
    """Counts the bytecodes that the package's functions execute."""

    def __init__(self) -> None:
        super().__init__()
        self.executed: Counter[Key] = Counter()

    def start(self) -> None:
        super().start()
        sys.settrace(self._begin)

    def take(self) -> Counter[Key]:
        """Since the last time."""
        seen, self.executed = self.executed, Counter()
        return seen

    def _begin(self, frame: FrameType, _: str, __: Any) -> Any:
        code, step = self.entered(frame)
        frame.f_trace_lines = False
        frame.f_trace_opcodes = code.ours and step is not None
        return self._go_on

    def _go_on(self, _: FrameType, event: str, __: Any) -> Any:
        if event == "opcode":
            if self._running:
                code, step = self._running[-1]
                if step is not None:
                    self.executed[code.name, step] += 1
        elif event == "return":
            self.left()
        return self._go_on


class Blocks(Tracer):
    """Adds up the memory that is taken at one go, where that is more than `least` bytes: copies of bodies, by who makes them.

    Between two events of the profiler memory rises to a peak; how far is what was allocated there.
    """

    def __init__(self, least: int) -> None:
        super().__init__()
        self._least = least
        self._at = 0
        self.taken: Counter[str] = Counter()  # bytes, by function

    def start(self) -> None:
        super().start()
        tracemalloc.start()
        sys.setprofile(self._look)
        self._again()

    def stop(self) -> None:
        super().stop()
        tracemalloc.stop()

    def take(self) -> Counter[str]:
        """Bytes since the last time, by function."""
        seen, self.taken = self.taken, Counter()
        return seen

    def _again(self) -> None:
        self._at = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()

    def _look(self, frame: FrameType, event: str, _: Any) -> None:
        rise = tracemalloc.get_traced_memory()[1] - self._at
        if rise >= self._least and self._running:  # what the loop itself takes, outside of any function, is not ours
            code, step = self._running[-1]
            if step is not None:
                self.taken[code.name] += rise
        if event == "call":
            self.entered(frame)
        elif event == "return":
            self.left()
        self._again()
