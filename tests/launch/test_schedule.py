"""Cycles read from a schedule that was written by hand, and programs that the TPU's compiler is given."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from launch import schedule

ROOT = pathlib.Path(__file__).parent.parent.parent

# A loop of five turns around a fusion, its twin outside, a sort, a gather, a kernel, and one without bundles.
PROGRAM = """\
HloModule jit_f, is_scheduled=true

%inner.1 (array.11: f32[8]) -> f32[8] {
  %array.11 = f32[8]{0} parameter(0)
  ROOT %add.1 = f32[8]{0} add(%array.11, %array.11)
}

%inner.2 (array.12: f32[8]) -> f32[8] {
  %array.12 = f32[8]{0} parameter(0)
  ROOT %add.2 = f32[8]{0} add(%array.12, %array.12)
}

%inner.3 (array.13: f32[8]) -> f32[8] {
  %array.13 = f32[8]{0} parameter(0)
  ROOT %multiply.3 = f32[8]{0} multiply(%array.13, %array.13)
}

%inner.4 (array.14: f32[8]) -> f32[8] {
  %array.14 = f32[8]{0} parameter(0)
  ROOT %subtract.4 = f32[8]{0} subtract(%array.14, %array.14)
}

%body.1 (state.1: (s32[], f32[8])) -> (s32[], f32[8]) {
  %state.1 = (s32[], f32[8]{0}) parameter(0)
  %number.1 = s32[] get-tuple-element(%state.1), index=0
  %array.1 = f32[8]{0} get-tuple-element(%state.1), index=1
  %fusion.1 = f32[8]{0} fusion(%array.1), kind=kLoop, calls=%inner.1, metadata={op_name="while/add"}
  ROOT %tuple.1 = (s32[], f32[8]{0}) tuple(%number.1, %fusion.1)
}

%condition.1 (state.2: (s32[], f32[8])) -> pred[] {
  %state.2 = (s32[], f32[8]{0}) parameter(0)
  %number.2 = s32[] get-tuple-element(%state.2), index=0
  %constant.1 = s32[] constant(5)
  ROOT %less.1 = pred[] compare(%number.2, %constant.1), direction=LT
}

ENTRY %main.1 (argument.1: f32[8]) -> f32[8] {
  %argument.1 = f32[8]{0} parameter(0)
  %zero.1 = s32[] constant(0)
  %tuple.2 = (s32[], f32[8]{0}) tuple(%zero.1, %argument.1)
  %while.1 = (s32[], f32[8]{0}) while(%tuple.2), condition=%condition.1, body=%body.1KNOWN
  %array.2 = f32[8]{0} get-tuple-element(%while.1), index=1
  %fusion.2 = f32[8]{0} fusion(%array.2), kind=kLoop, calls=%inner.2, metadata={op_name="add"}
  %sort.1 = f32[8]{0} sort(%fusion.2), to_apply=%inner.1, backend_config={"estimated_cycles":"900"}
  %gather_fusion = f32[8]{0} fusion(%sort.1), kind=kLoop, calls=%inner.3, metadata={op_name="gather"}
  %attend.1 = f32[8]{0} custom-call(%gather_fusion), metadata={op_name="jit(f)/pallas_call"}
  ROOT %fusion.3 = f32[8]{0} fusion(%attend.1), kind=kLoop, calls=%inner.4, metadata={op_name="subtract"}
}
"""


def bundle(number, instruction="%s0 = smov 1", mark=":", regions=""):
    address = hex(number) if number else "0"
    return f"{address:>6}   {mark} {{ {instruction}  ;;  %9 = vnop }}{regions}"


def bundles(number):
    return [bundle(index) for index in range(number)]


def looped(before, inside, bound):
    """Bundles, and after them some that a loop turns: the last one jumps back."""
    lines = bundles(before)
    lines.append(bundle(before, mark="LB: >", regions=" /* Start region 7 */"))
    lines += [bundle(before + index, mark=": >") for index in range(1, inside - 2)]
    lines.append(bundle(before + inside - 2, f"%p9_p0 = scmp.lt.s32.totalorder %s1_s2, {bound}", ": >"))
    lines.append(bundle(before + inside - 1, "%8 = sbr.rel (%p9_p0) target = $region7", ": >"))
    return lines


def dump(folder, name, lines):
    (folder / f"1234-{name}-77-final_bundles.txt").write_text("\n".join(lines) + "\n")


@pytest.fixture
def found(tmp_path):
    dump(tmp_path, "fusion.1", bundles(20))
    dump(tmp_path, "sort.1", bundles(30))
    dump(tmp_path, "attend.1", [*looped(4, 3, 6), *bundles(2)])
    dump(tmp_path, "gather_fusion", looped(4, 3, "%s3_s4"))
    (tmp_path / "1235-fusion.3-77-schedule-analysis_final_bundles.txt").write_text("\n".join(bundles(9)))
    return schedule.read(PROGRAM.replace("KNOWN", ""), str(tmp_path), "v3")


def test_loops_count_as_often_as_they_turn(found):
    by_name = {operation.name: operation for operation in found.operations}
    assert by_name["fusion.1"].times == 5
    assert by_name["fusion.1"].cycles == 5 * 20
    # Inside an operation: four bundles before the loop, three inside, two after it.
    assert by_name["attend.1"].cycles == 4 + 3 * 6 + 2
    # Rows of a gather lie in eight pieces, and two stages more fill and empty the pipeline.
    assert by_name["gather_fusion"].cycles == 4 + 3 * 10


def test_a_known_count_of_turns_is_taken(tmp_path):
    dump(tmp_path, "fusion.1", bundles(20))
    known = ', backend_config={"known_trip_count":{"n":"3"}}'
    found = schedule.read(PROGRAM.replace("KNOWN", known), str(tmp_path), "v3")
    (fusion,) = (operation for operation in found.operations if operation.name == "fusion.1")
    assert (fusion.times, fusion.cycles) == (3, 60)


def test_an_operation_has_the_cycles_of_its_twin(found):
    (twin,) = (operation for operation in found.operations if operation.name == "fusion.2")
    assert twin.measured
    assert (twin.cycles, twin.times) == (20, 1)


def test_the_larger_of_bundles_and_the_estimate_counts(found):
    (sort,) = (operation for operation in found.operations if operation.name == "sort.1")
    assert sort.cycles == 900


def test_what_is_not_known_is_named(found):
    assert found.unknown == ["fusion.3"]


def test_sums_by_kind_and_by_source(found):
    kinds = found.kinds()
    assert set(kinds) == {"sort", "gather", "kernel", "rest"}
    assert kinds["sort"] == 900
    assert kinds["rest"] == 120
    assert sum(kinds.values()) == found.cycles
    assert found.within("while") == 100
    assert found.seconds == pytest.approx(found.cycles / 0.94e9)
    cycles = [operation.cycles for operation in found.operations]
    assert cycles == sorted(cycles, reverse=True)


@pytest.mark.slow
def test_programs_of_tpus_hold_kernels_and_no_scatters():
    """Attention and its gradients, by the compilers of four chips; about 8 minutes."""
    rows = programs_of_tpus("v3", "v4", "v5e", "v6e")
    assert len(rows) == 4 * 17 + 15
    failed = [row for row in rows if "error" in row]
    assert not failed, failed
    assert not [row for row in rows if row["scatters"]]
    # What kernels cannot do, numbers of 64 bits, XLA does.
    assert not [row for row in rows if bool(row["kernels"]) == (row["dtype"] == "float64")]


@pytest.mark.slow
def test_cores_of_an_automatic_mesh_exchange_nothing():
    rows = programs_of_tpus("--sharded", "v5e")
    assert len(rows) == 4 * 2
    assert not [row for row in rows if row["exchanges"]], rows


def programs_of_tpus(*arguments):
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    environment |= schedule.environment("")
    # No schedules are wanted, and programs of devices that are not there cannot be read again.
    environment |= {"LIBTPU_INIT_ARGS": "", "JAX_ENABLE_COMPILATION_CACHE": "0"}
    command = [sys.executable, "-m", "tests.launch.tpu_programs", *arguments]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    return [json.loads(line) for line in result.stdout.splitlines()]
