"""Families of transformers that aren't served, with the reason.

`tests/families/test_unserved.py` holds that every family which the library lists as a multimodal
LLM is served or stands here.
"""

from __future__ import annotations

from collections.abc import Mapping

UNSERVED: Mapping[str, tuple[str, ...]] = {
    "one forward embeds pictures and runs the LLM's layers, so no call stands between, where a "
    "prompt could be shortened": ("phi4_multimodal", "chameleon", "git"),
    "layers count the distance of tokens in slots of their own cache and convolve neighbours, so "
    "what is left couldn't keep its places": (
        "inkling_mm_model",
        "inkling2",
        "inkling2_loop",
    ),
    "the cache keeps a prompt whole and lets a window slide over the answer alone; `generate` "
    "tells it the length of the unshortened prompt": ("unlimited_ocr",),
    "an example shows how a package of your own serves it (writing an adapter)": ("deepseek_vl",),
    "no adapter is written yet": ("emu3", "fuyu"),
    "pictures are seen by cross-attention, and no token of the prompt shows a part of one": (
        "mllama",
        "idefics",
        "blip",
    ),
    "pictures are read by an encoder, of whose states a decoder sees all": (
        "florence2",
        "t5gemma2",
        "pix2struct",
        "pp_formulanet",
        "udop",
        "vision-encoder-decoder",
    ),
    "a picture is 32 or 64 learned queries, which leaves little to remove": (
        "blip-2",
        "instructblip",
        "instructblipvideo",
        "kosmos-2",
    ),
    "learned queries are put in their places by a mask that the processor makes": ("kosmos-2.5",),
    "answers are made by diffusion, in blocks": ("diffusion_gemma",),
    "answers are a robot's actions": ("pi0",),
    "sees proteins, not pictures": ("evolla",),
    "sees no pictures": ("mistral4",),
    "hears, and sees no pictures": (
        "fun_asr_nano",
        "glmasr",
        "granite_speech",
        "granite_speech_plus",
        "kyutai_speech_to_text",
        "moss_transcribe_diarize",
        "nemo_speechlm",
        "omniasr",
        "qwen2_audio",
        "qwen3_asr",
        "vibevoice_asr",
        "voxtral",
        "voxtral_realtime",
    ),
}
"""Families by reason, as `AutoConfig` calls them (`model_type`)."""
