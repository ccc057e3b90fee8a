"""The table of mistakes: each can be made, and the file is still valid Python."""
import ast
import pathlib

import check_mutations
import mutation as mutation_lib
import mutations
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.mark.parametrize('mutation', mutations.MUTATIONS, ids=lambda one: f'{one.path}: {one.old}')
def test_a_mistake_can_be_made(mutation, tmp_path):
  path = tmp_path / 'official_ext' / mutation.path
  path.parent.mkdir(parents=True)
  original = (ROOT / 'official_ext' / mutation.path).read_text(encoding='utf-8')
  path.write_text(original, encoding='utf-8')
  assert check_mutations.apply(mutation, tmp_path) == (path, original)
  changed = path.read_text(encoding='utf-8')
  assert ast.dump(ast.parse(changed)) != ast.dump(ast.parse(original))
  assert (ROOT / 'tests' / mutation.tests).is_file()


@pytest.mark.parametrize('times', (0, 2))
def test_text_that_does_not_occur_once_is_refused(times, tmp_path):
  path = tmp_path / 'official_ext' / 'one.py'
  path.parent.mkdir()
  path.write_text('a = 1\n' * times, encoding='utf-8')
  mutation = mutation_lib.Mutation('one.py', 'a = 1', 'a = 2', 'one_test.py')
  with pytest.raises(ValueError, match=f"one.py has 'a = 1' {times} times"):
    check_mutations.apply(mutation, tmp_path)
  assert path.read_text(encoding='utf-8') == 'a = 1\n' * times
