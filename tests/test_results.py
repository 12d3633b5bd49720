"""Results are written by commands, tell where they come from, and hold the numbers that documents state.

For writers of README.md and docs: a number with decimals, or with a unit (%, ms, s, min, GB, M cycles, images
a second, times), is taken for a measured one. So is all that a cell holds, where results are linked. It must
stand, rounded to the digits that you give, in a result that its row, list item or paragraph links: a table of
docs/results/tables, or a picture of the same command. A row that links none ("the same") takes the links of
the nearest row above; anything else those of its section. A config that is named (configs/NAME.py) counts as
a link: its docstring tells a result. Free are settings in `backticks`, what others claim in "quotation
marks", what names `make test`, words (half, a quarter), and whole numbers without a unit (4096 tokens). State
no ratio that no script computed: state the two numbers. Three digits are better than two: in a large table
any two digits are found somewhere.
"""

import ast
import pathlib
import re

import pytest
from PIL import Image

from benchmarks.registry import NEEDS, REGISTRY
from benchmarks.tables import RESULTS
from tests.stated_numbers import blocks_of, stated, unfounded

ROOT = pathlib.Path(__file__).parent.parent
INDEX = ROOT / "docs" / "results" / "index.md"
DOCUMENTS = sorted(
    str(path.relative_to(ROOT))
    for path in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md"))
    if RESULTS not in path.parents
)
HEADER = re.compile(
    r"- Command: `python -m ([\w.]+)[^`]*`\n- Date: 20\d\d-\d\d-\d\d\n"
    r"- Commit: [0-9a-f]{7}[^\n]*\n- Machine: \S[^\n]+\n\n"
)
WRITTEN = [name for result in REGISTRY.values() for name in result.names]


def text_files():
    """A file of a result -> those of its files that can be read."""
    return {
        name: tuple(of for of in result.names if of.endswith(".md"))
        for result in REGISTRY.values()
        for name in result.names
    }


def contents():
    texts = {path.name: path.read_text() for path in RESULTS.glob("*.md")}
    for path in (ROOT / "configs").glob("*.py"):
        texts[f"configs/{path.name}"] = ast.get_docstring(ast.parse(path.read_text())) or ""
    return texts


def test_every_result_is_written_by_one_command():
    assert len(WRITTEN) == len(set(WRITTEN))
    there = {path.name for path in RESULTS.iterdir()}
    assert there <= set(WRITTEN), "no command of benchmarks/registry.py writes these"
    not_run = {line for line in INDEX.read_text().split("\n") if "not run" in line.lower()}
    for name in set(WRITTEN) - there:
        key = next(key for key, result in REGISTRY.items() if name in result.names)
        assert any(f"`{key}`" in line for line in not_run), f"{name} is missing, and {INDEX} does not say so"


def test_every_result_has_a_program():
    for name, result in REGISTRY.items():
        words = result.command.split()
        assert words[:2] == ["python", "-m"], name
        assert (ROOT / (words[2].replace(".", "/") + ".py")).exists(), name
        assert set(result.needs) <= set(NEEDS), name
        assert result.minutes > 0


@pytest.mark.parametrize("name", sorted(path.name for path in RESULTS.iterdir()))
def test_a_result_tells_where_it_comes_from(name):
    path = RESULTS / name
    if path.suffix == ".md":
        found = HEADER.match(path.read_text())
        assert found, "it should begin with training.provenance.header"
        (command,) = {of.command.split()[2] for of in REGISTRY.values() if name in of.names}
        assert found[1] == command, "benchmarks/registry.py has another command"
    elif path.suffix == ".png":
        with Image.open(path) as picture:
            assert picture.info["Description"].startswith("Command: `"), "savefig wants metadata"
    else:
        for line in path.read_text().splitlines():
            assert re.search(r'"origin": {"Command": .*"Date": .*"Commit": .*"Machine": ', line)


def test_nothing_tells_paths_of_a_machine():
    for path in RESULTS.iterdir():
        text = path.read_bytes().decode("utf-8", "replace") if path.suffix != ".png" else ""
        if path.suffix == ".png":
            with Image.open(path) as picture:
                text = picture.info["Description"]
        assert not re.search(r"[ =](/home|/root|/tmp|/work|~)/?", text), path


@pytest.mark.parametrize("name", DOCUMENTS)
def test_stated_numbers_stand_in_results(name):
    found = unfounded(name, (ROOT / name).read_text(), text_files(), contents())
    assert not found, "\n".join(["see the docstring of tests/test_results.py", *map(str, found)])


FILES = {"a.md": ("a.md",), "a.png": ("a.md",), "b.md": ("b.md",)}
TEXTS = {
    "a.md": "- Command: `x --y=7.77`\n- Date: 2026-11-27\n\n| 0.5234 | 2,362 | 12.50% | 391.56 | 0.0812 |",
    "b.md": "| 3.4 | 88% |",
    "configs/small.py": "Result: 26.5 s a step",
}


def wrong(text):
    return [of.number for of in unfounded("x.md", text, FILES, TEXTS)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("error .52, and .523, not .53 ([t](a.md))", [".53"]),
        ("it took 392 s, not 393 s ([t](results/tables/a.md#x))", ["393"]),
        ("it took 2,362 ms, 2363 ms (![plot](a.png))", ["2363"]),
        ("8 to 12.5 %, 8 and 14 % ([t](a.md))", ["14"]),
        ("5.9 times, 40 / 67 times ([t](a.md))", ["5.9", "40", "67"]),
        ('0.3916 s, `0.9`, "2.1 times", 1e-6, 4096 tokens, v3, half ([t](a.md))', []),
        ("Python 3.11, jax 0.10.2, section 4.2, arXiv:2010.05315, https://a.b/1.5", []),
        ("7.77 ([t](a.md))", ["7.77"]),
        ("| x | 0.52 | [t](a.md) |\n|---|---|---|\n| the same | 2362 | 2364 |", ["2364"]),
        ("3.4 ([t](a.md)); 3.4 ([t](b.md))", []),
        ("3.4 ([t](a.md))\n\n- 3.4 ([t](b.md))\n- 88 %", ["3.4"]),
        ("3.4\n\n[t](b.md)\n\n| 3.4 |\n", []),
        ("[t](a.md)\n\n| 3.4 | [t](b.md) |\n| 3.4 |\n| 0.52 |\n\n0.52, 3.4", ["0.52"]),
        ("| size | 2048 |", []),
        ("| size | 2048 | [t](b.md) |", ["2048"]),
        ("[t](b.md)\n\n## Next\n\n3.4", ["3.4"]),
        ("3.4", ["3.4"]),
        ("| parity | within 1.5 % | `make test` |", []),
        ("26.5 s a step by `configs/small.py`, 27.5 s", ["27.5"]),
        ("```\n3.4 s\n```\n<!-- 9.9 -->\n**3.4** ([t](b.md))", []),
    ],
)
def test_a_wrong_number_is_found(text, expected):
    assert wrong(text) == expected


def test_where_a_wrong_number_is():
    text = "# Title\n\ntwo lines,\nthe second with 9.9 ([t](b.md))\n"
    (found,) = unfounded("docs/x.md", text, FILES, TEXTS)
    assert str(found) == "docs/x.md:4: 9.9 was looked for in b.md"
    (found,) = unfounded("docs/x.md", "9.9\n", FILES, TEXTS)
    assert str(found) == "docs/x.md:1: 9.9 was looked for in nowhere: its section names no result"


def test_what_looks_measured():
    (block,) = blocks_of("1.5 and 12, 4,096 tokens, 3 s, `2.5`, 7 %, 1 and 11 %, 3 min")
    assert [number for _, number, _ in stated(block, in_results=True)] == ["1.5", "3", "7", "1", "11", "3"]
