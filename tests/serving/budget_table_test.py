"""The choice of a budget by a table, and its words."""
import re
import types

import pytest

from official_ext.serving import budget_table
from official_ext.utils import command_line
from official_ext.utils import machine


def _point(budget, median, gmac):
  return {'budget': budget, 'ap': 0.3, 'ap50': 0.5, 'gmac_mean': gmac, 'gmac_min': gmac - 1,
          'gmac_max': gmac + 1, 'milliseconds': {'tensorflow': {
              '1': {'low': median - 1, 'median': median, 'high': median + 2},
              '8': {'low': 7 * median, 'median': 8 * median, 'high': 9 * median}}}}


# A higher budget was measured to be faster than one below it.
TABLE = {'data': {'name': 'cells', 'images': 87}, 'machine': machine.describe(), 'points': [
    _point(1.0, 30.0, 4.0), _point(0.0, 10.0, 2.0), _point(0.4, 21.0, 2.5), _point(0.6, 20.0, 3.0)]}
OTHER = {'processor': 'Abacus', 'cores': 1, 'system': 'Wood'}


def _choose(flag, value, table=TABLE, batch_size=1, fixed=None, engine='tensorflow'):
  detector = types.SimpleNamespace(
      description={'budgets': table}, engine=engine, batch_size=fixed)
  return budget_table.choose(
      detector, budget_table.Limit(flag, value), batch_size, '--saved_model=export')


@pytest.mark.parametrize('flag, value, batch_size, expected', [
    ('--max_ms', 10, 1, 0.0), ('--max_ms', 19.9, 1, 0.0), ('--max_ms', 20, 1, 0.6),
    ('--max_ms', 29, 1, 0.6), ('--max_ms', 30, 1, 1.0), ('--max_ms', 168, 8, 0.6),
    ('--max_ms', 80, 8, 0.0), ('--max_gmac', 2.5, 3, 0.4), ('--max_gmac', 2.9, 1, 0.4),
    ('--max_gmac', 99, 1, 1.0)])
def test_the_largest_measured_budget_that_fits(flag, value, batch_size, expected):
  assert _choose(flag, value, batch_size=batch_size)[0]['budget'] == expected


def test_the_fixed_batch_size_of_an_export_counts():
  assert _choose('--max_ms', 80, batch_size=1, fixed=8)[0]['budget'] == 0.0


def test_what_to_expect_is_said():
  here = machine.text(machine.describe())
  assert _choose('--max_ms', 25)[1] == (
      'Budget 0.6 for --max_ms=25: 20.0 ms for an image (quartiles 19.0 to 22.0) in tensorflow, '
      'AP 0.300, AP50 0.500, 3.000 GMAC per image (2.000 to 4.000); measured on 87 images of '
      f'cells, on {here}.')
  assert ': 160.0 ms for 8 images (quartiles 140.0 to 180.0) in' in _choose(
      '--max_ms', 200, batch_size=8)[1]
  # Multiply-adds are the same on every machine, and a table need not have times for them.
  foreign = {**TABLE, 'machine': OTHER}
  assert _choose('--max_gmac', 3, foreign, engine='onnx')[1] == (
      'Budget 0.6 for --max_gmac=3: AP 0.300, AP50 0.500, 3.000 GMAC per image (2.000 to 4.000); '
      'measured on 87 images of cells, on Abacus, 1 core, Wood.')
  assert (f' This machine is another, {here}, and may take other times: measure them with python '
          '-m official_ext.tools.frontier --calibrate.') in _choose('--max_ms', 25, foreign)[1]


@pytest.mark.parametrize('flag, table, changes, message', [
    ('--max_ms', TABLE, {}, '--max_ms=1: no budget fits; 0 takes the least, 10 ms; measured on 87 '
     'images of cells, on .*[^g]$'),
    ('--max_gmac', TABLE, {}, '--max_gmac=1: no budget fits; 0 takes the least, 2 GMAC; measured'),
    ('--max_ms', {**TABLE, 'machine': OTHER}, {}, 'on Abacus, 1 core, Wood. This machine is '
     'another, .* measure them with'),
    ('--max_ms', None, {}, '--max_ms: --saved_model=export has no table of budgets: make one with'),
    ('--max_ms', TABLE, {'engine': 'onnx'}, 'no times of batches of 1 in onnx, but of 1 in '
     'tensorflow, 8 in tensorflow: give another --batch_size, or measure them'),
    ('--max_ms', TABLE, {'fixed': 3}, 'no times of batches of 3 in tensorflow, but of 1'),
    ('--max_ms', {**TABLE, 'points': [{'budget': 1.0}]}, {}, 'has a damaged table of budgets .*'
     'make it again with')])
def test_what_is_wrong_is_said(flag, table, changes, message):
  with pytest.raises(command_line.CommandError) as error:
    _choose(flag, 1, table, **changes)
  assert re.search(message, str(error.value))


def test_a_table_replaces_another_one_and_leaves_the_rest(tmp_path):
  (tmp_path / 'export.json').write_text('{"num_classes": 3}')
  for number in (1, 2):
    budget_table.write(tmp_path, {'number': number})
  description = budget_table.saved_models.read_description(tmp_path)
  assert description == {'num_classes': 3, 'budgets': {'number': 2}}
  assert budget_table.without(description) == {'num_classes': 3}
  assert (tmp_path / 'assets.extra' / 'budgets.json').read_text() == '{\n  "number": 2\n}\n'
