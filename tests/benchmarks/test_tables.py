"""Tables in Markdown; a table of rows that are kept is of the day of its newest row."""

from benchmarks.tables import newest, table


def test_a_table():
    assert table(["a", "b"], [["1", "2"]]) == ["| a | b |", "|---|---|", "| 1 | 2 |", ""]


def test_the_newest_row():
    days = ("2026-11-26", "2026-11-27", "2026-11-27", "2026-11-25")
    rows = [{"origin": {"Date": day, "Commit": str(number)}} for number, day in enumerate(days)]
    assert newest(rows) == {"Date": "2026-11-27", "Commit": "2"}
