"""Results are kept for the next run, of the same things only."""
import pytest

from official_ext.utils import command_line
from official_ext.utils import kept_results

IDENTITY = {'model': 'a', 'data': 'b', 'machine': {'cores': 2}}


def test_results_are_there_for_the_next_run(tmp_path):
  folder = tmp_path / 'new' / 'folder'
  first = kept_results.KeptResults(folder, IDENTITY)
  assert first.get('times/1.json') is None
  first.keep('times/1.json', [1.5])
  second = kept_results.KeptResults(folder, IDENTITY)
  assert second.get('times/1.json') == [1.5]
  second.keep('times/1.json', [2.5])
  assert first.get('times/1.json') == [2.5]
  assert [path.name for path in (folder / 'times').iterdir()] == ['1.json']


@pytest.mark.parametrize('change, names', [
    ({'model': 'c'}, 'model'), ({'machine': {'cores': 3}}, 'machine'),
    ({'model': 'c', 'data': 'd'}, 'model and data')])
def test_results_of_other_things_are_refused(tmp_path, change, names):
  kept_results.KeptResults(tmp_path, IDENTITY)
  with pytest.raises(command_line.CommandError, match=f'has results of another {names}: give'):
    kept_results.KeptResults(tmp_path, {**IDENTITY, **change})


def test_a_folder_or_file_of_others_is_refused(tmp_path):
  (tmp_path / 'mine.txt').write_text('')
  for path in (tmp_path, tmp_path / 'mine.txt'):
    with pytest.raises(command_line.CommandError, match='was not written by this command'):
      kept_results.KeptResults(path, IDENTITY)
  assert [path.name for path in tmp_path.iterdir()] == ['mine.txt']


def test_a_damaged_file_is_named(tmp_path):
  kept = kept_results.KeptResults(tmp_path, IDENTITY)
  (tmp_path / 'one.json').write_text('{')
  with pytest.raises(command_line.CommandError, match='one.json is damaged .* remove it'):
    kept.get('one.json')
  kept.keep('one.json', [])
  with pytest.raises(command_line.CommandError, match='one.json is damaged: remove it'):
    kept.get('one.json', bool)
  (tmp_path / 'measured.json').write_text('[]')
  with pytest.raises(command_line.CommandError, match='measured.json is damaged: remove it'):
    kept_results.KeptResults(tmp_path, IDENTITY)


def test_results_are_listed(tmp_path):
  kept = kept_results.KeptResults(tmp_path, IDENTITY)
  assert not kept.names('times')
  kept.keep('times/2.json', 2)
  kept.keep('times/1.json', 1)
  # A process that was killed leaves such files behind.
  (tmp_path / 'times' / '.3.host-1-new-0.json').write_text('')
  assert kept.names('times') == ['times/1.json', 'times/2.json']
