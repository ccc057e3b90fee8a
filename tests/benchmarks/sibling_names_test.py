"""Benchmarks define the names that other benchmarks use; the test reads them and runs none."""
import ast
import pathlib

import pytest

FOLDER = pathlib.Path(__file__).parents[2] / 'benchmarks'
TREES = {path.stem: ast.parse(path.read_text(encoding='utf-8')) for path in FOLDER.glob('*.py')}


def _names(tree):
  """Returns the names that a module defines or imports at its top."""
  found = set()
  for node in tree.body:
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
      found.add(node.name)
    elif isinstance(node, (ast.Import, ast.ImportFrom)):
      found |= {(alias.asname or alias.name).split('.')[0] for alias in node.names}
    else:
      found |= {name.id for name in ast.walk(node) if isinstance(name, ast.Name)}
  return found


@pytest.mark.parametrize('name', sorted(TREES))
def test_names_of_other_benchmarks_exist(name):
  used = {(node.value.id, node.attr) for node in ast.walk(TREES[name])
          if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
          and node.value.id in TREES}
  imported = {alias.name for node in ast.walk(TREES[name]) if isinstance(node, ast.Import)
              for alias in node.names if not alias.asname}
  missing = {(module, attribute) for module, attribute in used
             if module in imported and attribute not in _names(TREES[module])}
  assert not missing
