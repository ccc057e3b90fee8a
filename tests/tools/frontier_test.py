"""The frontier command: figures that are known, going on, refusals, and the choice by its table."""
import json
import shutil

import numpy as np
from PIL import Image
import pytest

import budgeted_colors
import colored_detector
from official_ext.serving import budget_table
from official_ext.serving.engines import catalog
from official_ext.tools import convert_dataset
from official_ext.tools import evaluation
from official_ext.tools import frontier
from official_ext.tools import predict
from official_ext.utils import command_line
from official_ext.utils import machine


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
  return budgeted_colors.save(tmp_path_factory.mktemp('saved') / 'export')


@pytest.fixture(scope='module')
def data(tmp_path_factory):
  return budgeted_colors.write_data(tmp_path_factory.mktemp('data') / 'val')


@pytest.fixture
def run(saved, data, tmp_path):
  """Runs the command and returns the content of frontier.json."""
  def call(*options, saved_model=saved, data=data, output=tmp_path / 'out'):
    frontier.main([f'--saved_model={saved_model}', f'--data={data}', f'--output_dir={output}',
                   '--budgets=1,0.25,0.5', '--num_runs=2', '--batch_sizes=1,2', *options])
    return json.loads((output / 'frontier.json').read_text())

  return call


@pytest.fixture
def evaluated(monkeypatch):
  """The list of the budgets that are evaluated."""
  calls, evaluate = [], evaluation.evaluate

  def counted(detector, *arguments):
    calls.append(float(detector._more_inputs['budget']))
    return evaluate(detector, *arguments)

  monkeypatch.setattr(evaluation, 'evaluate', counted)
  return calls


def _points(table):
  return [tuple(pytest.approx(point[name]) for name in (
      'budget', 'ap', 'ap50', 'gmac_mean', 'gmac_min', 'gmac_max')) for point in table['points']]


def test_figures_of_every_budget(run, tmp_path, capsys):
  table = run()
  # Two of three images have green rectangles, which cost the budget and are found from 0.5.
  assert _points(table) == [(0.25, 0.5, 0.5, 1 + 0.5 / 3, 1, 1.25), (0.5, 1, 1, 1 + 1 / 3, 1, 1.5),
                            (1, 1, 1, 1 + 2 / 3, 1, 2)]
  for point in table['points']:
    assert {name: list(sizes) for name, sizes in point['milliseconds'].items()} == {
        'tensorflow': ['1', '2']}
    for time in point['milliseconds']['tensorflow'].values():
      assert 0 < time['low'] <= time['median'] <= time['high']
  assert table['data'] == {'name': 'val', 'images': 3} and table['machine'] == machine.describe()
  assert Image.open(tmp_path / 'out' / 'frontier.png').width > 1000
  printed = capsys.readouterr().out.splitlines()
  assert printed[0].split()[:6] == ['budget', 'AP', 'AP50', 'GMAC', 'min', 'max']
  assert printed[2].split()[:6] == ['0.5', '1.000', '1.000', '1.333', '1.000', '1.500']
  # 0.5 finds all that 1 finds, and costs less.
  assert table['recommended'] == 0.5 and printed[4].startswith('Recommended: 0.5, ')
  assert '3 images of val' in printed[5] and machine.text(machine.describe()) in printed[5]


def test_records_are_data_too(run, data, tmp_path, monkeypatch):
  folder = tmp_path / 'coco'
  shutil.copytree(data / 'images', folder / 'images')
  (folder / 'annotations').mkdir()
  for split in ('train', 'val'):
    shutil.copy(data / 'annotations.json', folder / 'annotations' / f'instances_{split}.json')
  monkeypatch.setattr('sys.argv', [
      'convert_dataset', f'--input={folder}', f'--output_dir={tmp_path}/records'])
  convert_dataset.main()
  table = run(data=tmp_path / 'records')
  assert _points(table)[1][:3] == (0.5, 1, 1) and table['data'] == {'name': 'records', 'images': 3}


def test_an_interrupted_run_goes_on(run, evaluated, monkeypatch):
  counted = evaluation.evaluate

  def interrupted(*arguments):
    if len(evaluated) == 2:
      raise KeyboardInterrupt
    return counted(*arguments)

  with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
    patch.setattr(evaluation, 'evaluate', interrupted)
    run()
  first = run()
  assert evaluated == [0.25, 0.5, 1.0]
  again = run()
  assert again == first and len(evaluated) == 3
  # Other settings of timing are measured again, precision is not.
  other = run('--num_runs=3')
  assert other['points'][0]['milliseconds'] != first['points'][0]['milliseconds']
  assert _points(other) == _points(first) and len(evaluated) == 3
  assert [point['budget'] for point in run('--budgets=0.75')['points']] == [0.75]
  assert evaluated[3:] == [0.75]


def test_folders_of_others_are_refused(run, data, tmp_path):
  run()
  other = budgeted_colors.save(tmp_path / 'other', base=2.0)
  with pytest.raises(command_line.CommandError, match='has results of another model: give a new'):
    run(saved_model=other)
  more = budgeted_colors.write_data(tmp_path / 'more', count=4)
  with pytest.raises(command_line.CommandError, match='has results of another data: give a new'):
    run(data=more)
  with pytest.raises(command_line.CommandError, match='was not written by this command'):
    run(output=data)


def test_an_image_that_cannot_be_read_is_named(run, tmp_path):
  data = budgeted_colors.write_data(tmp_path / 'val')
  (data / 'images' / '2.png').write_bytes(b'no image')
  with pytest.raises(command_line.CommandError, match='--data: .*2.png cannot be predicted'):
    run(data=data)


def test_exports_without_a_budget_are_refused(run, tmp_path):
  plain = colored_detector.save(tmp_path / 'plain')
  with pytest.raises(command_line.CommandError, match='takes no budget: train it with budget_input '
                     '.*official_ext.tools.tradeoff'):
    run(saved_model=plain)


@pytest.mark.slow
def test_engines_are_timed_and_get_the_table(run, saved, tmp_path):
  try:
    catalog.engine('openvino')
  except command_line.CommandError:
    pytest.skip('no openvino')
  table = run('--engine=openvino', '--calibrate')
  assert list(table['points'][0]['milliseconds']) == ['tensorflow', 'openvino']
  for folder in (saved, tmp_path / 'out' / 'openvino'):
    assert json.loads((folder / 'export.json').read_text())['budgets'] == table
    assert json.loads((folder / 'assets.extra' / 'budgets.json').read_text()) == table
  # The table is no part of what was measured, so that nothing is measured again.
  converted = f'--converted={tmp_path}/out/openvino'
  assert run(converted) == table
  shutil.copytree(tmp_path / 'out' / 'openvino', tmp_path / 'copy')
  with pytest.raises(command_line.CommandError, match='give openvino twice'):
    run(converted, f'--converted={tmp_path}/copy')
  other = budgeted_colors.save(tmp_path / 'other', base=2.0)
  with pytest.raises(command_line.CommandError, match='is not a conversion of --saved_model'):
    run(converted, saved_model=other, output=tmp_path / 'new')
  with pytest.raises(command_line.CommandError, match='is a conversion: give the export'):
    run(saved_model=tmp_path / 'out' / 'openvino')


def test_predict_chooses_by_the_table(data, tmp_path, capsys, monkeypatch):
  saved = budgeted_colors.save(tmp_path / 'saved')
  options = [f'--saved_model={saved}', f'--images={data}/images', '--no-draw',
             f'--output_dir={tmp_path}/predictions']
  with pytest.raises(command_line.CommandError, match='--max_ms: --saved_model=.* has no table of '
                     'budgets: make one with python -m official_ext.tools.frontier --calibrate'):
    predict.main([*options, '--max_ms=5'])
  times = {0.25: 4.0, 0.5: 6.0, 1.0: 9.0}
  budget_table.write(saved, {
      'data': {'name': 'val', 'images': 3}, 'machine': machine.describe(), 'points': [
          {'budget': budget, 'ap': budget / 2, 'ap50': budget, 'gmac_mean': 1 + 2 / 3 * budget,
           'gmac_min': 1.0, 'gmac_max': 1 + budget, 'milliseconds': {'tensorflow': {
               '1': {'low': time - 1, 'median': time, 'high': time + 1}}}}
          for budget, time in times.items()]})
  for limit, budget in (('--max_ms=6', 0.5), ('--max_ms=1e9', 1.0), ('--max_gmac=1.2', 0.25)):
    predict.main([*options, limit])
    printed = capsys.readouterr().out
    assert f'Budget {budget:g} for {limit.split("=")[0]}=' in printed
    costs = json.loads((tmp_path / 'predictions' / 'costs.json').read_text())['images']
    np.testing.assert_allclose(max(cost['multiply_adds'] for cost in costs), 1e9 * (1 + budget))
  with pytest.raises(SystemExit):
    predict.main([*options, '--max_ms=6', '--budget=0.5'])
