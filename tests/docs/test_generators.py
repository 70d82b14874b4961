"""The generated pages: complete, and honest about records that are missing."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import typer

from tokenprune.cli.app import app
from tokenprune.plugins.host import host

ENVIRONMENT = {"threads": 2, "processor": "a processor", "packages": {"torch": "2.15.0"}}


def write(folder: Path, name: str, record: dict[str, Any]) -> None:
    (folder / name).write_text(json.dumps({"environment": ENVIRONMENT, **record}))


def interval(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.1, "high": value + 0.1}


def compared(name: str, **changes: Any) -> dict[str, Any]:
    row = {
        "name": name, "keep": "32", "meaning": "tokens handed to the LLM", "group": "plans",
        "positions": "original", "accuracy": interval(0.5), "retention": interval(0.625),
        "agreement": 0.75, "tokens": {"encoder": 196.0, "llm": 32.0}, "flops_ratio": 0.33,
        "time": {"encode": 1.0, "select": None}, "total": interval(0.81), "marks": ["slower"],
    }  # fmt: skip
    return {**row, **changes}


def test_every_missing_record_says_which_command_makes_it(
    benchmarks: ModuleType, tmp_path: Path
) -> None:
    page = benchmarks.benchmarks(tmp_path)
    for section in benchmarks.SECTIONS:
        assert f"makes `{section.file}`" in page
        assert section.command in page


def test_a_comparison_shows_its_rows_and_its_failures(
    benchmarks: ModuleType, tmp_path: Path
) -> None:
    record = {
        "created": "2026-01-02",
        "task": {"name": "questions", "samples": 300, "images": 290},
        "model": {"name": "tiny", "dtype": "float32", "device": "cpu"},
        "dense": compared("dense", keep="all", meaning="", marks=[]),
        "results": [compared("fopru"), compared("random", positions="compact", group="again")],
        "failures": ["a count isn't the plan's"],
    }
    write(tmp_path, "comparison.json", record)
    page = benchmarks.benchmarks(tmp_path)
    row = "| 32 | 50.0 | 62.5 [52.5 72.5] | 75.0 | 196 | 32 | 0.33 | 1.00 | 0.81 | slower |"
    assert f"| fopru {row}" in page
    assert f"| random, compact {row}" in page
    assert page.count("| dense | all |") == 2, "once in each group"
    assert "300 samples of 290 images" in page
    assert "a count isn't the plan's" in page
    assert "Record: a processor, 2 threads, torch 2.15.0, 2026-01-02." in page


def test_own_budgets_and_what_can_be_read_are_shown(benchmarks: ModuleType, tmp_path: Path) -> None:
    own = compared(
        "knee", keep="own", lengths={"least": 4.0, "middle": 6.0, "most": 9.5},
        probe={"projector": interval(0.75)},
    )  # fmt: skip
    record = {
        "task": {"name": "questions", "samples": 3, "images": 3},
        "model": {"name": "tiny", "dtype": "float32", "device": "cpu"},
        "dense": compared("dense", keep="all", marks=[]),
        "results": [own],
        "probe": {"projector": {"full": 0.7, "null": 0.2}},
        "failures": [],
    }
    write(tmp_path, "comparison.json", record)
    page = benchmarks.benchmarks(tmp_path)
    assert "4 to 9.5 tokens, median 6; slower" in page
    assert "| plan | keep | projector |" in page
    assert "| knee | own | 75.0 |" in page


def test_times_of_encoders_and_operations(benchmarks: ModuleType, tmp_path: Path) -> None:
    encoder = {
        "encoder": "vit", "patches": 196, "batch": 8, "strategy": "tome", "kept": 64.0,
        "speedup": 1.5, "speedup_range": [1.4, 1.6], "flops_ratio": 1.75, "achieved": 0.857,
        "select_share": 0.031,
    }  # fmt: skip
    failed = {**encoder, "compiled": True, "failed": "no code"}
    compiled = {**encoder, "compiled": True, "graphs": [1, 3], "select_share": None}
    write(tmp_path, "encoders.json", {"rows": [encoder, compiled, failed]})
    op = {"site": "vit", "batch": 1, "op": "topk_gather", "device": "cpu", "reference": 0.002}
    write(tmp_path, "ops.json", {"rows": [{**op, "triton": None}, {**op, "triton": 0.001}]})
    page = benchmarks.benchmarks(tmp_path)
    assert "| vit | 8 | tome | 64 of 196 | 1.50 | 1.40 to 1.60 | 1.75 | 0.86 | 3.1% |" in page
    name = "| vit | 8 | tome, compiled"
    assert f"{name} (3 graphs) | 64 of 196 | 1.50 | 1.40 to 1.60 | 1.75 | 0.86 | - |" in page
    assert f"{name} | 64 of 196 | failed | no code | 1.75 | - | - |" in page
    assert "| vit | 1 | `topk_gather` | cpu | 2.000 | - | - |" in page
    assert "| vit | 1 | `topk_gather` | cpu | 2.000 | 1.000 | 2.00 |" in page


def test_decoding_by_prompt_and_cache(benchmarks: ModuleType, tmp_path: Path) -> None:
    head = {"images": 1, "prompt": 609, "cache": "static"}
    rows = [
        {**head, "strategy": "dense", "seconds": 0.004, "graphs": 1},
        {**head, "strategy": "fopru", "seconds": 0.002, "graphs": 2},
    ]
    write(tmp_path, "decoding.json", {"rounds": 3, "environment": ENVIRONMENT, "rows": rows})
    assert "| 1 | 609 | static | 2 | 4.00 | 2.00 |" in benchmarks.benchmarks(tmp_path)


def test_growth_by_pictures_and_by_tokens(benchmarks: ModuleType, tmp_path: Path) -> None:
    head = {"model": "llava", "strategy": "tome", "at": "encoder"}
    images = [
        {**head, "images": n, "seconds": n / 100, "operations": 7 * n, "call_seconds": 1.0}
        for n in (1, 4)
    ]
    op = {"op": "knn_density", "picks_by": "-", "picks": 0}
    tokens = [{**op, "tokens": n, "seconds": n / 1000, "flops": n} for n in (10, 20)]
    noise = {"op": "max_min_select", "picks_by": "a further pick", "picks": 1}
    tokens += [
        {**noise, "tokens": n, "seconds": took, "flops": n} for n, took in ((10, 1e-5), (20, -1e-9))
    ]
    slope = {"exponent": 1.02, "tail": 0.98}
    level = {"exponent": -0.001, "tail": -0.004}
    record = {
        "rounds": 3, "load": 0.25, "picks": 8, "ratio": 8, "heads": 2,
        "environment": {**ENVIRONMENT, "cores": 2},
        "images": images, "tokens": tokens, "attention_flops": {"10": 40, "20": 80},
        "images_exponents": [{**head, "of": of, **slope} for of in ("seconds", "operations")],
        "tokens_exponents": [
            {**op, **slope, "nature": 2, "why": "all pairs"},
            {**noise, **level, "nature": 1, "why": "a row"},
        ],
    }  # fmt: skip
    write(tmp_path, "growth.json", record)
    page = benchmarks.benchmarks(tmp_path)
    assert "| llava | tome (encoder) | ms | 10.0 | 40.0 | 1.02 | 0.98 |" in page
    assert "| llava | tome (encoder) | operations | 7 | 28 | 1.02 | 0.98 |" in page
    row = "| all pairs | 10.00 | 20.00 | 0.250 | 1.02 | 0.98 | 2 |"
    assert f"| `knn_density` | - {row}" in page
    row = "| a row | 0.01 | - | 0.250 | 0.00 | 0.00 | 1 |"
    assert f"| `max_min_select` | a further pick {row}" in page


def test_defaults_report_the_half_that_was_not_chosen_on(
    benchmarks: ModuleType, tmp_path: Path
) -> None:
    found = {
        half: {"accuracy": share, "samples": 50}
        for half, share in (("choose", 0.7), ("report", 0.6))
    }
    rows = {"dense": {"all": found}, "K 4": {"98": found, "49": found}}
    write(tmp_path, "defaults-pictures.json", {"samples": 100, "rows": rows})
    page = benchmarks.benchmarks(tmp_path)
    assert "| variant | 98 | 49 |" in page
    assert "100 samples, 50 of them reported. Dense: 60.0 (70.0)" in page
    assert "| K 4 | 60.0 (70.0) | 60.0 (70.0) |" in page


def test_every_command_and_option_is_on_the_page(generate: ModuleType, tmp_path: Path) -> None:
    assert generate.main(["command-line"], tmp_path) == 0
    page = (tmp_path / "command-line.md").read_text()
    group: Any = typer.main.get_command(app)
    assert {"compare", "show", "list", "describe", "doctor"} <= set(group.commands)
    commands = dict(group.commands)
    vllm = commands.pop("vllm")
    commands |= {f"vllm {name}": command for name, command in vllm.commands.items()}
    for name, command in commands.items():
        section = page.split(f"\n## {name}\n")[1].split("\n## ")[0]
        for param in command.params:
            assert param.param_type_name == "argument" or f"`{param.opts[0]}`" in section
            assert (param.help or "") in section


def test_all_writes_every_page(generate: ModuleType, tmp_path: Path) -> None:
    assert generate.main(["all"], tmp_path) == 0
    assert generate.main(["all", "--check"], tmp_path) == 0
    assert all((tmp_path / file).exists() for file, _ in generate.PAGES.values())
    table = (tmp_path / "strategies" / "index.md").read_text()
    for name, kind in host().strategies.items():
        assert f"| [`{name}`]({name}.md) | {kind.about.summary} |" in table


def test_loops_show_their_ratio_and_how_busy_the_machine_was(
    benchmarks: ModuleType, tmp_path: Path
) -> None:
    row = {"op": "dpp_select", "tokens": 576, "picks": 64, "loop": 0.01, "fast": 0.02}
    row |= {"ratio": 0.5, "quartiles": [0.4, 0.7], "same": True}
    environment = {"processor": "p", "cores": 2, "threads": 1, "accelerator": None, "packages": {}}
    record = {"environment": environment, "load": 7.31, "rows": [row]}
    write(tmp_path, "ops-loops.json", record)
    page = benchmarks.benchmarks(tmp_path)
    assert "| `dpp_select` | 64 of 576 | yes | 10.0 | 20.0 | 0.5 | 0.4 to 0.7 |" in page
    assert "7.3 processes on average wanted one of the 2 cores" in page


def test_a_gpu_record_says_what_was_refused_and_left_out(
    benchmarks: ModuleType, tmp_path: Path
) -> None:
    row = {"tower": "t", "batch": 8, "mode": "eager", "strategy": "dense", "seconds": 0.0125}
    tome = row | {"strategy": "tome", "seconds": 0.01}
    counted = {"launches": 321, "kernel_seconds": 0.0042}
    answer = {"model": "m", "images": 1, "strategy": "dense", "seconds": 0.5}
    kernel = {"op": "best_last", "tokens": 37, "dtype": "torch.bfloat16", "triton": "ran"}
    tried = {"kernel": "gram x2", "sizes": {"BLOCK": 64}, "seconds": 4e-5}
    record = {
        "kernels": [kernel | {"same": 1.0}, kernel | {"op": "merge_step", "difference": 0.25}],
        "launches": [tried, tried | {"sizes": {}, "seconds": None}],
        "towers": [row | counted, tome, tome | {"mode": "recorded"}],
        "first_token": [answer, {"model": "m", "strategy": "fopru", "refused": "no such place."}],
        "operations": [{"site": "s", "batch": 1, "op": "o", "reference": 4e-3, "triton": 2e-3}],
        "left_out": ["t, batch 32, eager"],
        "failed": [{"what": "t, batch 1, graphs", "error": "RuntimeError: no"}],
    }
    write(tmp_path, "gpu.json", record)
    page = benchmarks.benchmarks(tmp_path)
    assert "2 operations with features in bfloat16 at 37 tokens: 100.0% of all indices" in page
    assert "the largest difference of a number is 0.25 (`merge_step`)" in page
    assert "| t | 8 | eager | 12.50 | 1.25 |" in page
    assert "| t | 8 | CUDA graph | - | - |" in page
    assert "| t | 8 | 321 (4.20) | - |" in page
    assert "| m | 1 | eager | 500.0 |" in page
    assert "| s | 1 | `o` | 4.000 | 2.000 | 2.00 |" in page
    assert "| `gram x2` | BLOCK 64 | 40.0 |" in page
    assert "| `gram x2` | its own | - |" in page
    assert "Failed: t, batch 1, graphs (RuntimeError: no)." in page
    assert "Refused: no such place." in page
    assert "No time was left for: t, batch 32, eager." in page


def test_compiled_towers_are_compared_with_dense_of_their_mode(
    benchmarks: ModuleType, tmp_path: Path
) -> None:
    row = {"tower": "t", "batch": 1, "mode": "graphs", "strategy": "dense", "seconds": 0.004}
    tome = row | {"strategy": "tome", "seconds": 0.005, "gpu_seconds": 0.002}
    towers = [
        row | {"gpu_seconds": 0.003},
        tome,
        row | {"mode": "compiled", "seconds": 0.008},
        tome | {"mode": "compiled", "seconds": 0.004, "gpu_seconds": None},
        tome | {"strategy": "evoprune", "batch": 8},
    ]
    answer = {"model": "m", "images": 1, "strategy": "dense, tower compiled", "seconds": 0.5}
    record: dict[str, Any] = {
        "towers": towers,
        "first_token": [answer, answer | {"strategy": "tome, tower compiled", "seconds": 0.4}],
        "left_out": [],
    }
    write(tmp_path, "gpu.json", record)
    page = benchmarks.benchmarks(tmp_path)
    assert "Batch 1:\n\n| tower | mode | dense, ms | tome | evoprune |" in page
    assert "| t | CUDA graphs | 4.00 (3.00) | 0.80 (1.50) | - |" in page
    assert "| t | compiled | 8.00 | 2.00 | - |" in page
    assert "Batch 8:" in page
    assert (
        "Slower than dense that is compiled are 1 of 2 rows:\n\n"
        "- t, batch 1, CUDA graphs: tome 0.80"
    ) in page
    assert "| m | 1 | CUDA graphs | 500.0 | 400.0 (1.25) |" in page
    write(tmp_path, "gpu.json", {**record, "towers": towers[2:4]})
    assert "Slower than dense that is compiled are 0 of 1 rows." in benchmarks.benchmarks(tmp_path)
