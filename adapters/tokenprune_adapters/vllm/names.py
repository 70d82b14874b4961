"""Names that vLLM and this package agree on, and the names of vLLM's that are relied on."""

from __future__ import annotations

#: The key of `--hf-overrides` that holds the plan.
PLAN = "tokenprune_plan"

_HERE = "tokenprune_adapters.vllm"

#: Served architectures: the name to pass in `--hf-overrides`, and where its class is.
MODELS = {
    "TokenpruneLlavaForConditionalGeneration": (
        f"{_HERE}.llava:TokenpruneLlavaForConditionalGeneration"
    ),
}

#: What a checkpoint's own architecture is served as.
SERVED = {"LlavaForConditionalGeneration": "TokenpruneLlavaForConditionalGeneration"}

_MODELS = "vllm.model_executor.models"

#: Private and semi-private names of vLLM 0.32 that are used here; a test looks for each.
RELIED_ON = (
    f"{_MODELS}.config:MODELS_CONFIG_MAP",
    f"{_MODELS}.config:VerifyAndUpdateConfig.verify_and_update_config",
    f"{_MODELS}.llava:LlavaDummyInputsBuilder",
    f"{_MODELS}.llava:LlavaForConditionalGeneration._process_image_input",
    f"{_MODELS}.llava:LlavaForConditionalGeneration.hf_to_vllm_mapper",
    f"{_MODELS}.llava:LlavaMultiModalProcessor",
    f"{_MODELS}.llava:LlavaProcessingInfo.get_num_image_tokens",
    f"{_MODELS}.clip:CLIPAttention",
    f"{_MODELS}.clip:CLIPEncoderLayer",
    f"{_MODELS}.clip:CLIPVisionTransformer",
    f"{_MODELS}.siglip:SiglipAttention",
    f"{_MODELS}.siglip:SiglipEncoderLayer",
    f"{_MODELS}.siglip:SiglipVisionTransformer",
    f"{_MODELS}.utils:WeightsMapper",
)

#: The releases that were tested, by minor.
TESTED = "0.32"
