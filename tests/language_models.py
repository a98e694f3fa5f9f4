"""Random three-block models of eleven families and a small tokenizer, as saved folders, for the tests."""

from pathlib import Path

import torch

TEXT = "the quick brown fox jumps over the lazy dog and then it sleeps in the sun until the evening comes again"
FAMILIES = ("gpt_neox", "gemma2", "gemma3", "llama", "gpt2", "opt")
ALIKE = ("qwen2", "qwen3", "mistral", "phi3", "olmo2")  # built as llama is, but for the norms of olmo2
BLOCKS = 3


def tokenizer(bos: bool = False):
    """A byte-level BPE of 300 entries; <eos> = 0, <bos> = 1, <pad> = 2. With bos it puts <bos> in front by itself."""
    import tokenizers
    from transformers import PreTrainedTokenizerFast

    raw = tokenizers.Tokenizer(tokenizers.models.BPE())
    raw.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<eos>", "<bos>", "<pad>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator([TEXT] * 20, trainer)
    if bos:
        raw.post_processor = tokenizers.processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<eos>", bos_token="<bos>", pad_token="<pad>")


def model(family: str, **options):
    """A random model: width 32, 3 blocks, 4 heads, 64 positions, float32."""
    import transformers as t

    torch.manual_seed(0)
    shared = {"vocab_size": 304, "eos_token_id": 0, "bos_token_id": 1, "pad_token_id": 2}
    usual = {"hidden_size": 32, "num_hidden_layers": BLOCKS, "num_attention_heads": 4, "max_position_embeddings": 64}
    config = {
        "gpt_neox": lambda: t.GPTNeoXConfig(**shared, **usual, intermediate_size=64, rotary_pct=0.25, **options),
        "gemma2": lambda: t.Gemma2Config(
            **shared, **usual, intermediate_size=64, num_key_value_heads=2, head_dim=8, sliding_window=4
        ),
        "gemma3": lambda: t.Gemma3TextConfig(
            **shared, **usual, intermediate_size=64, num_key_value_heads=1, head_dim=8, sliding_window=4
        ),
        "llama": lambda: t.LlamaConfig(**shared, **usual, intermediate_size=64, num_key_value_heads=2),
        "qwen2": lambda: t.Qwen2Config(**shared, **usual, intermediate_size=64, num_key_value_heads=2),
        "qwen3": lambda: t.Qwen3Config(**shared, **usual, intermediate_size=64, num_key_value_heads=2, head_dim=12),
        "mistral": lambda: t.MistralConfig(**shared, **usual, intermediate_size=64, num_key_value_heads=2),
        "phi3": lambda: t.Phi3Config(**shared, **usual, intermediate_size=64, num_key_value_heads=2),
        "olmo2": lambda: t.Olmo2Config(**shared, **usual, intermediate_size=64, num_key_value_heads=2),
        "gpt2": lambda: t.GPT2Config(**shared, n_embd=32, n_layer=BLOCKS, n_head=4, n_positions=64),
        "opt": lambda: t.OPTConfig(**shared, **usual, ffn_dim=64, word_embed_proj_dim=32),
    }[family]()
    kind = {"gemma2": {"attn_implementation": "eager"}}.get(family, {})
    return t.AutoModelForCausalLM.from_config(config, **kind).eval()


def save(folder: Path, family: str, bos: bool = False) -> Path:
    """A folder as the hub lays it out."""
    folder.mkdir(parents=True, exist_ok=True)
    model(family).save_pretrained(folder)
    tokenizer(bos).save_pretrained(folder)
    return folder
