"""Classes are packed for the network by a stated rule, and keep the user's own ids and names."""
import pytest

from dataset_files import by_reason
from official_ext.datasets import annotations
from official_ext.datasets import categories
from official_ext.datasets import findings as findings_lib
from official_ext.datasets import normal_values
from official_ext.utils import command_line


def split(name, *pairs):
  entries = [dict(id=number, name=label) for number, label in pairs]
  return annotations.Split(name, f'{name}.json', [], [], entries, [])


def merge(train, val=None):
  """Returns the classes of two splits, and what was found."""
  findings = findings_lib.Findings()
  merged = categories.merge(
      {'train': split('train', *train), 'val': split('val', *(train if val is None else val))},
      findings)
  return merged, findings


def test_ids_with_few_gaps_are_kept():
  merged, findings = merge([(7, 'dog'), (1, 'cat')], [(9, 'cow'), (1, 'cat')])
  assert merged.names == {1: 'cat', 7: 'dog', 9: 'cow'} and list(merged.names) == [1, 7, 9]
  assert merged.num_classes == 10
  assert merged.to_coco()[1] == dict(id=7, name='dog', original_id=7)
  assert not findings.to_json()
  assert [merged.record_id(value) for value in (7, '7', 7.0, 8, None, True)] == [
      7, 7, 7, None, None, None]


def test_cocos_80_classes_keep_their_91_outputs():
  gaps = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
  merged, _ = merge([(number, f'c{number}') for number in range(1, 91) if number not in gaps])
  assert len(merged) == 80 and merged.num_classes == 91
  assert merged.original_ids == {number: number for number in merged.names}


@pytest.mark.parametrize('ids, in_records', [
    ((0, 1), (1, 2)), ((0, 4), (1, 2)), ((74673216, 12), (2, 1)), ((-1, 3), (1, 2)),
    (('cat-3', 'cat-1'), (1, 2)), (('x', 5), (2, 1)), ((1, 15), (1, 2)), ((1, 14), (1, 14)),
    (('1', '2'), (1, 2)), ((1.0, 2.0), (1, 2)), (('2', '0'), (2, 1))])
def test_odd_ids_are_packed_and_given_back(ids, in_records):
  merged, findings = merge([(ids[0], 'red'), (ids[1], 'green')])
  assert [merged.record_id(value, 'train') for value in ids] == list(in_records)
  assert {merged.names[number] for number in in_records} == {'red', 'green'}
  assert merged.names[in_records[0]] == 'red'
  assert [merged.original_ids[number] for number in in_records] == list(ids)
  is_kept = [normal_values.normal_id(value) for value in ids] == list(in_records)
  assert len(by_reason(findings.to_json(), 'fixed', 'train')) == (not is_kept)
  again = categories.from_coco(merged.to_coco())
  assert again.to_coco() == merged.to_coco()
  assert [again.record_id(value) for value in ids] == list(in_records)


def test_splits_with_other_ids_for_the_same_names_are_matched_by_name():
  merged, findings = merge([(1, 'red'), (2, 'green')], [(1, 'green'), (2, 'red')])
  assert merged.names == {1: 'red', 2: 'green'}
  assert [merged.record_id(number, 'train') for number in (1, 2)] == [1, 2]
  assert [merged.record_id(number, 'val') for number in (1, 2)] == [2, 1]
  assert list(by_reason(findings.to_json(), 'noted', 'val').values()) == [[
      'val.json green: 1, before 2', 'val.json red: 2, before 1']]


def test_a_split_may_leave_out_categories():
  merged, _ = merge([(5, 'red'), (6, 'green')], [])
  assert [merged.record_id(number, 'val') for number in (5, 6)] == [5, 6]
  merged, _ = merge([(0, 'red'), (1, 'green')], [(1, 'green')])
  assert [merged.record_id(number, 'val') for number in (0, 1)] == [1, 2]


def test_a_name_that_repeats_is_several_classes():
  merged, _ = merge([(1, 'part'), (2, 'part'), (3, 'whole')], [(2, 'part'), (3, 'whole')])
  assert merged.names == {1: 'part', 2: 'part', 3: 'whole'}
  assert [merged.record_id(number, 'val') for number in (1, 2, 3)] == [1, 2, 3]


def test_names_become_one_line_and_missing_ones_the_id():
  merged, findings = merge([(1, 'red\ncar '), (2, None)])
  assert merged.names == {1: 'red car', 2: '2'}
  assert by_reason(findings.to_json(), 'fixed', 'val') == {
      'category has no name: its id is taken': ['val.json 2']}


@pytest.mark.parametrize('pairs, val, message', [
    ([], [], 'train.json has no categories'),
    ([(None, 'cat')], [], "train.json: category 'cat' has no id that can be used: None"),
    ([(True, 'cat')], [], 'has no id'),
    ([(1, 'cat'), ('1', 'dog')], [], "train.json: category id 1 is both 'cat' and 'dog'"),
    ([(1, 'cat')], [(1, 'Cat')], "val.json: category id 1 is both 'cat' and 'Cat'")])
def test_unusable_categories_are_refused(pairs, val, message):
  with pytest.raises(command_line.CommandError, match=message):
    merge(pairs, val)


@pytest.mark.parametrize('entry', [
    {'id': 1}, {'id': 'x', 'name': 'cat'}, {'id': 1, 'name': 'cat', 'original_id': ''}])
def test_damaged_lists_are_refused(entry):
  with pytest.raises(ValueError):
    categories.from_coco([entry])
  with pytest.raises(ValueError, match='two classes'):
    categories.from_coco([{'id': 1, 'name': 'cat'}, {'id': 1, 'name': 'dog'}])
