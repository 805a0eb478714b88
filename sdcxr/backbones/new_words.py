"""New words of textual inversion: in the tokenizer, and as rows of the text encoder's embedding."""

from typing import Any

import numpy as np
import torch

from sdcxr.config import TrainConfig
from sdcxr.runtime.errors import UserError


def words_of(config: TrainConfig) -> dict[str, list[str]]:
    """The tokens of every new word: <w>, and with several vectors <w>, <w>_1, …, as diffusers names them."""
    words = comma_list(config.placeholder_token or "")
    return {word: [word, *(f"{word}_{i}" for i in range(1, config.num_vectors))] for word in words}


def comma_list(text: str) -> list[str]:
    """The parts between commas, without white space around them, without empty ones."""
    return [part.strip() for part in text.split(",") if part.strip()]


@torch.no_grad()
def add_words(tokenizer: Any, encoder: Any, config: TrainConfig) -> None:
    """Add the words of `--placeholder_token`; their rows begin as copies of the initializer's.

    `encoder.new_words` then holds the ids of each word.

    Raises:
        UserError: a word is known already, or an initializer is not one known token.
    """
    words = words_of(config)
    starts = comma_list(config.initializer_token or "")
    if len(set(words)) < len(comma_list(config.placeholder_token or "")) or len(starts) not in (1, len(words)):
        raise UserError(
            f"--initializer_token {config.initializer_token}: give one word, or one for each of {', '.join(words)}, "
            "which have to differ"
        )
    ids = [initializer_id(tokenizer, start) for start in starts] * (len(words) if len(starts) == 1 else 1)
    known = tokenizer.get_vocab()
    tokens = [token for each in words.values() for token in each]
    if taken := next((token for token in tokens if token in known), None):
        raise UserError(f"--placeholder_token {taken}: the tokenizer has this word already, choose another")
    for token in tokens:
        tokenizer.add_tokens(token)
    table = encoder.get_input_embeddings()
    rows = [row for row in ids for _ in range(config.num_vectors)]
    begun = table.weight[rows].clone()
    if len(tokenizer) > table.num_embeddings:
        encoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    encoder.new_words = {word: tokenizer.convert_tokens_to_ids(each) for word, each in words.items()}
    new_ids = [i for each in encoder.new_words.values() for i in each]
    encoder.get_input_embeddings().weight[new_ids] = begun


def initializer_id(tokenizer: Any, word: str) -> int:
    """The id of a word that is one token.

    Raises:
        UserError: it is several tokens, or unknown.
    """
    ids = tokenizer(word, add_special_tokens=False)["input_ids"]
    if len(ids) != 1 or ids[0] == tokenizer.unk_token_id:
        raise UserError(f"--initializer_token {word}: is {len(ids)} tokens or unknown, choose a word that is one token")
    return int(ids[0])


def require_words(ids: np.ndarray, words: dict[str, list[int]]) -> None:
    """Refuse captions that do not hold a new word, which would then not train.

    Args:
        ids: token ids of the captions, shape (n, tokens).
        words: ids of every new word.

    Raises:
        UserError: names the words that no caption holds.
    """
    if absent := [word for word, its in words.items() if not np.isin(ids, its).any()]:
        raise UserError(
            f"--placeholder_token: no caption holds {', '.join(absent)}: give the dataset captions that do, or use "
            f'--token_caption, such as "a photo of a {absent[0]}"'
        )
