"""What every method is: settings that cluster, cost and run."""

import abc
import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Key

from smyrf_jax.budget import Budget, Cost, Problem
from smyrf_jax.checks import check_arguments, rng_of
from smyrf_jax.clustered import attend_in_clusters
from smyrf_jax.clustering import Clustering
from smyrf_jax.far_field import FarField
from smyrf_jax.padding import without_masked
from smyrf_jax.rows import repeat_heads

M = TypeVar("M", bound="Method")


@dataclasses.dataclass(frozen=True)
class Method(abc.ABC):
    """An attention and its settings: a frozen dataclass, hashable, with defaults.

    One of your own defines `attend` (or, of the kind `Clustered`, `parts`), and `cost_of` and `sizes` if it
    is to be budgeted, and `prefill_cache` and `decode_step` if it can be causal token by token. `attention`,
    `cost`, `for_budget`, `clustering` and `decoding` check arguments and call them.
    """

    @abc.abstractmethod
    def attend(
        self,
        query: Array,
        key: Array,
        value: Array,
        mask: Array | None,
        *,
        rng: Array,
        scale: float | Array,
        is_causal: bool,
        query_mask: Array | None = None,
    ) -> tuple[Array, Array]:
        """Output [*B, T, N, V] and logsumexp [*B, T, N] for arguments that `attention` has checked.

        Query, key and value are zero where they are masked, and the scale is not negative. query_mask is
        handed over only where it is not None; what comes out for the queries that it hides does not matter.
        If is_causal, no output may depend on a later token: raise ValueError where that cannot be kept.
        """

    def prefill_cache(
        self, key: Array, value: Array, *, length: int, scale: float | Array, rng: Array
    ) -> Any:
        """What `decode_step` is to know of a prompt [*B, T, M, D] and [*B, T, M, V], T <= length.

        A pytree of arrays, whose shapes depend on `length` and not on T: the tokens, prompt and all, that it
        has room for. `decoding.prefill` has checked the arguments and computes the output by `attend`.

        Raises:
            ValueError: it cannot decode.
        """
        raise ValueError(
            f"{type(self).__name__} cannot decode token by token: take Dense, Local or CausalCanopy."
        )

    def decode_step(
        self,
        query: Array,
        key: Array,
        value: Array,
        state: Any,
        *,
        place: Array,
        scale: float | Array,
        rng: Array,
    ) -> tuple[Array, Any]:
        """Output [*B, 1, N, V] of a token at its place, and the state of `prefill_cache` with it.

        The same, up to rounding, as `attend` with is_causal gives that token among all. place: int32, how
        many tokens came before; what is done with one past the room does not matter. The scale is not
        negative, and rng is that of `prefill_cache`.
        """
        raise ValueError(
            f"{type(self).__name__} cannot decode token by token: take Dense, Local or CausalCanopy."
        )

    def cost_of(self, problem: Problem) -> Cost:
        """What it costs."""
        raise NotImplementedError(f"{type(self).__name__} does not know its cost.")

    @classmethod
    def sizes(cls, problem: Problem, fields: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The fields that a budget decides, the most expensive first. fields: what is fixed."""
        raise NotImplementedError(f"{cls.__name__} does not know its cost.")

    @classmethod
    def within(cls: type[M], budget: Budget, problem: Problem, fields: dict[str, Any]) -> M:
        """The best settings that a budget allows: the first of `sizes`. fields: what is fixed."""
        found = (cls(**(size | fields)) for size in cls.sizes(problem, fields))
        return budget.first(found, lambda method: method.cost_of(problem))

    def clustering(
        self,
        query: Float[Array, "*B T N D"],
        key: Float[Array, "*B S M D"],
        mask: Bool[Array, "*#B #N 1 S"] | None = None,
        *,
        rng: Key[Array, ""] | None = None,
        query_mask: Bool[Array, "*#B #N 1 T"] | None = None,
    ) -> Clustering:
        """The clusters in which it attends; masks and rng as for `attention`.

        Raises:
            ValueError: it has none, or shapes do not fit.
        """
        raise ValueError(f"{type(self).__name__} has no clusters.")

    def cost(
        self,
        num_queries: int,
        num_keys: int,
        *,
        width: int = 64,
        value_width: int | None = None,
        heads: int = 1,
        batch: int = 1,
        dtype: Any = np.float32,
        lanes: int = 1,
        is_causal: bool = False,
    ) -> Cost:
        """What it costs beside dense attention, in pairs and memory.

        Args:
            num_queries: T.
            num_keys: S.
            width: D. It and what follows matter to the memory alone.
            value_width: V; None means D.
            heads: N.
            batch: of one device.
            dtype: of query, key and value.
            lanes: the last axis takes the memory of a multiple of so many numbers: 1 on CPUs, 128 on TPUs.
            is_causal: query i sees key j <= i only; pairs are a part of those.

        Raises:
            ValueError: a number is not positive.
        """
        sizes = num_queries, num_keys, width, value_width, heads, batch
        return self.cost_of(Problem(*sizes, dtype, lanes, is_causal))

    @classmethod
    def for_budget(
        cls: type[M],
        num_queries: int,
        num_keys: int,
        *,
        pairs: float | None = None,
        memory: float | None = None,
        width: int = 64,
        value_width: int | None = None,
        heads: int = 1,
        batch: int = 1,
        dtype: Any = np.float32,
        lanes: int = 1,
        is_causal: bool = False,
        **fields: Any,
    ) -> M:
        """The method with the largest clusters (windows, features) whose cost stays within a budget.

        Give a part of dense attention's pairs, of its memory, or both (`budget.Budget`).

        Args:
            num_queries: T.
            num_keys: S.
            pairs: of T * S; if is_causal, of the pairs j <= i.
            memory: of dense attention's.
            width, value_width, heads, batch, dtype, lanes, is_causal: as in `cost`.
            **fields: of the method, that are fixed, such as num_hashes=2.

        Raises:
            ValueError: neither budget is given or one is not positive, a field is unknown, or nothing is
                within the budget; the message says what the least costs.
        """
        sizes = num_queries, num_keys, width, value_width, heads, batch
        problem = Problem(*sizes, dtype, lanes, is_causal)
        check_fields(cls, fields)
        return cls.within(Budget(pairs, memory), problem, fields)


def check_fields(method: type[Method], fields: dict[str, Any]) -> None:
    """Raises ValueError unless the method has all these fields."""
    known = [field.name for field in dataclasses.fields(method)]
    unknown = sorted(fields.keys() - set(known))
    if unknown:
        raise ValueError(f"{method.__name__} has no fields {unknown}; it has {known}.")


class Parts(NamedTuple):
    """What a clustered attention is made of.

    Attributes:
        far_field: the estimate of what lies outside the clusters; None: it does not count.
        deduplicate: each key counts once, in however many rounds it is met; with a far field it does anyway.
        window: keys that a query sees, where that is a local window.
        complete: the clusters of the first round hold every key that is kept, and masked keys have no slot.
    """

    clustering: Clustering
    far_field: FarField | None = None
    deduplicate: bool = False
    window: int | None = None
    complete: bool = False


@dataclasses.dataclass(frozen=True)
class Clustered(Method):
    """A method that attends inside clusters: `parts` says in which, and what counts outside."""

    @abc.abstractmethod
    def parts(
        self, query: Array, key: Array, mask: Array | None, rng: Array, query_mask: Array | None = None
    ) -> Parts:
        """What it attends with. query and key have as many heads, and come without gradients.

        query_mask is handed over only where it is not None: its queries take no slots.
        """

    def check_causal(self, num_queries: int) -> None:
        """Raises ValueError if its clusters of so many queries depend on later tokens."""

    @classmethod
    def sizes(cls, problem: Problem, fields: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """A budget decides cluster_size, if nothing else is said."""
        return ({"cluster_size": size} for size in problem.cluster_sizes())

    def attend(
        self,
        query: Array,
        key: Array,
        value: Array,
        mask: Array | None,
        *,
        rng: Array,
        scale: float | Array,
        is_causal: bool,
        query_mask: Array | None = None,
        implementation: str | None = None,
    ) -> tuple[Array, Array]:
        """See `Method`. implementation: see `attention`."""
        parts = self.parts_for(query, key, mask, rng, query_mask)
        if parts.far_field is not None:
            parts.far_field.check(query.shape[-1], is_causal=is_causal, window=parts.window)
        if is_causal:
            self.check_causal(query.shape[-3])
        return attend_in_clusters(
            query,
            key,
            value,
            parts.clustering,
            mask,
            scale=scale,
            is_causal=is_causal,
            deduplicate=parts.deduplicate,
            window=parts.window,
            far_field=parts.far_field,
            complete=parts.complete,
            every_token=parts.complete and mask is None and query_mask is None,
            implementation=implementation,
        )

    def clustering(
        self,
        query: Float[Array, "*B T N D"],
        key: Float[Array, "*B S M D"],
        mask: Bool[Array, "*#B #N 1 S"] | None = None,
        *,
        rng: Key[Array, ""] | None = None,
        query_mask: Bool[Array, "*#B #N 1 T"] | None = None,
    ) -> Clustering:
        """See `Method`."""
        check_arguments(query, key, key, mask, query_mask)
        query, key, _ = without_masked(query, key, key, mask, query_mask)
        return self.parts_for(query, key, mask, rng_of(rng), query_mask).clustering

    def parts_for(
        self, query: Array, key: Array, mask: Array | None, rng: Array, query_mask: Array | None = None
    ) -> Parts:
        """The parts for arguments that have been checked, with as many or fewer key heads.

        query and key are zero where they are masked.
        """
        query, key = jax.lax.stop_gradient((query, key))
        options = {} if query_mask is None else {"query_mask": query_mask}
        return self.parts(query, repeat_heads(key, query.shape[-2]), mask, rng, **options)


class ContentBased(Clustered):
    """A clustered method whose clusters depend on what all tokens hold, later ones too.

    Attributes:
        clusters_see_future: a field of each: allow it to be causal all the same. Then no query sees a later
            key, but with which of the earlier ones it shares a cluster depends on all tokens: fine for texts
            that are given as a whole, wrong for training or sampling a model that predicts what comes next.
    """

    cluster_size: int
    clusters_see_future: bool

    def __repr__(self) -> str:
        """As of any dataclass, but for clusters_see_future, which is shown where it is set."""
        shown = [of.name for of in dataclasses.fields(self) if of.name != "clusters_see_future"]
        shown += ["clusters_see_future"] * self.clusters_see_future
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in shown)})"

    def check_causal(self, num_queries: int) -> None:
        """See `Clustered`. One cluster holds every token in any case."""
        if num_queries > self.cluster_size and not self.clusters_see_future:
            name = type(self).__name__
            raise ValueError(
                f"{name} cannot be causal: its clusters are cut from all tokens, so that what a query sees "
                "depends on later ones. Take Local, Performer, Scatterbrain(window=...) or Dense; or allow "
                f"it by {name}(clusters_see_future=True): later keys are hidden, but the clusters leak."
            )
