"""Splits are told by whole words, and what stands for another split is said."""
import pytest

from official_ext.datasets import findings as findings_lib
from official_ext.datasets.readers import split_names


@pytest.mark.parametrize('path, split', [
    ('instances_train2017.json', 'train'), ('annotations/instances_val2014.json', 'val'),
    ('medieval_books.json', None), ('my-val_2.json', 'val'), ('Validation.json', 'val'),
    ('trainval.txt', 'trainval'), ('train_val.json', 'trainval'), ('restraint.csv', None),
    ('trainSet.csv', 'train'), ('TestLabels.csv', 'test'), ('TEST.csv', 'test'),
    ('valid/_annotations.coco.json', 'val'), ('train/labels/x.txt', 'train'),
    ('contest/latest.json', None), ('test_project_train.json', 'train'), ('strain.json', None),
    ('training data/a.json', 'train'), ('train.record-00000-of-00002', 'train'),
    ('train-00000-of-00002', 'train'), ('value.json', None), ('entrainement.json', None)])
def test_splits_are_told_by_whole_words(path, split):
  assert split_names.of_path(path) == split


@pytest.mark.parametrize('given, chosen, told', [
    ({'train': 1, 'val': 2, 'test': 3}, {'train': 1, 'val': 2}, 1),
    ({'train': 1, 'test': 3}, {'train': 1, 'val': 3}, 1),
    ({'trainval': 1, 'test': 3}, {'train': 1, 'val': 3}, 2),
    ({'train': 1, 'trainval': 4, 'val': 2}, {'train': 1, 'val': 2}, 1),
    ({None: 1}, {'train': 1}, 0), ({None: 1, 'train': 2}, {'train': 2}, 1),
    ({None: 1, 'val': 2}, {'train': 1, 'val': 2}, 0), ({'test': 1}, {}, 1)])
def test_train_and_val_are_chosen(given, chosen, told):
  findings = findings_lib.Findings()
  assert split_names.choose(given, 'file', findings) == chosen
  assert findings.count('noted') == told
