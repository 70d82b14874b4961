"""Speed apart from accuracy: dense on its fastest backend against plans, alternating."""

from tokenprune.bench.run import bench
from tokenprune.bench.settings import BenchSettings
from tokenprune.bench.table import bench_tables
from tokenprune.bench.workload import Workload, workloads

__all__ = ["BenchSettings", "Workload", "bench", "bench_tables", "workloads"]
