"""What launches compute on the CPU, which an eager pass of one picture waits for."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from tokenprune import ops
from tokenprune.ops.launching import ceil_div, padded


@given(st.integers(0, 10**6), st.integers(1, 2048))
def test_programs_cover_every_element_and_none_is_idle(count: int, size: int) -> None:
    assert (ceil_div(count, size) - 1) * size < count <= ceil_div(count, size) * size


@given(st.integers(1, 10**6))
def test_a_padded_count_is_the_next_power_of_two_within_its_bounds(count: int) -> None:
    wide = padded(count)
    assert wide // 2 < count <= wide
    assert wide & (wide - 1) == 0
    assert padded(count, 16, 1024) == min(1024, max(16, wide))


def test_launches_leave_functions_of_triton_that_take_microseconds_alone() -> None:
    slow = ("triton.cdiv", "triton.next_power_of_2")
    files = Path(ops.__file__).parent.rglob("*.py")
    assert [str(file) for file in files if any(name in file.read_text() for name in slow)] == []
