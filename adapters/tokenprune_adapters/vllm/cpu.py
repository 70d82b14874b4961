"""vLLM's worker on a CPU, told that pictures bring positions; imported when an engine needs it."""

from __future__ import annotations

from vllm.v1.worker.cpu_worker import CPUWorker


class PlannedCPUWorker(CPUWorker):
    """The runner on a CPU has its own way to load a model, which leaves this switch alone."""

    def load_model(self, *, load_dummy_weights: bool = False) -> None:
        """Load the model, and have its positions computed anew as on a GPU."""
        super().load_model(load_dummy_weights=load_dummy_weights)
        self.model_runner.is_multimodal_pruning_enabled = True
