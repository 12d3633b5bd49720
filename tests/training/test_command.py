"""Commands end with a message where the user is at fault, and with a traceback where the program is."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from training.checkpoint import DamagedCheckpointError
from training.command import is_of_user, missing_field, without_traceback
from training.files import make_folder, path_of, say_if_replaced, tidied, write_whole


def raised(call):
    try:
        call()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def refuse(*_):
    raise ValueError("--num should be positive.")


def import_of(name):
    def call():
        __import__(name)

    return call


@pytest.mark.parametrize(
    "call",
    [
        refuse,
        lambda: jax.jit(refuse)(jnp.ones(3)),
        lambda: jax.eval_shape(jax.grad(refuse), jnp.ones(())),
        lambda: os.listdir("/none/such"),
        import_of("no_such_package_of_anyone"),
    ],
)
def test_what_the_user_can_mend(call):
    error = raised(call)
    assert is_of_user(error)
    with pytest.raises(SystemExit, match=r"\w"):
        without_traceback(call, "--batch_size")


def test_a_damaged_checkpoint_is_told():
    assert is_of_user(DamagedCheckpointError("checkpoint 3"))


@pytest.mark.parametrize(
    "call",
    [
        lambda: np.ones(3) + np.ones(4),  # a ValueError
        lambda: jnp.ones(3).reshape(2),
        lambda: int("x"),
        lambda: np.stack([]),
        lambda: {}["x"],
        lambda: None.x,
        import_of("training.no_such_module"),
    ],
)
def test_what_the_program_did_wrong_keeps_its_traceback(call):
    error = raised(call)
    assert not is_of_user(error)
    with pytest.raises(type(error)):
        without_traceback(call, "--batch_size")


def test_too_little_memory_names_what_the_command_has():
    def program():
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.\nMore.")

    with pytest.raises(SystemExit, match=r"too little memory: --lengths should be less. RESOURCE_EXHAUSTED"):
        without_traceback(program, "--lengths")


def test_a_failed_start_leaves_no_empty_folder(tmp_path):
    (tmp_path / "kept" / "before").mkdir(parents=True)

    def program():
        make_folder(path_of(str(tmp_path / "runs" / "mine" / "checkpoints")))
        make_folder(path_of(str(tmp_path / "kept" / "before")))
        make_folder(path_of(str(tmp_path / "kept" / "new")))
        write_whole(path_of(str(tmp_path / "full" / "deep" / "file")), b"x")
        make_folder(path_of(str(tmp_path / "full" / "empty")))
        refuse()

    with pytest.raises(SystemExit, match="--num"):
        without_traceback(program, "--batch_size")
    assert sorted(os.listdir(tmp_path)) == ["full", "kept"]
    assert os.listdir(tmp_path / "kept") == ["before"]
    assert os.listdir(tmp_path / "full") == ["deep"]


def test_what_has_worked_stays(tmp_path):
    with tidied():
        make_folder(path_of(str(tmp_path / "a" / "b")))
    assert (tmp_path / "a" / "b").is_dir()


def test_a_config_of_another_program_is_told():
    """Fields that a program wants and its config has not; what the program has misspelt is its own fault."""
    config, said = ConfigDict({"seed": 0}), {"batch_size": "", "data.path": ""}
    for call, field in (
        (lambda: config.batch_size, "batch_size"),
        (lambda: config["data"], "data"),
        (lambda: config.batchsize, None),
        (lambda: {}["data"], None),
        (lambda: None.data, None),
    ):
        assert missing_field(raised(call), said) == field


def test_what_is_replaced_is_told(tmp_path, capsys):
    path = tmp_path / "table.md"
    say_if_replaced(str(path))
    assert capsys.readouterr().out == ""
    path.write_text("rows")
    say_if_replaced(str(path))
    assert (
        capsys.readouterr().out == f"{path} is there already: it will be replaced. Another --out keeps it.\n"
    )
