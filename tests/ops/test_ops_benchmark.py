import json
import runpy
from pathlib import Path

import pytest

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
