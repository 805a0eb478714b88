"""CLIP's tokenizer, from the file that ships inside open_clip_torch; without torch."""

import gzip
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sdcxr.runtime.errors import UserError

CLIP_TOKENS = 77  # of a text, with its start and end


def n_longer(texts: Iterable[str], tokens: int = CLIP_TOKENS) -> int:
    """How many texts have more tokens than that, start and end included."""
    # A token is at least a byte of the normalised text: most texts need no vocabulary, which takes a second to read.
    long = [text for text in texts if len(unicodedata.normalize("NFC", text).lower().encode()) > tokens - 2]
    if not long:
        return 0
    found = clip_tokenizer()(list(set(long)), truncation=False, verbose=False)["input_ids"]
    longer = {text for text, ids in zip(set(long), found, strict=True) if len(ids) > tokens}
    return sum(text in longer for text in long)


def describe_longer(n: int, of: int) -> str:
    """A line about so many of so many texts that are longer; empty where none is."""
    if not n:
        return ""
    return (
        f"captions: {n:,} of {of:,} ({n / of:.1%}) have more than {CLIP_TOKENS} tokens of CLIP: training cuts them, "
        f"or takes them in windows (train.py --text_length {3 * CLIP_TOKENS})\n"
    )


def clip_tokenizer(max_length: int = CLIP_TOKENS) -> Any:
    """CLIP's tokenizer, its vocabulary built from the merges that ship inside open_clip_torch.

    Raises:
        UserError: the installed open_clip_torch has no such file.
    """
    import importlib.util

    from transformers import CLIPTokenizer

    package = importlib.util.find_spec("open_clip")
    path = Path(package.origin or "").parent / "bpe_simple_vocab_16e6.txt.gz" if package else Path()
    if not path.is_file():
        raise UserError("open_clip_torch with its CLIP vocabulary is not installed: pip install open_clip_torch")
    with gzip.open(path, "rt", encoding="utf-8") as file:
        lines = file.read().split("\n")[1:]  # the first line is a version
    merges = [tuple(line.split()) for line in lines[: 49152 - 256 - 2]]
    letters = byte_letters()
    words = [*letters, *(letter + "</w>" for letter in letters), *("".join(merge) for merge in merges)]
    vocabulary = {word: i for i, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=max_length)


def byte_letters() -> list[str]:
    """GPT-2's printable stand-ins for the 256 bytes, in the order of CLIP's vocabulary."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(others))]
