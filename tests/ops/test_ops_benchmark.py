import json
import runpy
from pathlib import Path

import pytest

from benchmarks import loops
from benchmarks.ops import loops_table
from tokenprune import ops

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "ops.py"


def test_the_benchmark_measures_every_operation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main = runpy.run_path(str(SCRIPT), run_name="ops_benchmark")["main"]
    out = tmp_path / "records" / "ops.json"
    options = ["--site", "clip-l14-336", "--batch", "1", "--seconds", "0.001", "--out", str(out)]
    record = main(options)
    assert json.loads(out.read_text()) == record
    assert {row["op"] for row in record["rows"]} == {choice.op for choice in ops.explain()}
    assert all(row["reference"] > 0 for row in record["rows"])
    assert "attention_received" in capsys.readouterr().out


def test_the_loops_and_the_operations_pick_alike() -> None:
    rows = loops.measure([(50, 7)], rounds=2, least=0.0)
    assert {row["op"] for row in rows} == {
        "max_min_select", "dpp_select", "coverage_select", "cluster_dpc"
    }  # fmt: skip
    for row in rows:
        assert row["same"], row["op"]
        assert row["quartiles"][0] <= row["ratio"] <= row["quartiles"][1]
    assert loops_table(rows).row_count == 4
