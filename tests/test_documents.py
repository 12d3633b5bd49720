"""What README, CONTRIBUTING and docs show is true: Python runs as pasted, commands and links exist."""

import ast
import doctest
import functools
import importlib
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


def commands_of(page):
    """Modules that `python -m` is told to run, in blocks and in lines, and what follows."""
    text = page.read_text()
    joined = re.sub(r"\\\n\s*", " ", text)
    for found in re.finditer(r"python -m ([\w.]+)([^`\n#]*)", joined):
        yield found[1], found[2]


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


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_commands_exist(page):
    """Modules, their flags, configs and their fields."""
    for module, rest in commands_of(page):
        command = f"{named(page)}: python -m {module}{rest}"
        own = module.split(".")[0] in {"biggan", "transformer", "evaluation", "launch", "benchmarks"}
        if not own:
            continue
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), command
        config = None
        for argument in shlex.split(rest, posix=False):
            found = re.fullmatch(r"--(?:no)?([\w.]+)(?:=(.*))?", argument)
            if not found:
                continue
            flag, value = found.groups()
            if flag == "config" and value and value.startswith("configs/") and "*" not in value:
                config = config_of(value.rstrip(".,;:)"))
            if flag.startswith("config."):
                if config is not None:
                    assert has_field(config, flag.removeprefix("config.")), f"{command}: no field of {flag}"
                continue
            known = flags_of(module)
            assert flag in known or f"no{flag}" in known or argument[2:].split("=")[0] in known, (
                f"{command}: --{flag} is no flag"
            )


@pytest.mark.parametrize("page", [*PAGES[:2], ROOT / "CHANGELOG.md"], ids=named)
def test_links_lead_somewhere(page):
    """mkdocs looks at those of docs/."""
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
        assert target.startswith("https://") or (page.parent / target).exists(), f"{named(page)}: {target}"


def test_the_readme_is_read_in_a_minute():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 120
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
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
