"""Tokenizers of a few words, made offline: T5's and Qwen's."""

import json
from typing import Any

WORDS = tuple(
    "no acute cardiopulmonary process small left pleural effusion large right pneumothorax cardiomegaly moderate edema"
    .split()
)
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)


def t5_tokenizer() -> Any:
    """Unigrams: the words, and letters for all others."""
    from transformers import T5Tokenizer

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces += [(f"▁{word}", -3.0 - i / 100) for i, word in enumerate(dict.fromkeys(WORDS))]
    pieces += [(letter, -8.0) for letter in "abcdefghijklmnopqrstuvwxyz▁.,'-:0123456789"]
    return T5Tokenizer(vocab=pieces, extra_ids=0, additional_special_tokens=[], model_max_length=512)


def qwen_tokenizer() -> Any:
    """Byte pairs of the words, with a chat template in the manner of Qwen3's."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import Qwen2Tokenizer

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    letters = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=letters, show_progress=False
    )
    bpe.train_from_iterator([" ".join(WORDS)] * 4, trainer)
    model = json.loads(bpe.to_str())["model"]
    merges = [tuple(pair.split(" ") if isinstance(pair, str) else pair) for pair in model["merges"]]
    tokenizer = Qwen2Tokenizer(vocab=model["vocab"], merges=merges, model_max_length=512)
    tokenizer.chat_template = CHAT
    return tokenizer
