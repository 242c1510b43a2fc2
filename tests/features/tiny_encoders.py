"""Pre-trained encoders in miniature: folders as published ones are, with random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

SPEECH_FAMILIES = ("wav2vec2", "hubert", "wavlm", "unispeech-sat", "data2vec-audio")

_SPEECH = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "conv_dim": (16, 16, 16),
    "conv_stride": (5, 4, 4),
    "conv_kernel": (10, 4, 4),
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "conv_pos_kernel_size": 5,  # of data2vec-audio
    "layerdrop": 0.0,
}

WORDS = ["i", "know", "what", "is", "the", "problem", "hello", "world", "again"]


def speech_folder(
    folder: Path,
    family: str = "wav2vec2",
    *,
    norm: str = "group",
    preprocessor: dict[str, Any] | None = None,
    **changes: Any,
) -> Path:
    """Save a speech encoder of 25 thousand parameters; its frames are 80 samples apart.

    Parameters
    ----------
    norm
        ``group`` as the published base models, ``layer`` as the large ones.
    preprocessor
        Content of ``preprocessor_config.json``; ``None``: no such file.
    changes
        Values of the network's configuration.
    """
    from transformers import AutoConfig, AutoModel

    settings = _SPEECH | {"feat_extract_norm": norm, "do_stable_layer_norm": norm == "layer"}
    torch.manual_seed(0)
    model = AutoModel.from_config(AutoConfig.for_model(family, **(settings | changes)))
    _make_uneven(model)
    model.save_pretrained(folder)
    if preprocessor is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return folder


def whisper_folder(folder: Path, *, window_s: float = 1.0, **changes: Any) -> Path:
    """Save a Whisper of two layers that reads windows of a second."""
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    settings = {
        "d_model": 32,
        "encoder_layers": 2,
        "encoder_attention_heads": 4,
        "encoder_ffn_dim": 64,
        "decoder_layers": 1,
        "decoder_attention_heads": 4,
        "decoder_ffn_dim": 64,
        "num_mel_bins": 20,
        "max_source_positions": round(50 * window_s),
        "max_target_positions": 8,
        "vocab_size": 30,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "decoder_start_token_id": 1,
        "suppress_tokens": [],
        "begin_suppress_tokens": [],
    }
    torch.manual_seed(0)
    model = WhisperForConditionalGeneration(WhisperConfig(**(settings | changes)))
    _make_uneven(model)
    model.save_pretrained(folder)
    return folder


def w2v_bert_folder(folder: Path, **changes: Any) -> Path:
    """Save a w2v-BERT 2.0 of two layers."""
    from transformers import AutoModel, Wav2Vec2BertConfig

    settings = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "conv_depthwise_kernel_size": 5,
        "layerdrop": 0.0,
    }
    torch.manual_seed(0)
    model = AutoModel.from_config(Wav2Vec2BertConfig(**(settings | changes)))
    _make_uneven(model)
    model.save_pretrained(folder)
    return folder


def text_folder(folder: Path, family: str = "roberta", **changes: Any) -> Path:
    """Save a text encoder with a tokenizer of whole words, ``<s> ... </s>``, 62 tokens at most."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

    special = ["<s>", "<pad>", "</s>", "<unk>"]
    vocabulary = {token: i for i, token in enumerate(special + WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
    ).save_pretrained(folder)
    settings = {
        "vocab_size": 100,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 64,
        "pad_token_id": 1,
    }
    torch.manual_seed(0)
    model = AutoModel.from_config(AutoConfig.for_model(family, **(settings | changes)))
    _make_uneven(model)
    model.save_pretrained(folder)
    return folder


def _make_uneven(model: torch.nn.Module) -> None:
    """Move every parameter: zero biases and unit gains would hide mistakes."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
