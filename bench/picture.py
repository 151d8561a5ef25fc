"""The picture of a run: CPU per request, latency added, CPU per chunk, by contestant. Plain SVG, readable on light and on dark.

A panel is of bars from zero; where the longest would leave the shortest invisible, it is of points on a logarithmic scale,
and says so, as the length of a bar means nothing there.
"""

import math
from collections.abc import Callable
from html import escape
from typing import Final

import msgspec

from bench.contestants import DIRECT, GATEWAY, GATEWAY_MEASURED
from bench.results import Results, added_ms, contestants, plain_cpu_us, stream_cpu_us

_WIDTH: Final = 860
_LEFT: Final = 190  # where the axes begin
_RIGHT: Final = 760  # and end; the figures stand beyond
_ROW: Final = 26
_BAR: Final = 16
_PANEL_HEAD: Final = 46
_PANEL_FOOT: Final = 40
_LINEAR_MOST: Final = 25  # times the smallest figure; beyond that the scale is logarithmic
_STYLE: Final = """
  .ground { fill: #ffffff } .text { fill: #1f2328 } .faint { fill: #59636e } .grid { stroke: #d1d9e0 }
  .other { fill: #8c959f } .ours { fill: #0969da }
  text { font-family: system-ui, -apple-system, "Segoe UI", sans-serif; font-size: 12px }
  .title { font-size: 14px; font-weight: 600 }
  @media (prefers-color-scheme: dark) {
    .ground { fill: #0d1117 } .text { fill: #f0f6fc } .faint { fill: #9198a1 } .grid { stroke: #3d444d }
    .other { fill: #656c76 } .ours { fill: #4493f8 }
  }
"""


class Panel(msgspec.Struct, frozen=True):
    """One row of figures; `values` by contestant, all above zero."""

    title: str
    unit: str
    values: dict[str, float]


class Axis(msgspec.Struct, frozen=True):
    """From `low` to `high`, linear from zero or logarithmic, with its marks."""

    low: float
    high: float
    logarithmic: bool
    marks: tuple[float, ...]

    def place(self, value: float) -> float:
        """How far along the axis a value is, 0 to 1."""
        if self.logarithmic:
            return (math.log10(value) - math.log10(self.low)) / (math.log10(self.high) - math.log10(self.low))
        return value / self.high


def panels(results: Results) -> list[Panel]:
    """The three panels, of medians; who was not measured, or adds nothing that can be told, is not in a panel."""
    full, one, streams = results.full_load, results.one_connection, results.streams
    return [
        Panel("CPU per plain request, full load", "us", _known(contestants(full), lambda name: plain_cpu_us(full, name))),
        Panel("Latency added to the upstream's, median, 1 connection", "ms",
              _known(contestants(one), lambda name: None if name == DIRECT else added_ms(one, name, "p50_us"))),
        Panel("CPU per relayed chunk of a stream", "us", _known(contestants(streams), lambda name: stream_cpu_us(streams, name))),
    ]  # fmt: skip


def _known(names: list[str], value: Callable[[str], float | None]) -> dict[str, float]:
    found = {name: value(name) for name in names if name != DIRECT}
    return {name: figure for name, figure in found.items() if figure is not None and figure > 0}


def axis(values: list[float]) -> Axis:
    """An axis that holds all of them: linear from zero, or logarithmic by whole powers of ten."""
    least, most = min(values), max(values)
    if most > _LINEAR_MOST * least:
        first, last = math.floor(math.log10(least)), math.ceil(math.log10(most))
        return Axis(10.0**first, 10.0**last, True, tuple(10.0**power for power in range(first, last + 1)))
    step = _step(most / 5)
    count = math.ceil(most / step)
    return Axis(0.0, step * count, False, tuple(step * number for number in range(count + 1)))


def _step(least: float) -> float:
    """The least of 1, 2 or 5 times a power of ten that is not below this."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(times * power for times in (1, 2, 5, 10) if times * power >= least * 0.999)


def draw(results: Results) -> str:
    """The whole picture."""
    shown = [panel for panel in panels(results) if panel.values]
    parts: list[str] = []
    top = 12
    for panel in shown:
        parts += _drawn(panel, top)
        top += _PANEL_HEAD + _ROW * len(panel.values) + _PANEL_FOOT
    notes = [f"{name}: {results.notes[name]}." for name in _all_names(shown) if name in results.notes]
    lines = [line for note in notes for line in _wrapped(note, 130)]
    machine = ", ".join(filter(None, (results.machine.get("cpu"), results.machine.get("python"), _gateway(results))))
    for line in [*lines, f"Lower is better. Medians of one run: {machine}."]:
        parts.append(f'<text class="faint" x="16" y="{top + 8}">{escape(line)}</text>')
        top += 17
    size = f'width="{_WIDTH}" height="{top + 8}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {top + 8}" {size} role="img">\n'
        f"<title>{escape('; '.join(panel.title for panel in shown))}</title>\n<style>{_STYLE}</style>\n"
        f'<rect class="ground" {size} rx="6"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _gateway(results: Results) -> str:
    version = results.machine.get("gateway", "")
    return version and f"gateway {version}"


def _all_names(shown: list[Panel]) -> list[str]:
    return list(dict.fromkeys(name for panel in shown for name in panel.values))


def _drawn(panel: Panel, top: int) -> list[str]:
    scale = axis(list(panel.values.values()))
    manner = "logarithmic scale: each mark is ten times the one before" if scale.logarithmic else "from zero"
    rows_top, bottom = top + _PANEL_HEAD, top + _PANEL_HEAD + _ROW * len(panel.values)
    parts = [
        f'<text class="text title" x="16" y="{top + 18}">{escape(panel.title)}</text>',
        f'<text class="faint" x="16" y="{top + 35}">{panel.unit}, {manner}</text>',
    ]
    for mark in scale.marks:
        x = _x(scale, mark)
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{rows_top}" y2="{bottom}"/>')
        parts.append(f'<text class="faint" x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{number(mark)}</text>')
    for row, (name, value) in enumerate(panel.values.items()):
        y, x = rows_top + row * _ROW + (_ROW - _BAR) / 2, _x(scale, value)
        kind = "ours" if name in (GATEWAY, GATEWAY_MEASURED) else "other"
        parts.append(f'<text class="text" x="{_LEFT - 10}" y="{y + 12:.1f}" text-anchor="end">{escape(name)}</text>')
        if scale.logarithmic:
            parts.append(f'<circle class="{kind}" cx="{x:.1f}" cy="{y + _BAR / 2:.1f}" r="6"/>')
        else:
            parts.append(f'<rect class="{kind}" x="{_LEFT}" y="{y:.1f}" width="{x - _LEFT:.1f}" height="{_BAR}"/>')
        parts.append(f'<text class="text" x="{x + 10:.1f}" y="{y + 12:.1f}">{number(value)} {panel.unit}</text>')
    return parts


def _x(scale: Axis, value: float) -> float:
    return _LEFT + (_RIGHT - _LEFT) * scale.place(value)


def _wrapped(text: str, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) >= width:
            lines.append("  ")
        lines[-1] = f"{lines[-1]} {word}".strip() if lines[-1].strip() else f"{lines[-1]}{word}"
    return lines


def number(value: float) -> str:
    """Three figures, thousands apart."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}".removesuffix(".0") if value >= 10 else f"{value:.2f}".rstrip("0").rstrip(".") or "0"
