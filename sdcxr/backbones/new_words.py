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
    """Add the words of `--placeholder_token`; their rows begin as the mean of the initializer's.

    `encoder.new_words` then holds the ids of each word.

    Raises:
        UserError: a word is known already, or an initializer is not known.
    """
    words = words_of(config)
    starts = comma_list(config.initializer_token or "")
    if len(set(words)) < len(comma_list(config.placeholder_token or "")) or len(starts) not in (1, len(words)):
        raise UserError(
            f"--initializer_token {config.initializer_token}: give one word, or one for each of {', '.join(words)}, "
            "which have to differ"
        )
    tokens = [token for each in words.values() for token in each]
    if twice := next((token for token in tokens if tokens.count(token) > 1), None):
        raise UserError(f"--placeholder_token: {twice} is a word and a vector of another one: choose another")
    if taken := next((token for token in tokens if is_known(tokenizer, token)), None):
        raise UserError(f"--placeholder_token {taken}: the tokenizer has this word already, choose another")
    for token in tokens:
        tokenizer.add_tokens(token)
    for word, each in words.items():
        # Of a tokenizer that lowers capitals, only the first vector of <Word> would be read, and train.
        read = tokenizer(with_all_vectors(tokenizer, [word]), add_special_tokens=False)["input_ids"][0]
        if not {*tokenizer.convert_tokens_to_ids(each)} <= {*read}:
            raise UserError(
                f"--placeholder_token {word}: this tokenizer does not read all {len(each)} vectors of it, nor would "
                "that of plain diffusers: write it in small letters and angle brackets, such as <lung-xray>"
            )
    table = encoder.get_input_embeddings()
    first = [table.weight[token_ids(tokenizer, start)].mean(dim=0) for start in starts]
    begun = torch.stack(first * (len(words) // len(first))).repeat_interleave(config.num_vectors, dim=0)
    if len(tokenizer) > table.num_embeddings:
        encoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    encoder.new_words = {word: tokenizer.convert_tokens_to_ids(each) for word, each in words.items()}
    new_ids = [i for each in encoder.new_words.values() for i in each]
    encoder.get_input_embeddings().weight[new_ids] = begun


def with_all_vectors(tokenizer: Any, texts: list[str]) -> list[str]:
    """The texts with words of textual inversion that have several vectors (`<w>`, `<w>_1`, …) spelled out.

    As the pipeline does it.
    """
    added = tokenizer.get_added_vocab()
    if not any(f"{word}_1" in added for word in added):
        return texts
    from diffusers.loaders import TextualInversionLoaderMixin

    return list(TextualInversionLoaderMixin().maybe_convert_prompt(texts, tokenizer))


def token_ids(tokenizer: Any, word: str) -> list[int]:
    """The ids of a word's tokens.

    Raises:
        UserError: the tokenizer does not know it.
    """
    ids: list[int] = tokenizer(word, add_special_tokens=False)["input_ids"]
    if not ids or (tokenizer.unk_token_id in ids and tokenizer.unk_token_id != tokenizer.eos_token_id):
        raise UserError(f"--initializer_token {word}: the tokenizer does not know this word, choose another")
    return ids


def is_known(tokenizer: Any, word: str) -> bool:
    """Whether a tokenizer has a word: as an entry, or as the one token that the text is (`lung</w>` of CLIP)."""
    ids = tokenizer(word, add_special_tokens=False)["input_ids"]
    unknown = tokenizer.unk_token_id if tokenizer.unk_token_id != tokenizer.eos_token_id else None
    return word in tokenizer.get_vocab() or (len(ids) == 1 and ids[0] != unknown)


def require_words(ids: np.ndarray, words: dict[str, list[int]]) -> None:
    """Refuse captions that do not hold a new word, or not all of its vectors, which would then not train.

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
    if short := [word for word, its in words.items() if not np.isin(its, ids).all()]:
        raise UserError(
            f"--num_vectors {len(words[short[0]])}: all captions are cut before the last vector of {short[0]}: use "
            "fewer, shorter captions, or the word at their beginning"
        )
