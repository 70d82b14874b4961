"""Attaching and detaching while other threads call, traces of tasks, and models that are gone."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import nn

from tests.models import IMAGE_TOKEN, llava_clip, llava_inputs
from tokenprune.engine import attach, traffic
from tokenprune.engine.meter import Meter
from tokenprune.engine.traffic import Traffic
from tokenprune.errors import AlreadyAttachedError, UnsupportedCallError
from tokenprune.interface.trace import Trace

PRE_LLM = {"stages": [{"at": "pre_llm", "strategy": "random", "keep": 4}]}
DECODER = {"stages": [{"at": "decoder", "layer": 1, "strategy": "random", "keep": 4}]}
READING = {"stages": [{"at": "decoder", "layer": 1, "strategy": "fastv", "keep": 4}]}
ENCODER = {"stages": [{"at": "encoder", "strategy": "tome", "keep": 20}]}


def asked() -> dict[str, Any]:
    inputs: dict[str, Any] = llava_inputs([[1, IMAGE_TOKEN, 9, 8]])
    return inputs


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(**asked()).logits
    return found


@contextmanager
def calling(model: Any, threads: int, call: Callable[[Any], torch.Tensor]) -> Iterator[list[Any]]:
    """Threads that call a model without pause; gives what came of it, results and errors."""
    found: list[Any] = []
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            try:
                found.append(call(model))
            except Exception as error:
                found.append(error)

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    try:
        yield found
    finally:
        stop.set()
        for worker in workers:
            worker.join()


def generated(model: Any) -> torch.Tensor:
    ids: torch.Tensor = model.generate(**asked(), max_new_tokens=3, do_sample=False)
    return ids


@pytest.mark.parametrize(
    ("plan", "call", "cycles"),
    [(PRE_LLM, logits, 10), (DECODER, logits, 10), (ENCODER, logits, 6), (DECODER, generated, 6)],
)
def test_calls_beside_attaching_are_dense_or_pruned(
    plan: dict[str, Any], call: Callable[[Any], torch.Tensor], cycles: int
) -> None:
    model = llava_clip()
    dense = call(model)
    with attach(model, plan):
        pruned = call(model)
    with calling(model, 3, call) as found:
        for _ in range(cycles):
            with attach(model, plan) as handle:
                assert torch.equal(call(model), pruned)
                assert handle.trace.images
            assert torch.equal(call(model), dense)
    assert len(found) > 3
    odd = [
        one
        for one in found
        if isinstance(one, Exception) or not (torch.equal(one, dense) or torch.equal(one, pruned))
    ]
    assert odd == []
    assert "forward" not in model.__dict__


def test_a_plan_that_gets_in_force_while_a_call_begins_is_not_for_the_call() -> None:
    """The call may stand in the middle of the model: nobody has noted where it stands."""
    model, found = nn.Linear(2, 2), Traffic()
    meanwhile = threading.Thread(target=found.open, args=(model,))

    class Overtaken(threading.Condition):
        def __enter__(self) -> bool:
            if meanwhile.ident is None:
                meanwhile.start()
                meanwhile.join()
            return super().__enter__()

    found._changed = Overtaken()
    with found.begun() as pruned:
        assert not pruned
    found._changed = threading.Condition()
    with found.begun() as pruned:
        assert pruned


class Slow:
    """A layer in which other threads wait until they are let go."""

    def __init__(self, model: Any) -> None:
        self.inside, self.go = threading.Event(), threading.Event()
        model.model.language_model.layers[0].register_forward_pre_hook(self._wait)

    def _wait(self, *_: Any) -> None:
        if threading.current_thread() is not threading.main_thread():
            self.inside.set()
            assert self.go.wait(30)


@contextmanager
def one_call(
    model: Any, slow: Slow, call: Callable[[Any], torch.Tensor] = logits
) -> Iterator[list[torch.Tensor]]:
    """A call of another thread that stands in the middle of the model."""
    found: list[torch.Tensor] = []
    worker = threading.Thread(target=lambda: found.append(call(model)))
    worker.start()
    assert slow.inside.wait(30)
    try:
        yield found
    finally:
        slow.go.set()
        worker.join()


@pytest.mark.parametrize("call", [logits, generated])
@pytest.mark.parametrize("plan", [PRE_LLM, DECODER])
def test_a_running_call_stays_dense(
    plan: dict[str, Any], call: Callable[[Any], torch.Tensor]
) -> None:
    """It stands in the first layer, so it meets overrides of all later ones, and of its steps."""
    model = llava_clip()
    dense = call(model)
    slow = Slow(model)
    with one_call(model, slow, call) as found:
        handle = attach(model, plan)
        pruned = call(model)
    assert torch.equal(found[0], dense)
    slow.inside.clear()
    with one_call(model, slow, call) as later:
        pass
    assert torch.equal(later[0], pruned)
    handle.detach()


def test_calls_through_methods_of_the_models_own_are_pruned() -> None:
    """What another thread does elsewhere, and who calls, makes no call an older one."""
    model = llava_clip()
    stop = threading.Event()
    worker = threading.Thread(target=stop.wait)
    worker.start()

    class Asked(type(model)):  # type: ignore[misc]
        def ask(self) -> torch.Tensor:
            return logits(self)

    model.__class__ = Asked
    with attach(model, PRE_LLM):
        pruned, found = logits(model), []
        other = threading.Thread(target=lambda: found.append(model.ask()))
        other.start()
        other.join()
        assert torch.equal(found[0], pruned)
        assert torch.equal(model.ask(), pruned)
    stop.set()
    worker.join()


def test_detaching_waits_and_the_call_ends_pruned(monkeypatch: pytest.MonkeyPatch) -> None:
    model = llava_clip()
    slow = Slow(model)
    handle = attach(model, PRE_LLM)
    pruned = logits(model)
    monkeypatch.setattr(traffic, "WAIT", 0.05)
    with one_call(model, slow) as found:
        with pytest.raises(UnsupportedCallError, match="can't be detached"):
            handle.detach()
        assert torch.equal(logits(model), pruned), "it stays attached"
        monkeypatch.setattr(traffic, "WAIT", 30.0)
        threading.Timer(0.1, slow.go.set).start()
        handle.detach()
        assert slow.go.is_set()
    assert torch.equal(found[0], pruned)
    assert not torch.equal(logits(model), pruned)


@pytest.mark.parametrize("cached", [True, False])
def test_a_plan_stays_to_the_end_of_a_call_that_would_detach_it(cached: bool) -> None:
    """Without a cache, the steps behind a detached plan would be dense ones."""
    model, call = llava_clip(), asked()

    class Detaching:
        def put(self, _: torch.Tensor) -> None:
            with pytest.raises(UnsupportedCallError, match="inside of a call of its model"):
                handle.detach()

        def end(self) -> None: ...

    with attach(model, DECODER) as handle:
        settings = {"max_new_tokens": 3, "do_sample": False, "use_cache": cached}
        pruned = model.generate(**call, **settings)
        assert torch.equal(model.generate(**call, **settings, streamer=Detaching()), pruned)
        still = logits(model)
    assert not torch.equal(logits(model), still)


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("where", ["streamer", "layer"])
def test_a_plan_is_not_attached_inside_of_a_call_of_its_model(where: str, cached: bool) -> None:
    """Without a cache, the steps behind it would be pruned ones."""
    model, call, tried = llava_clip(), asked(), []
    settings = {"max_new_tokens": 3, "do_sample": False, "use_cache": cached}
    dense, before = model.generate(**call, **settings), set(vars(model))

    def attaching(*_: Any) -> None:
        with pytest.raises(UnsupportedCallError, match="attached inside of a call of its model"):
            attach(model, DECODER)
        tried.append(attach(llava_clip(), DECODER).plan)

    class Streamer:
        put = staticmethod(attaching)

        def end(self) -> None: ...

    if where == "layer":
        hook = model.model.language_model.layers[2].register_forward_hook(attaching)
        assert torch.equal(model.generate(**call, **settings), dense)
        hook.remove()
    else:
        assert torch.equal(model.generate(**call, **settings, streamer=Streamer()), dense)
    assert tried
    assert set(vars(model)) == before
    with attach(model, DECODER):
        logits(model)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system doesn't fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_has_no_calls_of_other_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    model = llava_clip()
    slow = Slow(model)
    handle = attach(model, PRE_LLM)
    monkeypatch.setattr(traffic, "WAIT", 0.05)
    with one_call(model, slow):
        child = os.fork()
        if not child:
            try:
                handle.detach()
            except BaseException:
                os._exit(1)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        slow.go.set()
    assert os.waitstatus_to_exitcode(status) == 0
    handle.detach()


def test_one_of_many_threads_attaches() -> None:
    model, found = llava_clip(), []

    def work() -> None:
        try:
            found.append(attach(model, PRE_LLM))
        except AlreadyAttachedError:
            found.append(None)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    (handle,) = [one for one in found if one is not None]
    assert len(found) == 8
    handle.detach()


def test_the_trace_is_the_tasks() -> None:
    model = llava_clip()

    async def ask(images: int) -> tuple[int, int]:
        inputs = llava_inputs([[1, *[IMAGE_TOKEN] * images, 9]])
        with torch.no_grad():
            model(**inputs)
        before = len(handle.trace.images)
        await asyncio.sleep(0)
        await asyncio.sleep(0.001 * images)
        return before, len(handle.trace.images)

    async def main() -> list[tuple[int, int]]:
        return await asyncio.gather(*(ask(images) for images in (1, 2, 3, 1, 2, 3)))

    with attach(model, PRE_LLM) as handle:
        found = asyncio.run(main())
        assert handle.trace == Trace(), "the tasks' calls are not this one's"
    assert [after for _, after in found] == [before for before, _ in found]
    assert len({after for _, after in found}) > 1


def test_two_handles_have_their_own_traces() -> None:
    first, second = llava_clip(), llava_clip()
    with attach(first, PRE_LLM) as one, attach(second, DECODER) as two:
        logits(first)
        assert two.trace == Trace()
        logits(second)
        assert [len(handle.trace.images) for handle in (one, two)] == [1, 1]


@pytest.mark.parametrize("called", [True, False])
@pytest.mark.parametrize("plan", [ENCODER, PRE_LLM, DECODER, READING])
def test_a_handle_does_not_keep_its_model(plan: dict[str, Any], called: bool) -> None:
    model = llava_clip()
    handle = attach(model, plan)
    if called:
        logits(model)
    assert handle.model is model
    handle.detach()
    assert handle.model is model
    gone = [weakref.ref(one) for one in (model, *model.parameters())]
    del model
    gc.collect()
    assert not any(one() is not None for one in gone)
    handle.report()
    assert len(handle.trace.images) == called
    with pytest.raises(UnsupportedCallError, match="is gone"):
        _ = handle.model


@pytest.mark.parametrize("collects", [True, False])
def test_no_garbage_is_collected_while_threads_are_looked_at(
    collects: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python 3.11 would wait for ever: both take one lock."""
    look, seen = sys._current_frames, list[bool]()

    def looked() -> Any:
        seen.append(gc.isenabled())
        return look()

    monkeypatch.setattr(sys, "_current_frames", looked)
    before = gc.isenabled()
    try:
        (gc.enable if collects else gc.disable)()
        attach(llava_clip(), DECODER).detach()
        assert gc.isenabled() == collects
    finally:
        (gc.enable if before else gc.disable)()
    assert seen
    assert not any(seen)


def test_segments_that_nobody_asks_for_are_added_up(monkeypatch: pytest.MonkeyPatch) -> None:
    meter = Meter()

    class Mark:
        def __init__(self, at: float) -> None:
            self.at = at

    monkeypatch.setattr("tokenprune.engine.meter._elapsed", lambda start, end: end.at - start.at)
    monkeypatch.setattr("tokenprune.engine.meter.MOST", 10)
    times = iter(range(2 * 95))
    monkeypatch.setattr("tokenprune.engine.meter._Stopwatch.now", lambda _: Mark(next(times)))
    for _ in range(95):
        with meter.stage("encode"):
            pass
        assert len(meter._segments) <= 10
    assert meter.seconds["encode"] == 95
