"""Cycles of a program on one TPU core, read from the TPU compiler's final schedule; no TPU is needed.

    folder = tempfile.mkdtemp()
    os.environ |= schedule.environment(folder)    # before jax is imported
    ...
    found = schedule.read(compiled.as_text(), folder, "v3")

The compiler writes the instruction bundles of every operation, one bundle a cycle. Of each operation counts
the larger of its bundles, each as often as the loops around it turn, and of the compiler's own estimate,
which knows the bandwidth of memory. Operations that are alike are compiled once: the others have the cycles
of that one. Left out: waiting for memory inside gathers, sorts and kernels, and starting an operation.
"""

import pathlib
import re
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

# Of a core, Hz.
CLOCK = {"v2": 0.70e9, "v3": 0.94e9, "v4": 1.05e9, "v5e": 1.5e9, "v5p": 1.75e9, "v6e": 1.75e9}
# Rows of a gather or scatter lie in 8 pieces, whose loop has no constant bound and two stages more.
_PIECES = 10


def environment(folder: str) -> dict[str, str]:
    """Variables that have the compiler run without a TPU and write its schedules into a folder."""
    return {
        "JAX_PLATFORMS": "cpu",
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "TPU_STDERR_LOG_LEVEL": "3",
        "TPU_MIN_LOG_LEVEL": "3",
        # Without the last flag it writes what each of its passes makes: 26 GB of a training step.
        "LIBTPU_INIT_ARGS": (
            f"--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true "
            "--xla_jf_dump_llo_pass_label_regex=final_bundles"
        ),
    }


class Operation(NamedTuple):
    """One operation of a program.

    cycles: in all, of as many `times` as it runs.
    source: where in the traced program it comes from.
    measured: its cycles are known; else they count as 0.
    """

    name: str
    cycles: int
    times: int
    source: str
    measured: bool

    @property
    def kind(self) -> str:
        """sort, gather, scatter, kernel, or rest."""
        for kind in ("sort", "gather", "scatter"):
            if re.match(rf"{kind}(_|\.|$)", self.name):
                return kind
        return "kernel" if self.source.endswith("pallas_call") else "rest"


class Schedule(NamedTuple):
    """All operations of a program, the dearest first, on a chip such as v3."""

    operations: list[Operation]
    chip: str

    @property
    def cycles(self) -> int:
        return sum(operation.cycles for operation in self.operations)

    @property
    def seconds(self) -> float:
        return self.cycles / CLOCK[self.chip]

    @property
    def unknown(self) -> list[str]:
        """Operations that may matter and whose cycles are not known."""
        return [operation.name for operation in self.operations if not operation.measured]

    def kinds(self) -> Counter[str]:
        """Cycles by kind."""
        found: Counter[str] = Counter()
        for operation in self.operations:
            found[operation.kind] += operation.cycles
        return found

    def within(self, text: str) -> int:
        """Cycles of operations whose source holds a text."""
        return sum(operation.cycles for operation in self.operations if text in operation.source)


def read(program: str, folder: str, chip: str) -> Schedule:
    """The schedule of a compiled program's text, whose dumps lie in a folder."""
    scheduled = {}
    for path in pathlib.Path(folder).glob("*-final_bundles.txt"):
        of = re.match(r"\d+-(.*)-\d+-final_bundles\.txt", path.name)
        if of and "schedule-analysis" not in path.name:
            pieces = _PIECES if re.search("gather|scatter", of.group(1)) else 1
            scheduled[of.group(1)] = _bundles(path.read_text(), pieces)
    # What kernels say of themselves may have several lines.
    program = re.sub(r"frontend_attributes=\{kernel_metadata=\{.*?\}\}(, )?", "", program, flags=re.S)
    computations, entry = _parsed(program)
    twins: dict[str, int] = {}
    for lines in computations.values():
        for name, line in lines.items():
            if name in scheduled:
                twins.setdefault(_fingerprint(computations, lines, line), scheduled[name])
    operations = []
    for operation, line, lines, times in _run(computations, entry, 1):
        estimate = re.search(r'"estimated_cycles":"(\d+)"', line)
        source = re.search(r'op_name="([^"]*)"', line)
        bundles = scheduled.get(operation)
        if bundles is None:
            bundles = twins.get(_fingerprint(computations, lines, line))
        cycles = max(bundles or 0, int(estimate.group(1)) if estimate else 0)
        known = bundles is not None or estimate is not None or not re.search(_WORK, line)
        operations.append(
            Operation(operation, times * cycles, times, source.group(1) if source else "", known)
        )
    return Schedule(sorted(operations, key=lambda operation: -operation.cycles), chip)


# What takes time, beside what only names or moves arrays.
_WORK = r" (fusion|sort|scatter|gather|custom-call|dot|convolution|while)\("


def _bundles(text: str, pieces: int) -> int:
    """Bundles of a schedule, in loops as often as they turn; `pieces` times where that is not known."""
    bundles = 0
    starts: dict[str, int] = {}
    bounds: dict[str, str] = {}
    loops: list[tuple[int, int, int]] = []
    for line in text.splitlines():
        bundle = re.match(r"^\s*(?:0x[0-9a-f]+|0)\s+(?:[A-Z]{2}:)?\s*:?\s*(?:> ?)*\s*\{", line)
        bundles += bundle is not None
        if bundles:
            for region in re.findall(r"Start region (\d+)", line):
                starts.setdefault(region, bundles)
        for name, bound in re.findall(r"%(p\d+)(?:_p\d+)? = scmp\.\w+\.s32\.totalorder [^,]+, (\S+)", line):
            bounds[name] = bound
        for name, region in re.findall(r"sbr\.rel \(!?%(p\d+)(?:_p\d+)?\) target = \$region(\d+)", line):
            if starts.get(region, bundles + 1) <= bundles:
                bound = bounds.get(name, "")
                loops.append((starts[region], bundles, int(bound) if bound.isdigit() else pieces))
    counts = [1] * (bundles + 1)
    for start, end, count in loops:
        for bundle_number in range(start, end + 1):
            counts[bundle_number] *= count
    return sum(counts[1:])


_Lines = dict[str, str]


def _parsed(program: str) -> tuple[dict[str, _Lines], str]:
    """The operations of each computation, by their names, and the first computation."""
    computations: dict[str, _Lines] = {}
    lines: _Lines | None = None
    entry = ""
    for line in program.splitlines():
        begins = re.match(r"^(ENTRY )?%?([\w.\-<>]+) \(", line)
        if begins:
            lines = computations[begins.group(2)] = {}
            entry = begins.group(2) if begins.group(1) else entry
        elif line.startswith("}"):
            lines = None
        elif lines is not None and " = " in line:
            name, right = line.strip().removeprefix("ROOT ").split(" = ", 1)
            lines[name.lstrip("%")] = right
    return computations, entry


def _run(computations: dict[str, _Lines], name: str, times: int) -> Iterator[tuple[str, str, _Lines, int]]:
    """The operations that a computation runs, and how often."""
    lines = computations[name]
    for operation, line in lines.items():
        if re.search(r"\bwhile\(", line):
            body, condition = (_called(line, part) for part in ("body", "condition"))
            known = re.search(r'known_trip_count":\{"n":"(\d+)"', line)
            constants = [
                int(number)
                for of in computations[condition].values()
                for number in re.findall(r"constant\((\d+)\)", of)
            ]
            turns = int(known.group(1)) if known else max(constants, default=1)
            yield from _run(computations, body, times * turns)
        elif re.search(r"(?<![\w\-])call\(", line):
            yield from _run(computations, _called(line, "to_apply"), times)
        elif re.search(r"\bconditional\(", line):
            branches = re.search(r"branch_computations=\{([^}]*)\}", line)
            names = (
                branches.group(1).split(", ")
                if branches
                else [_called(line, f"{of}_computation") for of in ("true", "false")]
            )
            for branch in names:
                yield from _run(computations, branch.lstrip("%"), times)
        else:
            yield operation, line, lines, times


def _called(line: str, role: str) -> str:
    found = re.search(rf"{role}=%?([\w.\-<>]+)", line)
    assert found is not None, line
    return found.group(1)


def _fingerprint(computations: dict[str, _Lines], lines: _Lines, line: str, depth: int = 0) -> str:
    """What an operation is, without names: alike for operations that are compiled alike."""
    line = re.sub(r"metadata=\{[^}]*\}", "", line)
    line = re.sub(r'"used_scoped_memory_configs":\[[^\]]*\]', "", line)
    called = re.findall(r"(?:calls|to_apply)=%?([\w.\-<>]+)", line)
    line = re.sub(r"(?:calls|to_apply)=%?[\w.\-<>]+", "", line)

    def kind(found: re.Match[str]) -> str:
        of = lines.get(found.group(1))
        return "%" if of is None else of.split(" ", 1)[0]

    line = re.sub(r"%([\w.\-<>]+)", kind, line)
    for name in called:
        inner = computations.get(name, {})
        numbers = {of: str(index) for index, of in enumerate(inner)}
        for of, right in inner.items():
            operands = ",".join(
                numbers.get(operand, "")
                for operand in re.findall(r"%([\w.\-<>]+)", right.split(", metadata=")[0])
            )
            line += f";{numbers[of]}={operands}:{_fingerprint(computations, inner, right, depth + 1)}"
    return line
