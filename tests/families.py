"""The families that the lab claims to score exactly, as small as they can be."""

ARCHITECTURES = {
    "gpt2": {"n_layer": 2, "n_embd": 16, "n_head": 2, "n_positions": 32},
    "opt": {  # as OPT-350m: projected embeddings, norms after the blocks
        "num_hidden_layers": 2,
        "hidden_size": 16,
        "ffn_dim": 24,
        "num_attention_heads": 2,
        "word_embed_proj_dim": 12,
        "do_layer_norm_before": False,
        "max_position_embeddings": 32,
    },
    "gpt_neox": {
        "num_hidden_layers": 2,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_attention_heads": 2,
        "rotary_pct": 0.5,
        "max_position_embeddings": 32,
    },
    "llama": {  # grouped heads
        "num_hidden_layers": 2,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 32,
    },
}
