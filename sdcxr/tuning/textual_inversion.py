"""Textual inversion (Gal et al. 2022, arXiv 2208.01618): only the embeddings of new words train."""

import copy
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sdcxr.config import TrainConfig
from sdcxr.tuning.base import TuningMethod, copy_exactly


class NewRows(nn.Module):
    """An embedding whose rows from `first` on are a parameter of their own; all others cannot move.

    Args:
        table: with the rows that they begin as.
        first: id of the first new row.
        n: number of new rows.
    """

    def __init__(self, table: nn.Embedding, first: int, n: int):
        super().__init__()
        self.table, self.first = table, first
        self.rows = nn.Parameter(table.weight[first : first + n].detach().clone())

    @property
    def weight(self) -> Tensor:
        """The rows as they were."""
        return self.table.weight

    def forward(self, ids: Tensor) -> Tensor:
        place = ids - self.first
        new = (place >= 0) & (place < len(self.rows))
        rows = nn.functional.embedding(place.clamp(0, len(self.rows) - 1), self.rows)
        return torch.where(new[..., None], rows, self.table(ids))


class TextualInversion(TuningMethod):
    """For a text encoder with `new_words` (see `sdcxr.backbones.new_words`)."""

    name: ClassVar[str] = "textual_inversion"
    serves: ClassVar[tuple[str, ...]] = ("Embedding",)
    options: ClassVar[tuple[str, ...]] = ("placeholder_token", "initializer_token", "num_vectors")
    learning_rate_factor: ClassVar[float] = 1.0
    file_per_tensor: ClassVar[bool] = True
    """One word a file, as `load_textual_inversion` of diffusers reads them."""

    def inject(self, module: Any, config: TrainConfig) -> list[str]:
        ids = [i for each in module.new_words.values() for i in each]
        module.set_input_embeddings(NewRows(module.get_input_embeddings(), ids[0], len(ids)))
        return [name for name, _ in module.named_parameters() if name.endswith(".rows")]

    def state(self, module: Any) -> dict[str, Tensor]:
        embedding = module.get_input_embeddings()
        return {word: embedding.rows[[i - embedding.first for i in ids]] for word, ids in module.new_words.items()}

    @torch.no_grad()
    def load(self, module: Any, state: dict[str, Tensor]) -> None:
        own = self.state(module)
        copy_exactly(state, own, "an adapter of new words")
        embedding = module.get_input_embeddings()
        for word, ids in module.new_words.items():
            embedding.rows[[i - embedding.first for i in ids]] = own[word]

    @torch.no_grad()
    def merge(self, module: Any) -> Any:
        merged = copy.deepcopy(module)
        embedding = merged.get_input_embeddings()
        embedding.table.weight[embedding.first : embedding.first + len(embedding.rows)] = embedding.rows
        merged.set_input_embeddings(embedding.table)
        return merged
