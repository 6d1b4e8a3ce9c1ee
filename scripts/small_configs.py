"""Small values for the settings of configurations of transformers, and for what timm's constructors take."""

from typing import Any

CLASSES = 5
WIDTH, LAYERS, HEADS = 32, 3, 4
_SMALL = {
    **dict.fromkeys(("hidden_size", "d_model", "dim", "n_embd", "emb_dim", "embedding_size"), WIDTH),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_decoder_layers"), LAYERS),
    **dict.fromkeys(("encoder_layers", "decoder_layers"), LAYERS),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "num_self_attention_heads"), HEADS),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), HEADS),
    **dict.fromkeys(("intermediate_size", "d_ff", "n_inner", "ffn_dim", "hidden_dim", "dff"), 2 * WIDTH),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim", "ffn_hidden_size", "moe_intermediate_size"), 2 * WIDTH),
    **dict.fromkeys(("head_dim", "d_kv", "kv_channels", "v_head_dim", "attention_head_size"), WIDTH // HEADS),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx"), 64),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    "num_experts_per_tok": 2,
    "num_key_value_heads": 2,
    "vocab_size": 96,
    "projection_dim": 16,
    "pad_token_id": 1,
    "bos_token_id": 2,
    "eos_token_id": 3,
}

WINDOWED = ("donut-swin", "swin", "swinv2")
# Maps of odd sizes in three stages, so that windows and merged squares are padded; the last is as high as a window, or
# lower, so that windows are cut and not shifted.
_SWIN = {"depths": [2, 2, 2], "num_heads": [2, 4, 4], "embed_dim": WIDTH, "window_size": 3, "patch_size": 4}
SWIN_IMAGE = (44, 84)
TIMM_SWIN = {**_SWIN, "window_size": ((3, 3), (4, 4), (5, 5)), "img_size": (52, 196)}
_LATENT = {"qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8, "head_dim": 8, "num_key_value_heads": HEADS}
_LATENT |= {"kv_lora_rank": 16, "q_lora_rank": 16, "n_group": 1, "topk_group": 1}
_ROTARY = {"rope_theta": 1e4, "rope_type": "default"}
_LAYER_TYPES = ["full_attention", "linear_attention", "full_attention"]
_SHARED_LAYERS = ["hybrid", "linear_attention", "hybrid"]  # with weights of one attention block for both
# What the general small values do not fit, by the model type of a configuration.
SPECIAL: dict[str, dict[str, Any]] = {
    **{kind: _LATENT for kind in ("axk1", "axk2", "deepseek_v2", "deepseek_v3", "minicpm3")},
    "mistral4": {**_LATENT, "head_dim": 16},  # of both parts of a query; half of it turns
    "cohere_compass_text": {
        "num_key_value_heads": HEADS,
        "rope_parameters": {"full_attention": _ROTARY, "sliding_attention": _ROTARY},
    },
    "esmc": {"num_key_value_heads": HEADS},
    "gpt_neo": {"attention_types": [[["global", "local", "global"], 1]]},
    "gptj": {"rotary_dim": 4},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "use_mamba_kernels": False},
    "layoutlmv3": {"coordinate_size": 4, "shape_size": 8, "input_size": 32, "patch_size": 8},
    **{kind: {"decoder_start_token_id": 0} for kind in ("mt5", "t5", "umt5")},
    **{kind: _SWIN for kind in WINDOWED},
    **{kind: {"layer_types": _LAYER_TYPES} for kind in ("qwen3_5_text", "qwen3_next")},
    "perceiver": {"num_cross_attention_heads": 1},
    "shieldgemma2": {"yes_token_index": 5, "no_token_index": 6},
    "siglip2": {"num_patches": 16, "patch_size": 8},
    "siglip2_vision_model": {"num_patches": 16, "patch_size": 8},
    "timm_wrapper": {
        "architecture": "vit_small_patch8_224",
        "model_args": {"depth": LAYERS, "img_size": (24, 40), "embed_dim": 16 * HEADS, "num_heads": HEADS},
    },
    "xmod": {"default_language": "en_XX"},
    **{kind: {"layers_block_type": _SHARED_LAYERS} for kind in ("zamba", "zamba2")},
}


def small_config(config_class: type, reduced: bool, image_size: Any) -> Any:
    """A configuration for five classes.

    Args:
        config_class: Class of the configuration.
        reduced: Whether its settings are small.
        image_size: Height and width for the settings that ask for them, or one number for both; ``None`` leaves them.

    Returns:
        The configuration.
    """
    settings = _settings(config_class, image_size) if reduced else {}
    return config_class(**{**settings, "num_labels": CLASSES})


def _settings(config_class: type, image_size: Any) -> dict[str, Any]:
    """Small values for the settings that a configuration has, also in the configurations inside it."""
    default = config_class()
    known = default.to_dict()
    small = {**_SMALL, **({} if image_size is None else {"image_size": image_size, "patch_size": 8})}
    settings = {
        key: value for key, value in small.items() if key in known and isinstance(known[key], (int, type(None)))
    }
    for key in ("image_size", "patch_size"):
        if key in small and key in known:
            settings[key] = small[key]
    for key in getattr(config_class, "sub_configs", {}):
        if known.get(key) is not None:
            settings[key] = _settings(type(getattr(default, key)), image_size)
    return {**settings, **SPECIAL.get(default.model_type, {})}
