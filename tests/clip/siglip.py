"""A small model of SigLIP's kind in a folder, with a tokenizer of transformers beside it."""

import json
from pathlib import Path
from string import ascii_lowercase, digits
from typing import Any

import torch

SCALE, BIAS = 112.0, -16.5
WORDS = ("a", "photo", "of", "the", "cat", "dog", "snow", "leopard", "digit")
CONTEXT_LENGTH = 24


def write_siglip(folder: Path, **text: Any) -> str:
    """Write the folder; return its architecture. `text` changes the text tower's configuration."""
    import open_clip
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    config = {
        "embed_dim": 64,
        "init_logit_bias": -10,
        "custom_text": True,
        "vision_cfg": {
            "image_size": 32, "timm_model_name": "test_vit", "timm_model_pretrained": False,
            "timm_pool": "map", "timm_proj": "none",
        },
        "text_cfg": {
            "context_length": CONTEXT_LENGTH, "vocab_size": 64, "hf_tokenizer_name": "tokenizer",
            "tokenizer_kwargs": {"clean": "canonicalize"}, "width": 32, "heads": 2, "layers": 1,
            "no_causal_mask": True, "proj_bias": True, "pool_type": "last",
        } | text,
    }  # fmt: skip
    write_tokenizer(folder)
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}})
    )
    torch.manual_seed(0)
    model: Any = open_clip.CustomTextCLIP(
        **{name: value for name, value in config.items() if name != "custom_text"}
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
        model.logit_scale.fill_(torch.tensor(SCALE).log())
        model.logit_bias.fill_(BIAS)
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors")
    return f"local-dir:{folder}"


def write_tokenizer(folder: Path) -> None:
    """Write a tokenizer as SigLIP's: pieces of words, an end, no start, padded behind."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    whole = [f"▁{word}" for word in WORDS]
    pieces = ["<pad>", "</s>", "<unk>", *whole, "▁", *ascii_lowercase, *digits]
    vocabulary = [(piece, -float(len(pieces) - len(piece))) for piece in pieces]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "T5Tokenizer", "extra_ids": 0, "model_max_length": 64,
        "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>",
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
