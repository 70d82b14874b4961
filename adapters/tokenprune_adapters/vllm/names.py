"""Names that vLLM and this package agree on, and the names of vLLM's that are relied on."""

from __future__ import annotations

#: The key of `--hf-overrides` that holds the plan.
PLAN = "tokenprune_plan"

_HERE = "tokenprune_adapters.vllm"

#: What a checkpoint's own architecture is served as, and the module of that class.
SERVED = {
    "LlavaForConditionalGeneration": "llava",
    "LlavaNextForConditionalGeneration": "llava_next",
    "LlavaNextVideoForConditionalGeneration": "llava_clips",
    "LlavaOnevisionForConditionalGeneration": "llava_next",
    "Granite4VisionForConditionalGeneration": "granite4",
    "Idefics3ForConditionalGeneration": "idefics3",
    "InternVLForConditionalGeneration": "internvl",
    "MiniCPMV4_6ForConditionalGeneration": "minicpm",
    "Mistral3ForConditionalGeneration": "mistral3",
    "SmolVLMForConditionalGeneration": "idefics3",
    "Qwen2_5OmniForConditionalGeneration": "omni",
    "Qwen2_5OmniModel": "omni",
    "Qwen3OmniMoeForConditionalGeneration": "omni",
    "Qwen2_5_VLForConditionalGeneration": "qwen_vl",
    "Qwen3VLForConditionalGeneration": "qwen_vl",
    "Qwen2VLForConditionalGeneration": "qwen_others",
    "Qwen3VLMoeForConditionalGeneration": "qwen_others",
    "Qwen3_5ForConditionalGeneration": "qwen_others",
    "Qwen3_5MoeForConditionalGeneration": "qwen_others",
    "Glm4vForConditionalGeneration": "glm",
    "Glm4vMoeForConditionalGeneration": "glm",
    "GlmOcrForConditionalGeneration": "glm_ocr",
    "PaddleOCRVLForConditionalGeneration": "paddle_ocr",
}

WINDOWS = (
    "layers of its LLM have sliding windows, which vLLM counts in the prompt that is left, and "
    "transformers in the whole one"
)
"""Why such a model isn't served with a plan."""

#: Why a model that vLLM runs isn't served, by the type of its config.
UNSERVED = {
    **dict.fromkeys(("cohere2_vision", "cohere_compass", "exaone4_5", "gemma3", "gemma4"), WINDOWS),
    **dict.fromkeys(
        ("ernie4_5_vl_moe", "qianfan_ocr"),
        "vLLM reads it with the config of the hub's own code, which isn't that of transformers",
    ),
    **dict.fromkeys(
        ("aya_vision", "hunyuan_vl", "ovis2", "video_llama_3"),
        "vLLM runs it by the code of transformers, whose processor alone counts its tokens",
    ),
    "kimi_k25": "vLLM prepares its pictures by code of its own, which wasn't compared",
    "lfm2_vl": "on a CPU vLLM's answers without a plan aren't those of transformers",
    "minicpmv4_7": "its position ids are those of slices on their picture, which aren't followed",
    "paligemma": "its prompt sees itself both ways, which vLLM's attention on a CPU doesn't",
    "llama4": "layers of its LLM attend in chunks, which vLLM counts in the prompt that is left",
    "lighton_ocr": "vLLM takes its config for that of a Mistral 3, which transformers doesn't load",
}

#: What brings embeddings of words along with its features, by the type of the model's config;
#: pictures in rows, which end with a token, do so in every family.
WORDED = {
    **dict.fromkeys(("idefics3", "minicpmv4_6", "smolvlm"), "image"),
    **dict.fromkeys(("qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe"), "video"),
}

#: In front of an architecture's own name, the name to pass in `--hf-overrides`.
PREFIX = "Tokenprune"

#: Served architectures: the name to pass in `--hf-overrides`, and where its class is.
MODELS = {f"{PREFIX}{own}": f"{_HERE}.{module}:{PREFIX}{own}" for own, module in SERVED.items()}

#: The worker of engines on a CPU whose pictures bring positions.
CPU_WORKER = f"{_HERE}.cpu.PlannedCPUWorker"

_MODELS = "vllm.model_executor.models"

#: Private and semi-private names of vLLM that are used here; a test looks for each.
RELIED_ON = (
    f"{_MODELS}.config:MODELS_CONFIG_MAP",
    f"{_MODELS}.config:VerifyAndUpdateConfig.verify_and_update_config",
    f"{_MODELS}.llava:LlavaDummyInputsBuilder",
    f"{_MODELS}.llava:LlavaForConditionalGeneration._process_image_input",
    f"{_MODELS}.llava:LlavaForConditionalGeneration.hf_to_vllm_mapper",
    f"{_MODELS}.llava:LlavaMultiModalProcessor._get_prompt_updates",
    f"{_MODELS}.llava:LlavaProcessingInfo.get_num_image_tokens",
    f"{_MODELS}.llava:PixtralHFProcessingInfo",
    *(
        f"{_MODELS}.llava:PixtralHFMultiModalProcessor.{name}"
        for name in ("_get_mm_fields_config", "_get_prompt_updates", "_postprocess_hf_mm_data")
    ),
    *(
        f"{_MODELS}.granite4_vision:Granite4Vision{name}"
        for name in (
            "ForConditionalGeneration._get_all_layer_features",
            "MultiModalProcessor._get_prompt_updates",
            "ProcessingInfo.get_num_image_tokens",
        )
    ),
    f"{_MODELS}.llava_next:LlavaNextForConditionalGeneration._process_image_input",
    f"{_MODELS}.llava_next:LlavaNextMultiModalProcessor._get_prompt_updates",
    f"{_MODELS}.llava_next:LlavaNextProcessingInfo.get_image_size_with_most_features",
    f"{_MODELS}.llava_next:LlavaNextProcessingInfo.get_num_image_tokens",
    *(
        f"{_MODELS}.{module}:{family}{name}"
        for module, family in (
            ("llava_next_video", "LlavaNextVideo"),
            ("llava_onevision", "LlavaOnevision"),
        )
        for name in (
            "ForConditionalGeneration._process_video_pixels",
            "ProcessingInfo._get_max_video_frames",
            "ProcessingInfo.get_num_video_tokens",
        )
    ),
    f"{_MODELS}.llava_next_video:LlavaNextVideoDummyInputsBuilder",
    f"{_MODELS}.llava_next_video:LlavaNextVideoMultiModalProcessor._get_prompt_updates",
    f"{_MODELS}.llava_onevision:LlavaOnevisionDummyInputsBuilder",
    f"{_MODELS}.llava_onevision:LlavaOnevisionForConditionalGeneration._process_image_input",
    f"{_MODELS}.llava_onevision:LlavaOnevisionMultiModalProcessor._get_prompt_updates",
    f"{_MODELS}.llava_onevision:LlavaOnevisionProcessingInfo.get_num_image_tokens",
    *(
        f"{_MODELS}.{module}:{name}"
        for module, family in (("qwen2_5_vl", "Qwen2_5_VL"), ("qwen3_vl", "Qwen3VL"))
        for name in (
            f"{family}DummyInputsBuilder",
            f"{family}ForConditionalGeneration._postprocess_image_embeds_evs",
            f"{family}ForConditionalGeneration._postprocess_video_embeds_evs",
            f"{family}ForConditionalGeneration.get_language_model",
            f"{family}ForConditionalGeneration._process_image_input",
            f"{family}ForConditionalGeneration.get_mrope_input_positions",
            f"{family}ForConditionalGeneration.recompute_mrope_positions",
            f"{family}MultiModalProcessor._get_prompt_updates",
            f"{family}ProcessingInfo.get_image_size_with_most_features",
            f"{family}ProcessingInfo.get_max_video_tokens",
            f"{family}ProcessingInfo.get_mm_max_tokens_per_item",
        )
    ),
    f"{_MODELS}.qwen3_vl:Qwen3VLMultiModalProcessor.get_video_repl",
    *(
        f"{_MODELS}.{module}:{family}Vision{part}"
        for module, family in (
            ("qwen2_vl", "Qwen2"),
            ("qwen2_5_vl", "Qwen2_5_"),
            ("qwen3_vl", "Qwen3_"),
        )
        for part in ("Transformer.prepare_encoder_metadata", "Block", "PatchMerger")
    ),
    f"{_MODELS}.qwen2_vl:Qwen2VisionAttention",
    f"{_MODELS}.qwen2_5_vl:Qwen2_5_VisionAttention",
    f"{_MODELS}.vision:run_dp_sharded_mrope_vision_model",
    f"{_MODELS}.config:VerifyAndUpdateConfig.verify_and_update_model_config",
    f"{_MODELS}.qwen2_vl:Qwen2VLDummyInputsBuilder",
    f"{_MODELS}.qwen2_vl:Qwen2VLForConditionalGeneration._process_image_input",
    f"{_MODELS}.qwen2_vl:Qwen2VLMultiModalProcessor._get_prompt_updates",
    f"{_MODELS}.qwen2_vl:Qwen2VLProcessingInfo.get_image_size_with_most_features",
    f"{_MODELS}.glm4_1v:Glm4vDummyInputsBuilder",
    f"{_MODELS}.glm4_1v:Glm4vForConditionalGeneration._process_image_input",
    f"{_MODELS}.glm4_1v:Glm4vMoeForConditionalGeneration._process_image_input",
    f"{_MODELS}.glm4_1v:Glm4vMultiModalProcessor._get_prompt_updates",
    f"{_MODELS}.glm4_1v:Glm4vProcessingInfo.get_image_size_with_most_features",
    *(
        f"{_MODELS}.{module}:{family}{part}"
        for module, family in (("glm4_1v", "Glm4v"), ("glm_ocr", "GlmOcr"))
        for part in ("VisionTransformer", "VisionBlock", "VisionAttention", "PatchMerger")
    ),
    f"{_MODELS}.glm_ocr:GlmOcrForConditionalGeneration._process_image_input",
    f"{_MODELS}.paddleocr_vl:PaddleOCRVLDummyInputsBuilder",
    f"{_MODELS}.paddleocr_vl:PaddleOCRVLForConditionalGeneration._process_image_input",
    f"{_MODELS}.paddleocr_vl:PaddleOCRVLMultiModalProcessor._get_prompt_updates",
    f"{_MODELS}.paddleocr_vl:PaddleOCRVLProcessingInfo.get_image_size_with_most_features",
    f"{_MODELS}.paddleocr_vl:Projector",
    *(
        f"{_MODELS}.{module}:{name}"
        for module, names in (
            ("paddleocr_vl", ("SiglipVisionModel", "SiglipEncoderLayer", "SiglipAttention")),
            (
                "pixtral",
                ("PixtralHFVisionModel", "PixtralHFTransformerBlock", "PixtralHFAttention"),
            ),
        )
        for name in names
    ),
    *(
        f"{_MODELS}.{module}:{family}{name}"
        for module, family in (
            ("qwen3_vl_moe", "Qwen3VLMoe"),
            ("qwen3_5", "Qwen3_5"),
            ("qwen3_5", "Qwen3_5Moe"),
        )
        for name in (
            "ForConditionalGeneration._postprocess_image_embeds_evs",
            "ProcessingInfo.get_mm_max_tokens_per_item",
        )
    ),
    *(
        f"{_MODELS}.{module}:{family}Thinker{name}"
        for module, family in (
            ("qwen2_5_omni_thinker", "Qwen2_5Omni"),
            ("qwen3_omni_moe_thinker", "Qwen3OmniMoe"),
        )
        for name in (
            "DummyInputsBuilder",
            "ForConditionalGeneration._process_image_input",
            "ForConditionalGeneration.get_mrope_input_positions",
            "MultiModalProcessor._get_prompt_updates",
            "ProcessingInfo.get_mm_max_tokens_per_item",
        )
    ),
    *(
        f"{_MODELS}.qwen3_omni_moe_thinker:{name}"
        for name in ("Qwen3Omni_VisionTransformer", "Qwen3_VisionBlock", "Qwen3_VisionPatchMerger")
    ),
    f"{_MODELS}.interfaces:supports_multimodal_pruning",
    "vllm.config.multimodal:MultiModalConfig.get_limit_per_prompt",
    "vllm.config.multimodal:MultiModalConfig.is_multimodal_pruning_enabled",
    "vllm.config.multimodal:MultiModalConfig.mm_encoder_only",
    "vllm.config.multimodal:MultiModalConfig.mm_encoder_attn_dtype",
    "vllm.config:SpeculativeConfig.use_eagle",
    "vllm.config:SpeculativeConfig.uses_draft_model",
    f"{_MODELS}.idefics2_vision_model:Idefics2EncoderLayer",
    f"{_MODELS}.idefics2_vision_model:Idefics2VisionAttention",
    f"{_MODELS}.idefics2_vision_model:Idefics2VisionTransformer",
    f"{_MODELS}.idefics3:Idefics3DummyInputsBuilder",
    f"{_MODELS}.idefics3:Idefics3ForConditionalGeneration.embed_multimodal",
    f"{_MODELS}.idefics3:Idefics3MultiModalProcessor._get_mm_fields_config",
    f"{_MODELS}.idefics3:Idefics3MultiModalProcessor._get_prompt_updates",
    f"{_MODELS}.idefics3:Idefics3MultiModalProcessor._postprocess_hf_mm_data",
    f"{_MODELS}.idefics3:Idefics3Model",
    f"{_MODELS}.idefics3:Idefics3ProcessingInfo",
    f"{_MODELS}.interns1:InternS1DummyInputsBuilder._get_dummy_images",
    f"{_MODELS}.interns1:InternS1DummyInputsBuilder.get_dummy_mm_data",
    f"{_MODELS}.interns1:InternS1ForConditionalGeneration._process_vision_input",
    f"{_MODELS}.interns1:InternS1ForConditionalGeneration.extract_feature",
    f"{_MODELS}.interns1:InternS1MultiModalProcessor._get_prompt_updates",
    f"{_MODELS}.interns1:InternS1ProcessingInfo.get_image_size_with_most_features",
    f"{_MODELS}.interns1:InternS1ProcessingInfo.get_supported_mm_limits",
    f"{_MODELS}.interfaces:SupportsMultiModal.get_language_model",
    f"{_MODELS}.minicpmv:MiniCPMVDummyInputsBuilder",
    *(
        f"{_MODELS}.minicpmv4_6:MiniCPMV4_6{name}"
        for name in (
            "ForConditionalGeneration.embed_multimodal",
            "MultiModalProcessor._get_mm_fields_config",
            "MultiModalProcessor._get_prompt_updates",
            "MultiModalProcessor._postprocess_hf_mm_data",
            "MultiModalProcessor._recompute_cached_prompt_update",
            "ProcessingInfo.get_supported_mm_limits",
        )
    ),
    f"{_MODELS}.mistral3:Mistral3DummyInputsBuilder",
    f"{_MODELS}.mistral3:Mistral3ForConditionalGeneration.embed_multimodal",
    f"{_MODELS}.mistral3:Mistral3MultiModalProcessor._get_mm_fields_config",
    f"{_MODELS}.mistral3:Mistral3MultiModalProcessor._get_prompt_updates",
    f"{_MODELS}.mistral3:Mistral3MultiModalProcessor._postprocess_hf_mm_data",
    f"{_MODELS}.mistral3:Mistral3ProcessingInfo",
    f"{_MODELS}.smolvlm:SmolVLMForConditionalGeneration",
    f"{_MODELS}.smolvlm:SmolVLMProcessingInfo",
    "vllm.multimodal.inputs:MultiModalFieldConfig.batched",
    "vllm.multimodal.processing:PromptReplacement",
    "vllm.multimodal.processing:PromptUpdateDetails.from_seq",
    "vllm.multimodal.processing:PromptUpdateDetails.select_token_id",
    "vllm.envs:VLLM_USE_RUST_FRONTEND",
    "vllm.platforms:current_platform.is_cpu",
    "vllm.utils.gpu_sync_debug:gpu_sync_allowed",
    "vllm.v1.worker.cpu_worker:CPUWorker.load_model",
    f"{_MODELS}.clip:CLIPAttention",
    f"{_MODELS}.clip:CLIPEncoderLayer",
    f"{_MODELS}.clip:CLIPVisionTransformer",
    f"{_MODELS}.interns1_vit:InternS1VisionLayer",
    f"{_MODELS}.interns1_vit:InternS1VisionModel",
    f"{_MODELS}.interns1_vit:InternSdpaAttention",
    f"{_MODELS}.siglip:SiglipAttention",
    f"{_MODELS}.siglip:SiglipEncoderLayer",
    f"{_MODELS}.siglip:SiglipVisionTransformer",
    f"{_MODELS}.utils:StageMissingLayer",
    f"{_MODELS}.utils:WeightsMapper",
)

#: The releases whose build for CPUs was tested, by minor.
TESTED = "0.32"

#: Those whose Python code alone was tested, on the compiled code of `TESTED`.
TESTED_IN_PYTHON = "0.33"
