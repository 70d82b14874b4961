"""What transformers calls the arguments and outputs of a multimodal LLM, of its LLM and its layers.

Nothing here imports transformers. `tests/mllm/test_llm_names.py` checks each name.
"""

from __future__ import annotations

from tokenprune.interface.calls import ArgumentNames, Refused

IDS = "input_ids"
GENERATE_IDS = "inputs"
"""What `generate` calls the token ids if they go by position."""
PICTURES = "pixel_values"
ENCODED = "mm_encoder_outputs"
"""Features by kind of input, which newer releases of `generate` compute before the forward."""
LABELS = "labels"
EMBEDS = "inputs_embeds"
MASK = "attention_mask"
POSITIONS = "position_ids"
ROTARY = "position_embeddings"
HIDDEN = "hidden_states"
"""A layer's input, and in outputs the states in front of every layer."""
POOLED = "pooler_output"
"""Features of the pictures, at the LLM's width."""
LAST = "last_hidden_state"
FINAL_NORMS = ("norm", "embedding_norm")
"""Attributes of LLMs: the norm behind the last layer."""
USE_CACHE = "use_cache"
CONFIG = "generation_config"
"""Argument of `generate`, and attribute of the model."""
CACHE_NAMES = ("cache", "past_key_values")
"""Names of the KV cache, as an argument and in outputs: from 5.24 on the first, before the second.
Until 5.40 the newer releases take the second, too, and warn."""
DYNAMIC_CACHES = ("DynamicLayer", "DynamicSlidingWindowLayer")
"""Cache layers that hold `keys` and `values` `[B, H, T, d]` and grow by concatenation."""

PREPARES = "prepare_inputs_for_generation"
"""Method of a model in which `generate` makes the arguments of a forward."""
STATIC_CACHE, SLIDING_CACHE = "StaticLayer", "StaticSlidingWindowLayer"
"""Cache layers of fixed length, which count the tokens that they hold; the second keeps the last
ones of a window."""
LONGEST_CACHE = "_previous_max_cache_length"
"""Attribute of a model: the length of the longest static cache that its `generate` made, which is
that of the next one, too, if that needs less."""
SLIDING_COUNT = "cumulative_length_int"
"""Attribute of the second: the tokens that it holds, as a number."""
LINEAR_CACHE = "LinearAttentionLayer"
"""Cache layer of linear attention or of a convolution, in caches that grow and static ones; its
`conv_states` and `recurrent_states` are tensors by number, or None."""
EMPTY_CACHE = "DummyLayer"
"""Cache layer of a layer that has nothing to keep, such as experts alone."""
PREALLOCATED = "is_compileable"
"""Attribute of a cache: whether its layers have their full length from the start."""
PACKED = ("cu_seq_lens_q", "cu_seq_lens_k", "seq_idx")
"""Arguments that say where samples begin that share a row."""

NAMES = ArgumentNames(ids=IDS, pictures=PICTURES, mask=MASK, encoded=ENCODED)

MODEL_CONFIG = "config"
OTHER_NAMES = "attribute_map"
"""Attribute of a class of configs: further names of its settings."""
IMPLEMENTATION = "_attn_implementation"
"""Attribute of a config: which attention its model runs."""
EAGER = "eager"
PLAIN_ATTENTION = ("sdpa", EAGER)
"""Attentions of torch alone, which know no samples that share a row."""
REFUSED = {
    EMBEDS: Refused(
        "embeddings don't say which tokens are visual.",
        f"Pass {IDS} with image placeholders, and {PICTURES}.",
    ),
    "output_attentions": Refused(
        "attention maps of a shortened sequence have other shapes in every layer.",
        "Call without it, or detach the plan.",
    ),
}
"""Arguments of the core that a shortened sequence can't serve."""

_WITHOUT = "Generate without it, or detach the plan."
_PRUNED = "which doesn't work while visual tokens are pruned."
REFUSED_GENERATION = {
    "assistant_early_exit": Refused(
        f"Early-exit drafting runs only some of the layers, {_PRUNED}", _WITHOUT
    ),
    "prefill_chunk_size": Refused(
        f"A prefill in chunks never sees all visual tokens at once, {_PRUNED}", _WITHOUT
    ),
}
"""Arguments and settings of `generate` that a shortened cache can't serve."""
PAGES = Refused(
    "its cache shares pages among several prompts, and a plan leaves each layer of each prompt "
    "another length.",
    "Use generate(), which takes a batch of prompts, or detach the plan.",
)
REFUSED_METHODS = {"init_continuous_batching": PAGES}
"""Methods of a model that a plan can't serve; `generate_batch` begins with this one, too."""
