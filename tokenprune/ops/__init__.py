"""Selection operations: scores, matches and compaction of visual tokens.

Every operation has a float32 reference in plain torch and, where plain torch doesn't suffice, a
Triton kernel, is registered with
`torch.library` so that `torch.compile` and FLOP counters see it, gives the same answer on every
run, and takes its output shape from its arguments alone.
"""

from tokenprune.ops.attend import attend, attend_margins
from tokenprune.ops.attend_short import attend_short
from tokenprune.ops.attention_received import attention_margins, attention_received
from tokenprune.ops.attention_rows import attention_row, attention_rows
from tokenprune.ops.best_last import best_last
from tokenprune.ops.bipartite_match import bipartite_match
from tokenprune.ops.cluster_dpc import cluster_dpc
from tokenprune.ops.coverage_select import coverage_select
from tokenprune.ops.dispatch import Backend, OpChoice, choose, explain, use_backend
from tokenprune.ops.dpp_select import dpp_select
from tokenprune.ops.flop_formulas import attention_flops
from tokenprune.ops.flops import count_flops
from tokenprune.ops.keep_slots import keep_slots
from tokenprune.ops.keep_step import Kept, keep_step
from tokenprune.ops.knn_density import knn_density
from tokenprune.ops.match_pairs import Diversity, match_pairs
from tokenprune.ops.max_min_select import max_min_select
from tokenprune.ops.merge_compact import merge_compact
from tokenprune.ops.merge_slots import merge_slots
from tokenprune.ops.merge_step import Merged, merge_step
from tokenprune.ops.received_from_lse import margins_from_lse, received_from_lse
from tokenprune.ops.sum_compact import sum_compact
from tokenprune.ops.take import take
from tokenprune.ops.topk_gather import topk_gather, topk_indices

__all__ = [
    "Backend",
    "Diversity",
    "Kept",
    "Merged",
    "OpChoice",
    "attend",
    "attend_margins",
    "attend_short",
    "attention_flops",
    "attention_margins",
    "attention_received",
    "attention_row",
    "attention_rows",
    "best_last",
    "bipartite_match",
    "choose",
    "cluster_dpc",
    "count_flops",
    "coverage_select",
    "dpp_select",
    "explain",
    "keep_slots",
    "keep_step",
    "knn_density",
    "margins_from_lse",
    "match_pairs",
    "max_min_select",
    "merge_compact",
    "merge_slots",
    "merge_step",
    "received_from_lse",
    "sum_compact",
    "take",
    "topk_gather",
    "topk_indices",
    "use_backend",
]
