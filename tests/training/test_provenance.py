"""Results tell where they come from, and no folders of the machine."""

import datetime
import re
import subprocess

import jax
import pytest

from training import provenance


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--pairs=1/8,1/4", "--swaps="], "--pairs=1/8,1/4 --swaps="),
        (["--path=/data/faces/", "--out", "/data/x"], "--path=faces --out x"),
        (["--fields=a.b=/data/c"], "--fields=a.b=c"),
        (["--workdir=runs/own", "--path=gs://bucket/x"], "--workdir=runs/own --path=gs://bucket/x"),
        (["--prompt=two words", "~/a"], "'--prompt=two words' a"),
    ],
)
def test_a_command_can_be_pasted(given, told):
    assert provenance.command_line(["/somewhere/prog.py", *given]).endswith(f" {told}")
    assert "somewhere" not in provenance.command_line(["/somewhere/prog.py", *given])


def test_the_header():
    lines = provenance.header(provenance.origin("python -m benchmarks.x"))
    assert lines[0] == "- Command: `python -m benchmarks.x`"
    assert lines[1] == f"- Date: {datetime.date.today()}"
    assert re.fullmatch(r"- Commit: ([0-9a-f]{7,}( \+ changes)?|unknown)", lines[2])
    assert re.fullmatch(rf"- Machine: \d+ cores, .+; jax {re.escape(jax.__version__)}", lines[3])
    assert lines[4:] == [""]
    assert provenance.header(provenance.origin("c", "a GPU"))[3] == "- Machine: a GPU"


def test_a_picture_tells_the_same():
    (text,) = provenance.picture_metadata(provenance.origin("c", "a GPU")).values()
    assert text == "; ".join(
        line.removeprefix("- ") for line in provenance.header(provenance.origin("c", "a GPU"))[:-1]
    )


@pytest.mark.process
def test_the_commit(tmp_path, monkeypatch):
    def git(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert provenance.commit() == "unknown"
    git("init")
    (tmp_path / "a.py").write_text("1")
    git("add", ".")
    git("commit", "-m", "a")
    commit = git("rev-parse", "--short=7", "HEAD")
    assert provenance.commit() == commit
    (tmp_path / "docs" / "results" / "tables").mkdir(parents=True)
    (tmp_path / "docs" / "results" / "tables" / "a.md").write_text("a result is no change of the program")
    assert provenance.commit() == commit
    (tmp_path / "a.py").write_text("2")
    assert provenance.commit() == f"{commit} + changes"
