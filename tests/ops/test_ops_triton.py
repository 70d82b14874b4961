"""Runs the Triton cases through the interpreter, which must be on before triton is imported."""

import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

triton = pytest.importorskip("triton")

TRITON, NUMPY = (tuple(map(int, module.__version__.split(".")[:2])) for module in (triton, np))
CASES = ("triton_cases.py", "triton_merge_cases.py", "triton_match_cases.py")


@pytest.mark.skipif(
    TRITON < (3, 7) and NUMPY >= (2, 4),
    reason="the interpreter of this triton can't read loop bounds with numpy 2.4",
)
def test_kernels_agree_with_the_reference() -> None:
    run_cases({"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"})


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_kernels_agree_with_the_reference_on_a_gpu() -> None:
    run_cases({"TRITON_CASES_DEVICE": "cuda"})


def run_cases(environment: dict[str, str]) -> None:
    """All of them in one process, as every process imports torch anew."""
    files = [str(Path(__file__).with_name(cases)) for cases in CASES]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


POINTERS = {
    "order_ptr": "*i64", "bound_ptr": "*i64", "index_ptr": "*i64", "slot_ptr": "*i64",
    "source_ptr": "*i64", "target_ptr": "*i64", "anchor_ptr": "*i64", "place_ptr": "*i64",
    "pick_ptr": "*i64", "rank_ptr": "*i32",
    "chosen_ptr": "*i8", "block_a_ptr": "*u8", "block_b_ptr": "*u8",
    "blocked_ptr": "*u8", "key_ptr": "*i64",
}  # fmt: skip
CONSTANTS = {
    "BLOCK_M": 32, "BLOCK_N": 64, "BLOCK_D": 64, "BLOCK_S": 32, "BLOCK": 64,
    "SQUASH": True, "COUNT": 5, "SLOTS": 8, "LOWEST": -3e38, "SPANNED": 1e-5,
    "WEIGHED": True, "BIASED": True, "LEAST": 1e-38, "BEST": 16, "EVEN": 8,
    "SPLITS": 3, "SETTLE": True,
}  # fmt: skip
SMALL = {"BLOCK_M": 16, "BLOCK_N": 32, "BLOCK_D": 32, "BLOCK_S": 16, "BLOCK": 32, "BEST": 8}
"""Blocks that compile in a third of the time: to see that a kernel compiles, not what it takes."""
NUMBERS = ("scale", "weight")
OPTIONS = ("order_ptr", "blocked_ptr", "scale", "weight")
MATCHES = [
    ("match_pairs", "_rank_kernel"), ("match_pairs.plain_triton", "_match_kernel"),
    ("match_pairs.gram_triton", "_gram_kernel"), ("match_pairs.diverse_triton", "_nearest_kernel"),
    ("match_pairs.diverse_triton", "_best_kernel"),
]  # fmt: skip
FEATURES = ("q_ptr", "k_ptr", "a_ptr", "b_ptr", "x_ptr", "matrix_ptr")
DOUBLES = ("old_rest_ptr", "new_rest_ptr", "factor_ptr")


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="kernels are interpreted")
@pytest.mark.parametrize(
    ("place", "kernel"),
    [
        ("attention_received", "_normaliser_kernel"), ("attention_received", "_column_kernel"),
        ("best_last", "_alone_kernel"),
        ("best_last", "_rank_kernel"), ("best_last", "_place_kernel"),
        ("bipartite_match", "_match_kernel"), ("knn_density", "_nearest_kernel"),
        ("max_min_select", "_step_kernel"), ("dpp_select", "_step_kernel"),
        ("coverage_select", "_step_kernel"),
        ("merge_compact", "_merge_kernel"), ("sum_compact", "_sum_kernel"),
        ("merge_slots", "_slots_kernel"), ("merge_step", "_merge_kernel"),
        ("received_from_lse", "_column_kernel"), ("received_from_lse", "_given_kernel"),
        ("keep_slots", "_slots_kernel"), ("keep_step", "_keep_kernel"),
        ("topk_gather", "_choose_kernel"), ("topk_gather", "_compact_kernel"),
        ("rows_triton", "_copy_kernel"), ("heads_triton", "_mean_kernel"), *MATCHES,
    ],
)  # fmt: skip
def test_kernels_compile_for_a_gpu_that_is_not_here(
    place: str, kernel: str, tmp_path: Path
) -> None:
    """The interpreter accepts programs that the compiler refuses; this needs no device."""
    assert compiled(place, kernel, "*fp32", tmp_path).metadata.shared <= 99 * 1024
    if {*FEATURES} & {*program_of(place, kernel).arg_names}:
        compiled(place, kernel, "*bf16", tmp_path, **SMALL)


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="kernels are interpreted")
@pytest.mark.parametrize(("place", "kernel"), MATCHES)
def test_matches_compile_without_their_options(place: str, kernel: str, tmp_path: Path) -> None:
    compiled(place, kernel, "*bf16", tmp_path, absent=OPTIONS, **SMALL)


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="kernels are interpreted")
def test_normalisers_compile_without_what_tokens_give(tmp_path: Path) -> None:
    place, absent = "attention_received", ("given_ptr",)
    compiled(place, "_normaliser_kernel", "*bf16", tmp_path, absent=absent, **SMALL)


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="kernels are interpreted")
@pytest.mark.parametrize("place", ["attention_received", "received_from_lse"])
def test_heads_of_a_width_that_16_does_not_divide_are_fetched_ahead(
    place: str, tmp_path: Path
) -> None:
    """Heads 72 wide were loaded number by number, and nothing while a product was under way."""
    whole = ("q_ptr", "k_ptr", "q_batch", "q_row", "k_batch", "k_row")
    program = compiled(place, "_column_kernel", "*bf16", tmp_path, whole=whole, q_col=1, k_col=1)
    assert "cp.async.cg.shared.global" in program.asm["ptx"]


def program_of(place: str, kernel: str) -> Any:
    module = place if place.endswith("_triton") else f"{place}.triton"
    return getattr(importlib.import_module(f"tokenprune.ops.{module}"), kernel)


def compiled(
    place: str,
    kernel: str,
    features: str,
    cache: Path,
    absent: tuple[str, ...] = (),
    whole: tuple[str, ...] = (),
    **given: int,
) -> Any:
    """A kernel without its arguments `absent`; 16 divides those in `whole`."""
    compiler = pytest.importorskip("triton.backends.compiler")
    program = program_of(place, kernel)
    fixed = CONSTANTS | dict.fromkeys(absent) | given
    signature, constants = {}, {}
    for number, name in enumerate(program.arg_names):
        if name in fixed:
            signature[name], constants[(number,)] = "constexpr", fixed[name]
        elif name.endswith("_ptr"):
            sums = "*fp64" if name in DOUBLES else "*fp32"
            signature[name] = POINTERS.get(name, features if name in FEATURES else sums)
        else:
            signature[name] = "fp32" if name in NUMBERS else "i32"
    known = {(program.arg_names.index(name),): [["tt.divisibility", 16]] for name in whole}
    source = triton.compiler.ASTSource(program, signature, constants, known)
    with triton.knobs.cache.scope():
        triton.knobs.cache.dir = str(cache)
        return triton.compile(source, target=compiler.GPUTarget("cuda", 80, 32))
