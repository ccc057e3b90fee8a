"""The frontier command: figures that are known, going on, refusals, and the choice by its table."""
import json
import shutil

import numpy as np
from PIL import Image
import pytest

import budgeted_colors
import colored_detector
from official_ext.serving import budget_table
from official_ext.serving import converted_detectors
from official_ext.serving.engines import catalog
from official_ext.tools import convert_dataset
from official_ext.tools import evaluation
from official_ext.tools import frontier
from official_ext.tools import frontier_inputs
from official_ext.tools import predict
from official_ext.tools import write_images
from official_ext.utils import command_line
from official_ext.utils import machine
from official_ext.utils import timing


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


@pytest.fixture
def timed(monkeypatch):
  """The list of the budgets of every timing."""
  calls, interleaved = [], timing.interleaved

  def counted(functions, *arguments, **options):
    calls.append(list(functions))
    return interleaved(functions, *arguments, **options)

  monkeypatch.setattr(timing, 'interleaved', counted)
  return calls


@pytest.fixture
def convert(saved, tmp_path, monkeypatch):
  """Makes folders that are loaded as conversions of the export for LiteRT."""
  load = converted_detectors.load_to_time

  def load_to_time(path, flag='--saved_model'):
    is_conversion = (path / 'conversion.json').is_file()
    detector = load(saved if is_conversion else path, flag)
    detector.engine = 'litert' if is_conversion else detector.engine
    return detector

  def call(name, model, **conversion):
    folder = tmp_path / name
    folder.mkdir()
    (folder / 'model.tflite').write_bytes(model)
    (folder / 'export.json').write_text('{}')
    (folder / 'conversion.json').write_text(json.dumps({'engine': 'litert', **conversion}))
    return folder

  monkeypatch.setattr(converted_detectors, 'load_to_time', load_to_time)
  return call


def _points(table):
  return [tuple(pytest.approx(point[name]) for name in (
      'budget', 'ap', 'ap50', 'gmac_mean', 'gmac_min', 'gmac_max')) for point in table['points']]


def test_figures_of_every_budget(run, data, tmp_path, capsys):
  table = run()
  # Two of three images have green rectangles, which cost the budget and are found from 0.5.
  assert _points(table) == [(0.25, 0.5, 0.5, 1 + 0.5 / 3, 1, 1.25), (0.5, 1, 1, 1 + 1 / 3, 1, 1.5),
                            (1, 1, 1, 1 + 2 / 3, 1, 2)]
  for point in table['points']:
    assert {name: list(sizes) for name, sizes in point['milliseconds'].items()} == {
        'tensorflow': ['1', '2']}
    for time in point['milliseconds']['tensorflow'].values():
      assert 0 < time['low'] <= time['median'] <= time['high']
  digest = frontier_inputs.data_digest(
      {number: data / 'images' / f'{number}.png' for number in range(1, 4)},
      data / 'annotations.json')
  assert table['data'] == {'name': 'val', 'images': 3, 'digest': digest}
  assert table['machine'] == machine.describe()
  assert Image.open(tmp_path / 'out' / 'frontier.png').width > 1000
  printed = capsys.readouterr().out.splitlines()
  assert printed[0].split()[:6] == ['budget', 'AP', 'AP50', 'GMAC', 'min', 'max']
  assert printed[2].split()[:6] == ['0.5', '1.000', '1.000', '1.333', '1.000', '1.500']
  # 0.5 finds all that 1 finds, and costs less.
  assert table['recommended'] == 0.5 and printed[4].startswith('Recommended: 0.5, ')
  assert '3 images of val' in printed[5] and machine.text(machine.describe()) in printed[5]


def test_no_budget_is_recommended_where_nothing_is_found(run, monkeypatch, capsys):
  measure = frontier._measure_precision
  monkeypatch.setattr(frontier, '_measure_precision', lambda *arguments: [
      {**point, 'ap': 0.0} for point in measure(*arguments)])
  run()
  printed = capsys.readouterr().out
  assert 'No budget can be recommended: AP is 0' in printed and 'Recommended' not in printed


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
  assert _points(table)[1][:3] == (0.5, 1, 1)
  # The report, which reads the written images, takes the table for one of the same data.
  (tmp_path / 'val').mkdir()
  write_images.write(tmp_path / 'records', 'val', tmp_path / 'val')
  digest = frontier_inputs.data_digest(
      {number: tmp_path / 'val' / 'images' / path.name for number, path in enumerate(
          sorted((tmp_path / 'val' / 'images').iterdir()), 1)},
      tmp_path / 'val' / 'annotations.json')
  assert table['data'] == {'name': 'records', 'images': 3, 'digest': digest}


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


def test_more_budgets_are_added_to_what_is_known(run, evaluated, timed, tmp_path):
  run()
  (tmp_path / 'out' / 'precision' / 'notes.json').write_text('{}')
  (tmp_path / 'out' / 'precision' / '.0.3.host-1-new.json').write_text('')
  table = run('--budgets=0.75')
  assert [point['budget'] for point in table['points']] == [0.25, 0.5, 0.75, 1]
  assert evaluated == [0.25, 0.5, 1.0, 0.75]
  # Times are those of one run, in which all budgets take turns.
  assert timed == [['0.25', '0.5', '1']] * 2 + [['0.25', '0.5', '0.75', '1']] * 2
  assert run('--budgets=0.5') == table and len(timed) == 4


def test_budgets_have_six_digits(run, evaluated, tmp_path):
  table = run('--budgets=0.12345671,0.12345679,0.5,-0.0,0.1')
  assert [point['budget'] for point in table['points']] == [0, 0.1, 0.123457, 0.5]
  assert evaluated == pytest.approx([0, 0.1, 0.123457, 0.5])
  assert sorted(path.name for path in (tmp_path / 'out' / 'precision').iterdir()) == [
      '0.1.json', '0.123457.json', '0.5.json', '0.json']


@pytest.mark.parametrize('file, content', [
    ('precision/0.5.json', {}), ('precision/0.75.json', []), ('precision/0.5.json', None),
    ('precision/0.5.json', {'ap': -1.0, 'ap50': -1.0, 'gmac_mean': 1, 'gmac_min': 1,
                            'gmac_max': 1}),
    ('times/tensorflow_1.json', {}), ('times/tensorflow_1.json', []),
    ('times/tensorflow_1.json', {'settings': {'budgets': ['1']}, 'milliseconds': {'1': 3.0}}),
    ('measured.json', [])])
def test_a_damaged_result_is_named(run, tmp_path, file, content):
  run()
  (tmp_path / 'out' / file).write_text(json.dumps(content))
  with pytest.raises(command_line.CommandError) as error:
    run()
  assert str(error.value) == f'{tmp_path}/out/{file} is damaged: remove it.'


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


def test_images_that_are_left_out_are_named(run, tmp_path, capsys):
  data = budgeted_colors.write_data(tmp_path / 'val', count=4)
  (data / 'images' / '4.png').rename(data / 'images' / 'other.png')
  content = json.loads((data / 'annotations.json').read_text())
  del content['annotations'][0]['bbox']
  (data / 'annotations.json').write_text(json.dumps(content))
  assert run(data=data)['data']['images'] == 3
  printed = capsys.readouterr().out.splitlines()
  assert printed[:2] == [f'Left out, not in the annotation file: 1 ({data}/images/other.png)',
                         'In the annotation file but not there: 1 (4.png)']
  assert printed[2].startswith('Not evaluated, box is not four numbers with a size: 1 (1.png')


@pytest.mark.parametrize('names, message', [
    (None, '--data=.*val has a file annotations.json but no folder images: give'),
    ((), '--data=[^ ]*/val/images holds no image: give a folder'),
    (('x.png',), '--data=[^ ]*/val/annotations.json has none of the 1 images, such as'),
    (('a/1.png', 'b/1.png'), 'fit one entry of --data=[^ ]*.json: give the folder of its '
     r'images only\.$')])
def test_errors_of_data_name_its_option(run, tmp_path, names, message):
  data = budgeted_colors.write_data(tmp_path / 'val', count=1)
  (data / 'images').rename(tmp_path / 'drawn')
  if names is not None:
    (data / 'images').mkdir()
  for name in names or ():
    (data / 'images' / name).parent.mkdir(exist_ok=True)
    shutil.copy(tmp_path / 'drawn' / '1.png', data / 'images' / name)
  with pytest.raises(command_line.CommandError, match=message):
    run(data=data)


def test_data_without_objects_are_refused(run, data, tmp_path):
  copy = shutil.copytree(data, tmp_path / 'val')
  content = json.loads((copy / 'annotations.json').read_text())
  (copy / 'annotations.json').write_text(json.dumps({**content, 'annotations': []}))
  with pytest.raises(command_line.CommandError, match='--data: the annotation file has no object '
                     'in these images'):
    run(data=copy)
  assert not (tmp_path / 'out' / 'precision').exists()


@pytest.mark.parametrize('given, place', [
    ('.', 'saved_frontier'), ('sub/..', 'saved_frontier'), ('../saved/', 'saved_frontier'),
    ('sub', 'saved/sub_frontier')])
def test_results_lie_beside_the_export(tmp_path, monkeypatch, given, place):
  (tmp_path / 'saved' / 'sub').mkdir(parents=True)
  monkeypatch.chdir(tmp_path / 'saved')
  args = frontier._parse_arguments([f'--saved_model={given}', '--data=data'])
  assert args.output_dir == tmp_path / place


def test_every_conversion_has_its_own_times(run, convert, timed):
  first, second = convert('first', b'1', quantize=None), convert('second', b'2')
  table = run(f'--converted={first}')
  assert list(table['points'][0]['milliseconds']) == ['tensorflow', 'litert'] and len(timed) == 4
  assert run(f'--converted={first}') == table and len(timed) == 4
  other = run(f'--converted={second}', '--calibrate')
  assert len(timed) == 6
  for before, after in zip(table['points'], other['points'], strict=True):
    assert before['milliseconds']['tensorflow'] == after['milliseconds']['tensorflow']
    assert before['milliseconds']['litert'] != after['milliseconds']['litert']
  assert json.loads((second / 'export.json').read_text())['budgets'] == other
  assert json.loads((first / 'export.json').read_text()) == {}
  # The table in its folder does not make it another conversion.
  assert run(f'--converted={second}') == other and len(timed) == 6


def test_conversions_of_other_precision_are_refused(run, convert, timed, tmp_path):
  quantized = convert('quantized', b'1', quantize='dynamic_range')
  with pytest.raises(command_line.CommandError, match='--converted=.*quantized is quantized '
                     r'\(dynamic_range\), .*tools.predict --evaluate at each --budget'):
    run(f'--converted={quantized}', '--calibrate')
  assert not timed and (quantized / 'export.json').read_text() == '{}'
  (quantized / 'conversion.json').write_text('[]')
  with pytest.raises(command_line.CommandError, match='conversion.json is damaged .*: convert'):
    run(f'--converted={quantized}')
  with pytest.raises(command_line.CommandError, match='--converted=.* has no file conversion.json'):
    run(f'--converted={tmp_path}')


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
