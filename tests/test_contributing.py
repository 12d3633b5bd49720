"""The method that CONTRIBUTING.md adds keeps every promise, as it says there."""

import pathlib

import pytest

from tests.smyrf_jax.promises.problems import ONE_CLUSTER, SMALL
from tests.smyrf_jax.test_promises import PROMISES
from tests.test_documents import blocks_of

PAGE = pathlib.Path(__file__).parents[1] / "CONTRIBUTING.md"


@pytest.fixture(scope="module")
def method():
    """The class of the page's first Python block."""
    names = {"__name__": "projected"}
    exec(next(block.text for block in blocks_of(PAGE) if block.language == "python"), names)
    return names["Projected"]


@pytest.mark.parametrize("promise", PROMISES)
def test_the_method_keeps_every_promise_but_one(method, promise, monkeypatch):
    monkeypatch.setitem(SMALL, "projected", method(8))
    monkeypatch.setitem(ONE_CLUSTER, "projected", method(64))
    if promise == "no_later_token_matters":
        with pytest.raises(ValueError, match="clusters_see_future=True"):
            PROMISES[promise]("projected")
    else:
        PROMISES[promise]("projected")
