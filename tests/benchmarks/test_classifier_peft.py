"""The benchmark of classifiers' methods: a folder's runs are of one source."""

import importlib
from pathlib import Path

import pytest

from sdcxr.runtime.errors import UserError


def test_runs_of_another_dataset_are_not_taken_for_those_of_this_one(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    benchmark = importlib.import_module("classifier_peft")

    def begin(**sources):
        paths = {name: tmp_path / path for name, path in sources.items()}
        benchmark.record_sources(benchmark.ClassifierPeftConfig(tmp_path, **paths), tmp_path / "sources.json")

    begin(data="one")
    begin(data="one", real="nih")  # more may be added
    begin()  # phantoms
    for other in ({"data": "two"}, {"data": "one", "labels": "l.csv"}, {"real": "else"}, {"labels": "l.csv"}):
        with pytest.raises(UserError, match="was begun with other settings"):
            begin(**other)
