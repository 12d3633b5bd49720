"""Tables and pictures of perplexities."""

import json

from PIL import Image

from transformer import perplexity_report as report


def row_of(method, length, pairs, budget, needle=(), **changes):
    parts = tuple(float(10 + i) for i in range(4))
    fields = report.Row(method, length, pairs, 12.345, 0.5, budget, f"{method}()", False, parts, needle)
    return fields._replace(**changes)


def test_tables_tell_what_was_measured(tmp_path):
    needle = (report.Needle(0.0, 0.25, -3.5), report.Needle(1.0, 1.0, -0.5))
    rows = [
        row_of("dense", 64, 1.0, 1.0, needle),
        row_of("local", 64, 0.125, 0.2, needle, perplexity=1234.5),
        row_of("smyrf", 64, 0.19, 0.2, needle, sees_later=True),
        row_of("dense", 128, 1.0, 1.0, needle),
        row_of("local", 128, 0.125, 0.2, needle),
    ]
    text = report.table(rows)
    assert "| 64 | dense | 100.0% | 12.35 | 0.50 | dense() |" in text
    assert "| 64 | local | 12.5% | 1234 | 0.50 | local() |" in text
    assert "| 64 | smyrf * | 19.0% |" in text
    assert text.startswith("- Command: `")
    assert "\n\\* clusters see later tokens" in text
    assert "| tokens | method | pairs | 0% | 100% |" in text
    assert "| 64 | local | 12.5% | 25% (-3.50) | 100% (-0.50) |" in text
    assert "clusters see later" not in report.table([row_of("dense", 64, 1.0, 1.0)])
    assert "depth" not in report.table([row_of("dense", 64, 1.0, 1.0)])
    for plot, size in ((report.plot_pairs, (1000, 400)), (report.plot_positions, (1000, 350))):
        plot(rows, tmp_path / "a.png")
        with Image.open(tmp_path / "a.png") as picture:
            assert picture.size == size
    assert json.loads(json.dumps(rows[0].as_json()))["needle"][1]["accuracy"] == 1.0
