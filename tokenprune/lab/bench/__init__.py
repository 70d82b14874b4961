"""Speed apart from accuracy: dense on its fastest backend against plans, alternating."""

from tokenprune.lab.bench.run import bench
from tokenprune.lab.bench.settings import BenchSettings
from tokenprune.lab.bench.table import bench_tables
from tokenprune.lab.bench.workload import Workload, workloads

__all__ = ["BenchSettings", "Workload", "bench", "bench_tables", "workloads"]
