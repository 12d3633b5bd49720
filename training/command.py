"""The command lines of programs: how they start, what --help tells, and how they end.

Whose fault an error is, is decided here alone. What a user can mend ends a command with a message on stderr
and status 1. What nobody has foreseen keeps its traceback.
"""

import contextlib
import dis
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import ModuleType, TracebackType
from typing import Any

import jax
import ml_collections
from absl import app, flags, logging
from ml_collections import config_flags

from training import fields, processes, profiling
from training.checkpoint import DamagedCheckpointError, UnsavedError
from training.files import tidied

# Whose `raise` is meant for the user.
_OURS = {
    "__main__",
    "biggan",
    "configs",
    "evaluation",
    "launch",
    "smyrf_jax",
    "tests",
    "training",
    "transformer",
}


def is_of_user(error: BaseException) -> bool:
    """Whether the user can mend what an error tells, and its message says how.

    Such are errors of files, and packages that are not installed. A ValueError and its like are if a `raise`
    of this project made them. One from inside NumPy, JAX or int() was not foreseen: the program is at fault.
    """
    if isinstance(error, OSError | DamagedCheckpointError | UnsavedError):
        return True
    if isinstance(error, ModuleNotFoundError) and error.name:
        return error.name.split(".")[0] not in _OURS
    return isinstance(error, ValueError | ImportError | FloatingPointError) and _is_raised_here(error)


def _is_raised_here(error: BaseException) -> bool:
    """Whether a `raise` in a file of this project made an error, and no call of something else."""
    trace = _last(error)
    if trace is None or _module_of(error).split(".")[0] not in _OURS:
        return False
    return dis.opname[trace.tb_frame.f_code.co_code[trace.tb_lasti]] == "RAISE_VARARGS"


def _module_of(error: BaseException) -> str:
    """The module that an error was raised in."""
    trace = _last(error)
    return "" if trace is None else str(trace.tb_frame.f_globals.get("__name__", ""))


def _last(error: BaseException) -> TracebackType | None:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace


def without_traceback(program: Callable[[], None], memory: str) -> None:
    """Runs a program; what its user can mend ends it with a message and status 1.

    Folders that it has made and left empty are removed if it fails.

    memory: the flags or fields that should be smaller where a device has too little memory.
    """
    logging.set_verbosity(logging.WARNING)
    try:
        with tidied():
            program()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        sys.exit(f"the device has too little memory: {memory} should be less. {str(error).splitlines()[0]}")
    except Exception as error:
        if not is_of_user(error):
            raise
        sys.exit(str(error) or type(error).__name__)


def start(
    main: Callable[[list[str]], None], said: Mapping[str, str] | None = None, reference: str = ""
) -> None:
    """Starts a command by its flags: main(argv). What is wrong with them is told in a message.

    said: of a command with --config, a line for each field that its configs have. reference: the file of
        configs/ whose fields --help tells if no --config is given.
    """

    def guarded(argv: list[str]) -> None:
        try:
            main(argv)
        except app.UsageError as error:
            sys.exit(f"{error}{_HELP}")

    def parse(argv: list[str]) -> list[str]:
        given = _flags_in(argv)
        try:
            path = _config_in(given) if said else None
            config = fields.load(path) if path else None
            if _HELPS & set(given):
                app.usage(shorthelp=True, writeto_stdout=True)
                if said:
                    path = path or os.path.join(_CONFIGS, f"{reference}.py")
                    print(f"\nfields of the config, here of {os.path.relpath(path)}:")
                    print("\n".join(fields.lines(fields.load(path), said)))
                print("\n--helpfull tells the flags of libraries too.")
                sys.exit(0)
            if config is not None:
                fields.check_names(config, given)
            return list(flags.FLAGS(argv))
        except (flags.Error, fields.ConfigError) as error:
            sys.exit(f"{error}{_HELP}")

    app.run(guarded, flags_parser=parse)


_CONFIGS = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "configs")
_HELPS = {"--help", "-help", "--helpshort", "-helpshort", "-h", "-?"}
_HELP = "\n--help tells the flags."


def _flags_in(argv: Sequence[str]) -> list[str]:
    return list(argv[1 : argv.index("--") if "--" in argv else None])


def _config_in(given: Sequence[str]) -> str | None:
    """What --config is, the last time that it is given."""
    found = None
    for place, text in enumerate(given):
        name, equals, value = text.lstrip("-").partition("=")
        if text.startswith("-") and name == "config":
            found = value if equals else "".join(given[place + 1 : place + 2])
    return found


def run(
    train: Callable[[ml_collections.ConfigDict, str], Any], said: Mapping[str, str], reference: str
) -> None:
    """Reads --config and --workdir, meets the other processes, and calls train(config, workdir).

    said, reference: as `start`.
    """
    config = config_flags.DEFINE_config_file(
        "config", None, "a file of configs/; its fields are flags: --config.num_steps=100.", lock_config=True
    )
    workdir = flags.DEFINE_string(
        "workdir", None, "folder of the run; default: runs/ and the name of the config."
    )
    flags.mark_flag_as_required("config")
    for module in (sys.modules[__name__], processes, profiling):
        _show(module)

    def main(argv: list[str]) -> None:
        if len(argv) > 1:
            raise app.UsageError(f"unexpected arguments {argv[1:]}.")

        def program() -> None:
            path = config_flags.get_config_filename(flags.FLAGS["config"])
            # configs/name.py:argument has a folder of its own for every argument.
            name = os.path.basename(path).replace(".py", "").replace(":", "_")
            processes.connect_by_flags()
            with fields_wanted(path, said):
                train(config.value, workdir.value or os.path.join("runs", name))

        without_traceback(program, "--config.batch_size")

    start(main, said, reference)


@contextlib.contextmanager
def fields_wanted(path: str, said: Mapping[str, str]) -> Iterator[None]:
    """Around what reads the config of a path: a field that it has not is the user's to mend.

    Raises:
        ConfigError: there is no such field.
    """
    try:
        yield
    except (AttributeError, KeyError) as error:
        missing = missing_field(error, said)
        if missing is None:
            raise
        raise fields.ConfigError(
            f"--config={path} has no field {missing!r}, which this program wants: it is of another program, "
            "or older than the field. --help tells the fields."
        ) from error


def missing_field(error: Exception, said: Mapping[str, str]) -> str | None:
    """The field that a config has not, by what ml_collections raised; None: it is another error.

    A name that no field has is misspelt in the program.
    """
    match = re.search(r"'(\w+)'", str(error))
    if match is None or not _module_of(error).startswith("ml_collections."):
        return None
    known = {part for name in said for part in name.split(".")}
    return match[1] if match[1] in known else None


def _show(module: ModuleType) -> None:
    """Has --help tell the flags of a module too."""
    for flag in flags.FLAGS.get_flags_for_module(module.__name__):
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)
