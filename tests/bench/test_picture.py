"""The picture tells what was measured, on axes that do not flatter; the README's table is that of the kept results."""

from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench import picture, readme, report
from bench.contestants import DIRECT, GATEWAY, NGINX, NOTES
from bench.peers.install import LITELLM
from bench.plain_load import PlainLoad
from bench.results import PlainRound, Results, StreamRound
from bench.stream_load import StreamLoad

ROOT = Path(__file__).parent.parent.parent
SVG = "{http://www.w3.org/2000/svg}"


def plain(contestant: str, cpu_us: float, p50_us: int, refused: int = 0) -> PlainRound:
    return PlainRound(contestant, cpu_us, 0.0, PlainLoad(1000, refused, 0, 1000.0, p50_us, 2 * p50_us, 3 * p50_us))


def stream(contestant: str, cpu_us: float) -> StreamRound:
    return StreamRound(contestant, 50, cpu_us, 90.0, 0.0, StreamLoad(10, 10, 0, 0, 1540, 1540, 3.0, 300, 900, 500))


def measured(**cpu_us: float) -> Results:
    names = {"direct": DIRECT, "nginx": NGINX, "gateway": GATEWAY, "litellm": LITELLM}
    full = [plain(names[name], cpu, round(cpu)) for name, cpu in cpu_us.items()]
    return Results({"cpu": "a <fast> one"}, {}, full_load=full, one_connection=list(full), notes=NOTES)


def test_a_linear_axis_starts_at_zero_and_holds_the_largest() -> None:
    axis = picture.axis([23.0, 268.0])
    assert (axis.logarithmic, axis.low, axis.marks[0]) == (False, 0.0, 0.0)
    assert axis.high >= 268
    assert axis.place(134.0) == pytest.approx(axis.place(268.0) / 2)


def test_far_apart_figures_are_points_on_a_scale_that_says_it_is_logarithmic() -> None:
    axis = picture.axis([23.0, 17_000.0])
    assert axis.logarithmic
    assert axis.marks == (10.0, 100.0, 1_000.0, 10_000.0, 100_000.0)
    drawn = picture.draw(measured(nginx=23, gateway=240, litellm=17_000))
    assert "logarithmic scale" in drawn
    tree = ElementTree.fromstring(drawn)
    assert len(list(tree.iter(f"{SVG}circle"))) == 3  # without the upstream itself nothing is known to be added
    assert len(list(tree.iter(f"{SVG}rect"))) == 1  # the ground: no bar


def test_bars_are_as_long_as_their_figures() -> None:
    tree = ElementTree.fromstring(picture.draw(measured(nginx=20, gateway=200)))
    lengths = [float(bar.attrib["width"]) for bar in list(tree.iter(f"{SVG}rect"))[1:3]]
    assert lengths[1] == pytest.approx(10 * lengths[0], rel=0.01)


def test_whoever_was_not_measured_is_not_drawn_and_what_others_wrote_is_escaped() -> None:
    drawn = picture.draw(measured(direct=10, nginx=20, gateway=200))
    assert LITELLM not in drawn
    assert "a &lt;fast&gt; one" in drawn
    assert NOTES[GATEWAY].split(";")[0] in drawn
    ElementTree.fromstring(drawn)
    ElementTree.fromstring(picture.draw(Results({}, {})))


def test_the_table_tells_medians_failures_and_what_was_not_measured() -> None:
    results = measured(direct=10, nginx=20, gateway=200)
    results.full_load.append(plain(GATEWAY, 400, 1, refused=3))
    results.streams.append(stream(GATEWAY, 45.5))
    table = readme.table(results)
    assert "| gateway | 300 us, 3 failed | 3,333 | 0.19 ms | 45.5 us | 90 MB |" in table
    assert "| nginx | 20 us | 50,000 | 0.01 ms | not measured | not measured |" in table
    assert "direct" not in table


def test_only_what_is_between_the_marks_is_written() -> None:
    text = f"before\n{readme.BEGIN}\nold\n{readme.END}\nafter\n"
    filled = readme.filled(text, measured(gateway=200))
    assert filled.startswith("before\n")
    assert filled.endswith("\nafter\n")
    assert "old" not in filled
    with pytest.raises(ValueError, match="no place"):
        readme.filled("nothing", Results({}, {}))


def test_readme_tables_and_picture_are_those_of_the_kept_results(tmp_path: Path) -> None:
    kept = ROOT / "bench" / "results"
    results = report.read(kept)
    report.draw(results, tmp_path)
    for name in ("latest.md", "latest.svg"):
        assert (tmp_path / name).read_text() == (kept / name).read_text(), f"{name}: python -m bench draw"
    text = (ROOT / "README.md").read_text()
    assert readme.filled(text, results) == text, "README.md: python -m bench draw"
