"""What README, CONTRIBUTING and docs show is true: Python runs as pasted, commands and links exist."""

import ast
import doctest
import functools
import importlib.util
import pathlib
import re
import shlex
import traceback
from typing import NamedTuple

import jax
import ml_collections
import pytest

ROOT = pathlib.Path(__file__).parents[1]
TABLES = ROOT / "docs" / "results" / "tables"
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(page for page in (ROOT / "docs").rglob("*.md") if TABLES not in page.parents),
]


class Block(NamedTuple):
    """A fenced block: its language, the number of its first line, its text."""

    language: str
    line: int
    text: str


def blocks_of(page):
    """All fenced blocks of a page; those in lists are indented."""
    blocks, inside = [], None
    for number, line in enumerate(page.read_text().splitlines(), start=1):
        fence = re.fullmatch(r"(\s*)```(\w*).*", line)
        if inside is None and fence:
            inside = fence[2], number + 1, len(fence[1]), []
        elif fence:
            language, first, _, lines = inside
            blocks.append(Block(language, first, "\n".join(lines) + "\n"))
            inside = None
        elif inside is not None:
            inside[3].append(line[inside[2] :])
    assert inside is None, f"{page}: a block is not closed."
    return blocks


def named(page):
    return str(page.relative_to(ROOT))


def test_blocks_are_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("a\n```python\nx = 1\n```\n- b\n\n    ```sh\n    ls\n    ```\n")
    assert blocks_of(page) == [Block("python", 3, "x = 1\n"), Block("sh", 8, "ls\n")]


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_python_runs_as_pasted(page, tmp_path, monkeypatch, capsys):
    """All blocks of a page, one after the other, as in one session of a user's."""
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"}
    with jax.numpy_rank_promotion("allow"), jax.debug_key_reuse(False):
        for block in (block for block in blocks_of(page) if block.language in ("python", "py", "pycon")):
            where = f"{named(page)}:{block.line}"
            if ">>>" in block.text:
                example = doctest.DocTestParser().get_doctest(block.text, names, where, where, block.line - 1)
                runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
                runner.run(example, clear_globs=False)
                assert not runner.summarize(verbose=False).failed, capsys.readouterr().out
                names = example.globs
                continue
            try:
                exec(compile("\n" * (block.line - 1) + block.text, named(page), "exec"), names)
            except Exception:
                pytest.fail(f"{where} does not run:\n{traceback.format_exc()}")


class Command(NamedTuple):
    """What a page tells to run: FILE.md:LINE, what stands behind `python -m`, and the rest of the line."""

    where: str
    module: str
    rest: str


def commands_in(text, name):
    """Of blocks and of lines; a backslash continues a line."""
    for found in re.finditer(r"python3? -m ([\w.]+)((?:\\\n|[^`\n#])*)", text):
        where = f"{name}:{text.count(chr(10), 0, found.start()) + 1}"
        yield Command(where, found[1], found[2].replace("\\\n", " "))


@functools.cache
def flags_of(module):
    """Flags that a module defines, and the project's modules that it imports."""
    path = ROOT / (module.replace(".", "/") + ".py")
    if not path.exists():
        path = ROOT / module.replace(".", "/") / "__main__.py"
        if not path.exists():
            path = path.with_name("__init__.py")
    if not path.exists():
        return frozenset()
    source = path.read_text()
    flags = set(re.findall(r"(?:DEFINE_\w+\(\s*|add_argument\(\s*\"--)\"?(\w+)", source))
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{name.name}" for name in node.names)]
        elif isinstance(node, ast.Import):
            names = [name.name for name in node.names]
        for name in names:
            inside = ROOT / name.split(".")[0]
            if name != module and inside.is_dir() and (ROOT / (name.replace(".", "/") + ".py")).exists():
                flags |= flags_of(name)
    return frozenset(flags)


def config_of(argument):
    path, _, rest = argument.partition(":")
    module = importlib.import_module(path.removesuffix(".py").replace("/", "."))
    return module.get_config(*([rest] if rest else []))


def has_field(config, name):
    for part in name.split("."):
        if not isinstance(config, ml_collections.ConfigDict) or part not in config:
            return False
        config = config[part]
    return True


def check_command(command):
    """Raises AssertionError unless there are its module, its flags, its config and the fields of that."""
    where, module, rest = command
    told = f"{where}: python -m {module}{rest}"
    root = module.split(".")[0]
    if not (ROOT / root).is_dir():
        assert importlib.util.find_spec(root), f"{told}: there is no module {root}"
        return
    path = ROOT / module.replace(".", "/")
    assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), (
        f"{told}: there is no {module}"
    )
    arguments = [
        re.fullmatch(r"--([\w.]+)(?:=(.*))?", argument) for argument in shlex.split(rest, posix=False)
    ]
    flags = [(found[1], found[2] or "") for found in arguments if found]
    paths = [value.rstrip(".,;:)") for flag, value in flags if flag == "config" and "*" not in value]
    config = config_of(paths[0]) if paths and paths[0].startswith("configs/") else None
    for flag, _ in flags:
        if flag.startswith("config."):
            known = config is None or has_field(config, flag.removeprefix("config."))
            assert known, f"{told}: no field of --{flag}"
        else:
            known = flags_of(module) | {"help"}
            assert flag in known or flag.removeprefix("no") in known, f"{told}: --{flag} is no flag"


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_commands_exist(page):
    for command in commands_in(page.read_text(), named(page)):
        check_command(command)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("biggan.trian --config=x", "there is no biggan.trian"),
        ("bigan.train", "there is no module bigan"),
        ("biggan.train --confg=x", "--confg is no flag"),
        (
            "biggan.train --config=configs/quickstart.py \\\n  --config.num_step=3",
            "no field of --config.num_step",
        ),
    ],
)
def test_commands_that_do_not_exist_are_found(text, message):
    (command,) = commands_in(f"\n`python -m {text}`", "page.md")
    with pytest.raises(AssertionError, match=rf"^page.md:2: .*{message}"):
        check_command(command)


def code_of(page):
    """Lines of shell blocks, and what stands between backticks, with the number of the line."""
    inside = False
    for number, line in enumerate(page.read_text().splitlines(), start=1):
        if line.lstrip().startswith("```"):
            inside = not inside
        else:
            for code in [line.strip()] if inside else re.findall(r"`([^`]+)`", line):
                yield number, code


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_targets_of_make_and_programs_exist(page):
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for number, code in code_of(page):
        for target in re.findall(r"^make ([a-z][\w-]*)(?!\S)", code):
            assert target in targets, f"{named(page)}:{number}: make {target}"
        for program in re.findall(r"^python ([\w/]+\.py)", code):
            assert (ROOT / program).exists(), f"{named(page)}:{number}: {program}"


def prose_of(text):
    """The text, with as many lines, whose blocks are empty."""
    return re.sub(r"```.*?```", lambda block: "\n" * block[0].count("\n"), text, flags=re.DOTALL)


@pytest.mark.parametrize("page", [*PAGES[:2], ROOT / "CHANGELOG.md"], ids=named)
def test_links_lead_somewhere(page):
    """Links and pictures; mkdocs looks at those of docs/."""
    for number, line in enumerate(prose_of(page.read_text()).splitlines(), start=1):
        for target in re.findall(r"\]\(([^)#\s]+)|src=\"([^\"]+)", line):
            target = "".join(target)
            known = target.startswith("https://") or (page.parent / target).exists()
            assert known, f"{named(page)}:{number}: there is no {target}"


def test_the_readme_is_read_in_a_minute():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 120
    prose = prose_of(text)
    words = re.sub(r"\]\([^)]*\)", "]", prose).replace("|", " ").split()
    assert len(words) <= 700
    long = [line for line in prose.splitlines() if len(line) > 120 and not line.startswith(("|", "!["))]
    assert not long


def test_commits_are_linted_as_in_make_lint():
    """Formatters write there what they only look at here."""
    lint = re.search(r"^lint:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)[1]
    expected = re.findall(r"\$\(VENV\)/bin/(.*?)(?: --check)?(?: \.| launch/\*\.sh)?$", lint, re.MULTILINE)
    hooks = re.findall(r"entry: \.venv/bin/(.*)", (ROOT / ".pre-commit-config.yaml").read_text())
    assert hooks == expected
