"""Tests of eval.text_models: the networks' scores on small random networks of the same kinds, and absent files."""

import shutil
import sys
import types

import numpy as np
import pytest
import torch

from eval.radiology_text import networks as text_models
from eval.radiology_text.networks import bertscore, chexbert_labels, locate_metric_weights, radgraph_f1
from sdcxr.io.manifest import LABELS
from sdcxr.runtime.errors import UserError

pytestmark = pytest.mark.usefixtures("no_network")

VOCABULARY = "[PAD] [UNK] [CLS] [SEP] [MASK] no small left right effusion pneumothorax is seen the heart normal . ,"
WORDS = VOCABULARY.split()


def save_tokenizer(folder):
    from transformers import BertTokenizer

    BertTokenizer(vocab={word: i for i, word in enumerate(WORDS)}, model_max_length=64).save_pretrained(folder)


@pytest.fixture(scope="module")
def weights_dir(tmp_path_factory):
    """distilbert-base-uncased, bert-base-uncased's tokenizer and chexbert.pth at a fraction of their sizes."""
    from transformers import BertConfig, BertModel, DistilBertConfig, DistilBertModel

    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("weights")
    save_tokenizer(root / "distilbert-base-uncased")
    save_tokenizer(root / "bert-base-uncased")
    config = DistilBertConfig(vocab_size=len(WORDS), dim=32, n_heads=2, n_layers=6, hidden_dim=64)
    DistilBertModel(config).save_pretrained(root / "distilbert-base-uncased")
    size = {"hidden_size": 64, "num_attention_heads": 1, "num_hidden_layers": 2, "intermediate_size": 32}
    encoder = BertModel(BertConfig(vocab_size=len(WORDS), max_position_embeddings=64, **size))
    heads = [torch.nn.Linear(64, 4) for _ in range(13)] + [torch.nn.Linear(64, 2)]
    for i, head in enumerate(heads):  # each head always says one class: 0, 1, 2, 3, 0, 1, …
        torch.nn.init.zeros_(head.weight)
        head.bias.data = torch.nn.functional.one_hot(torch.tensor(i % 4), 4)[: len(head.bias)].float()
    state = {f"module.bert.{name}": value for name, value in encoder.state_dict().items()}
    for i, head in enumerate(heads):
        state |= {f"module.linear_heads.{i}.{name}": value for name, value in head.state_dict().items()}
    torch.save({"model_state_dict": state, "epoch": 3}, root / "chexbert.pth")
    return root


def test_bertscore_is_one_for_the_same_words_and_rescaled(weights_dir):
    same, other, empty = bertscore(
        ["no effusion", "no effusion", "no effusion"], ["No effusion", "left heart .", ""], weights_dir
    )
    assert same == pytest.approx(1)
    assert other < 1
    baseline = text_models.BERTSCORE_BASELINE
    assert empty == pytest.approx(-baseline / (1 - baseline))
    raw = bertscore(["no effusion"], ["left heart ."], weights_dir, baseline=0.0)
    assert other == pytest.approx((raw[0] - baseline) / (1 - baseline))


def test_bertscore_matches_each_token_with_its_best():
    """Two tokens against one, between special tokens that do not count: precision 1 and recall (1 + 0) / 2."""
    special, x, y = np.array([0.0, 0, 1]), np.array([1.0, 0, 0]), np.array([0, 1.0, 0])
    score = text_models._greedy_f1(np.stack([special, x, y, special]), np.stack([special, x, special]))
    assert score == pytest.approx(2 * 1 * 0.5 / 1.5)


def test_bertscore_does_not_depend_on_the_batch(weights_dir):
    texts = ["no effusion", "small left pneumothorax is seen .", "the heart"], ["heart", "no effusion , normal", "left"]
    assert bertscore(*texts, weights_dir, batch_size=1) == pytest.approx(bertscore(*texts, weights_dir), abs=1e-5)


def test_a_distilbert_with_gaps_is_not_filled_at_random(weights_dir, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "distilbert-base-uncased"
    shutil.copytree(weights_dir / folder.name, folder)
    state = load_file(folder / "model.safetensors")
    gap = next(name for name in state if "layer.3" in name)
    save_file({k: v for k, v in state.items() if k != gap}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"1 weights are absent .*layer\.3"):
        bertscore(["no"], ["no"], tmp_path)
    (folder / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(UserError, match="cannot be loaded"):
        bertscore(["no"], ["no"], tmp_path)


def test_chexberts_classes_become_labels_by_name(weights_dir):
    found = chexbert_labels(["no effusion", "left heart", ""], weights_dir)
    assert set(found.columns) == set(LABELS) and len(found) == 3
    row = found.iloc[0]
    assert np.isnan(row["Enlarged Cardiomediastinum"]) and np.isnan(row["Edema"])  # class 0: not mentioned
    assert row["Cardiomegaly"] == 1 and row["Consolidation"] == 1 and row["No Finding"] == 1
    assert row["Lung Opacity"] == 0 and row["Pneumonia"] == 0
    assert row["Lung Lesion"] == -1 and row["Atelectasis"] == -1


def test_a_damaged_chexbert_is_one_line(weights_dir, tmp_path):
    (tmp_path / "bert-base-uncased").symlink_to(weights_dir / "bert-base-uncased")
    torch.save({"model_state_dict": {"module.bert.x": torch.zeros(1)}}, tmp_path / "chexbert.pth")
    with pytest.raises(UserError, match="not CheXbert's checkpoint"):
        chexbert_labels(["no"], tmp_path)
    (tmp_path / "chexbert.pth").write_bytes(b"<html>not found</html>")
    with pytest.raises(UserError, match="not CheXbert's checkpoint"):
        chexbert_labels(["no"], tmp_path)


@pytest.mark.parametrize(
    ("metric", "named"),
    [
        ("bertscore", r"distilbert-base-uncased \(268 MB\)"),
        ("chexbert", r"chexbert.pth \(1.31 GB\).*StanfordAIMI/RRG_scorers"),
        ("radgraph", "pip install radgraph"),
    ],
)
def test_what_is_absent_is_named_with_size_and_origin(metric, named, tmp_path):
    with pytest.raises(UserError, match=named):
        locate_metric_weights(metric, tmp_path)


def test_radgraph_is_asked_only_when_nothing_would_be_downloaded(tmp_path, monkeypatch):
    asked = []

    class F1RadGraph:
        def __init__(self, **settings):
            asked.append(settings)

        def __call__(self, refs, hyps):
            return (0.5, 0.4, 0.3), ([0.5] * len(refs), [0.4] * len(refs), [0.3] * len(refs)), [], []

    module = types.ModuleType("radgraph")
    module.F1RadGraph = F1RadGraph
    module.__spec__ = types.SimpleNamespace(name="radgraph")
    monkeypatch.setitem(sys.modules, "radgraph", module)
    with pytest.raises(UserError, match=r"unpack radgraph.tar.gz, 432 MB"):
        radgraph_f1(["a"], ["b"], tmp_path)
    (tmp_path / "radgraph").mkdir()
    (tmp_path / "radgraph" / "weights.th").touch()
    settings = '{"dataset_reader": {"token_indexers": {"bert": {"model_name": "%s"}}}}'
    (tmp_path / "radgraph" / "config.json").write_text(settings % "nobody/nothing")
    with pytest.raises(UserError, match="nobody/nothing"):
        radgraph_f1(["a"], ["b"], tmp_path)
    assert not asked
    (tmp_path / "radgraph" / "config.json").write_text(settings % tmp_path)
    assert radgraph_f1(["a", "b"], ["b", "c"], tmp_path).tolist() == [[0.5] * 2, [0.4] * 2, [0.3] * 2]
    assert asked == [{"reward_level": "all", "model_type": "radgraph", "model_cache_dir": str(tmp_path)}]
