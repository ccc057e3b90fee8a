"""Comparisons of trainings: their runs, what they read of a training, tables, what they refuse."""
import argparse
import json

import compare
from comparisons import caddet
from comparisons import comparison
from comparisons import detectors
from comparisons import heads
from comparisons import necks
from comparisons import parts
import numpy as np
import pytest
import tensorflow as tf

from official_ext.utils import command_line
from official_ext.utils import experiment
from official_ext.modeling import network_cost

ARGS = argparse.Namespace(
    data='x', train_steps=7, init_checkpoint=None, scale_bounds=None, image_size=None)


def resolved(kind, name, **options):
  """The run of a name, and the experiment that it trains."""
  args = argparse.Namespace(**{**vars(ARGS), **options})
  run = compare.COMPARISONS[kind].resolve(name, args)
  return run, experiment.resolve(
      run.experiment, params_override=comparison.run_overrides(args, run.overrides))


@pytest.mark.parametrize('kind, name', [
    *((kind, name) for kind, compared in compare.COMPARISONS.items()
      for name in dict.fromkeys(compared.default_runs)),
    *(('detectors', name) for name in detectors.DEFORMABLE)])
def test_every_run_is_an_experiment_that_resolves(kind, name):
  _, params = resolved(kind, name)
  assert params.trainer.train_steps == params.trainer.validation_interval == 7
  assert params.task.train_data.parser.aug_rand_hflip


def test_digits_are_not_mirrored(tmp_path):
  (tmp_path / 'sample.json').write_text('{}')  # as tools.make_sample_data leaves it
  for data in (tmp_path, str(tmp_path)):
    _, params = resolved('necks', 'fpn', data=data)
    assert not params.task.train_data.parser.aug_rand_hflip
  _, params = resolved('necks', 'fpn', data=tmp_path, train_steps=None)
  assert not params.task.train_data.parser.aug_rand_hflip
  assert params.trainer.train_steps == 500


@pytest.mark.parametrize('kind, names, text', [
    ('necks', 'fpn,panet', '--runs names panet; allowed are fpn, '),
    ('heads', 'fcos,pan', '--runs names pan; allowed are fcos, '),
    ('heads', 'fcos_dynamic_,fcos', 'names fcos_dynamic_; .*, such as fcos_dynamic_0.4'),
    ('heads', 'fcos_dynamic_x', '--runs names fcos_dynamic_x; allowed are fcos, '),
    ('caddet', 'none,both,all', '--runs names all, both; allowed are none, '),
])
def test_an_unknown_run_is_refused(kind, names, text):
  with pytest.raises(command_line.CommandError, match=text):
    compare.main([kind, '--data=x', f'--runs={names}'])


@pytest.mark.parametrize('neck', necks.NECKS)
def test_neck_of_a_run(neck):
  run, params = resolved('necks', neck, image_size='[128,192,3]')
  decoder, overrides = necks.NECKS[neck]
  assert run.experiment == f'retinanet_{decoder}_efficientnetlite0_sample'
  assert params.task.model.decoder.type == decoder
  assert params.task.model.input_size == [128, 192, 3]
  assert not overrides or overrides.split('=')[0].startswith(f'task.model.decoder.{decoder}')


@pytest.mark.parametrize('head', heads.HeadComparison.default_runs)
def test_head_of_a_run(head):
  _, params = resolved('heads', head)
  tower = params.task.model.head.tower
  if head in ('fcos', 'atss'):
    assert (params.task.model.assigner, tower.plain.num_convs) == (head, 4)
    return
  assert (params.task.model.assigner, tower.dynamic.num_blocks) == ('fcos', 2)
  is_fixed = head == 'fcos_fixed'
  assert tower.dynamic.depth_step == tower.dynamic.scale_step == ('fixed' if is_fixed else 'gated')
  expected = 0.0 if is_fixed else float(head.rpartition('_')[2])
  assert params.task.budget.weight == expected


@pytest.mark.parametrize('budget', caddet.BUDGETS)
def test_budget_of_a_run(budget):
  _, params = resolved('caddet', budget, train_steps=70, init_checkpoint='runs/pretraining',
                       scale_bounds='20.0,50.0,60.0')
  options = params.task.budget
  assert (options.weight > 0) == (budget != 'none') and options.start_step == 7
  assert (options.path_similarity.weight > 0) == (budget == 'dynamic_similarity')
  assert budget == 'none' or options.kind == {'fixed': 'fixed', 'loss_aware': 'loss_aware'}.get(
      budget, 'scale_aware')
  assert options.scale_bounds == [20.0, 50.0, 60.0]
  assert params.task.init_checkpoint == 'runs/pretraining'
  _, params = resolved('caddet', budget, train_steps=None)
  assert params.task.init_checkpoint is None


@pytest.mark.parametrize('name', parts.PARTS)
def test_budgets_of_the_parts_of_a_run(name):
  _, params = resolved('parts', name)
  assert params.task.model.decoder.type == 'dyfpn' and not params.task.budget.weight
  weights = {budget.part: budget.weight for budget in params.task.budgets}
  assert {part for part, weight in weights.items() if weight > 1e-6} == set(parts.PARTS[name])
  assert [budget.target for budget in params.task.budgets] == [0.5, 0.0]
  run = {'AP': 0.25, 'AP50': 0.5, 'decoder_executed': 0.4, 'decoder_expected': 0.5,
         'head_executed': 0.3, 'head_expected': 0.2}
  row = parts.PartComparison().table({name: [run]}, {}).split('\n')[2]
  assert row == f'| `{name}` | 1 | 0.250 | 0.500 | 0.500 | 0.400 | 0.200 | 0.300 |'


@pytest.mark.parametrize('name', detectors.DETECTORS)
def test_detector_of_a_run(name):
  _, params = resolved('detectors', name, image_size='[192,256,3]')
  model = params.task.model
  assert model.input_size == [192, 256, 3]
  kind, _, variant = name.partition('_')
  if kind == 'efficientdet':
    assert (model.decoder.type, model.head.tower.type) == ('bifpn', 'separable')
    return
  assert model.decoder.type == (variant if variant in ('drfpn', 'ifpn') else 'fpn')
  if kind in ('retinanet', 'fasterrcnn'):
    assert model.head_style == variant
    assert hasattr(model, 'rpn_head') == (kind == 'fasterrcnn')
    return
  assert model.assigner == kind
  switches = (model.center_radius, params.task.losses.box_loss, model.head.centerness_tower,
              model.head.distance_activation)
  box_loss = 'smooth_l1' if kind == 'freeanchor' else 'giou'
  assert switches == ((0.0, 'iou', 'class', 'exp') if variant == 'without_tricks' else
                      (1.5, box_loss, 'box', 'relu'))


def test_every_detector_is_trained_twice_and_its_overlaps_are_tabled(capsys):
  compared = detectors.DetectorComparison()
  assert sorted(compared.default_runs) == sorted(2 * list(detectors.DETECTORS))
  runs = [{'AP': 0.25, 'AP50': 0.5, 'AP75': 0.125}, {'AP': 0.375, 'AP50': 0.5, 'AP75': 0.375}]
  row = compared.table({'atss_fpn': runs}, {}).split('\n')[2]
  assert row == '| `atss_fpn` | 2 | 0.312 (0.250 to 0.375) | 0.500 | 0.250 |'
  with pytest.raises(SystemExit):
    compare.main(['detectors', '--data=x', '--image_size=256'])
  assert "'256' is not HEIGHT,WIDTH in pixels, such as 192,256." in capsys.readouterr().err


def test_table_of_necks_gives_the_mean_and_the_spread_of_trainings():
  def run(ap, low=1.0):
    return {'AP': ap, 'AP50': 2 * ap, 'parameters': 2_500_000, 'gmac_minimum': low,
            'gmac_maximum': 1.0}

  results = {'fpn': [run(0.25), run(0.375)], 'dyfpn': [run(0.125, 0.5)]}
  lines = necks.NeckComparison().table(results, {}).split('\n')
  assert lines[2] == '| `fpn` | 2 | 0.312 (0.250 to 0.375) | 0.625 | 2.50 | 1.00 |'
  assert lines[3] == '| `dyfpn` | 1 | 0.125 | 0.250 | 2.50 | 0.50 to 1.00 |'


def test_table_of_heads_has_the_spread_over_images_and_the_times_that_are_known():
  run = {'AP': 0.25, 'AP50': 0.5, 'gmac_mean': 0.3, 'gmac_min': 0.2, 'gmac_max': 0.45}
  results = {'fcos': [{**run, 'gmac_min': 0.3, 'gmac_max': 0.3}],
             'fcos_dynamic_0.1': [run, {**run, 'AP': 0.35}]}
  rows = heads.HeadComparison().table(
      results, {'fcos': {'head': 12.34, 'detector': 56.78}}).split('\n')
  assert rows[2] == '| `fcos` | 1 | 0.250 | 0.500 | 0.300 | 12.3 | 56.8 |'
  assert rows[3] == ('| `fcos_dynamic_0.1` | 2 | 0.300 (0.250 to 0.350) | 0.500 | '
                     '0.300 (0.200 to 0.450) | - | - |')


def test_table_of_budgets_gives_precision_and_the_spread_of_cost():
  def run(ap, mean):
    return {'AP': ap, 'AP50': 2 * ap, 'hard/AP': ap / 2, 'mean': mean, 'min': 0.1, 'max': 0.4,
            'std': 0.0625, 'maximum': 0.5, 'weighted_mean': mean / 2, 'weighted_std': 0.03125}

  lines = caddet.BudgetComparison().table({
      'fixed': [run(0.25, 0.2)], 'dynamic': [run(0.25, 0.2), run(0.375, 0.3)]}, {}).split('\n')
  assert lines[2] == ('| `fixed` | 1 | 0.250 | 0.500 | 0.125 | 200.0 | 100.0 | 400.0 | 62.5 | '
                      '500.0 | 100.0 | 31.2 |')
  assert lines[3] == ('| `dynamic` | 2 | 0.312 (0.250 to 0.375) | 0.625 | 0.156 | 250.0 | 100.0 | '
                      '400.0 | 62.5 | 500.0 | 125.0 | 31.2 |')


def test_cost_of_a_head_is_what_is_fixed_and_what_was_executed():
  parts = {'backbone': 5 * 10**9, 'decoder': 10**9, 'head': 4 * 10**9}
  # 3 of the head's 4 GMAC are routed.
  cost = network_cost.NetworkCost(
      static=7 * 10**9, minimum=8 * 10**9, maximum=10**10, all_branches=10**10,
      maximum_by_part=parts, minimum_by_part={**parts, 'head': 2 * 10**9},
      static_by_part={**parts, 'head': 10**9})
  evaluation = {f'routing/gmac/executed/{name}': value
                for name, value in (('mean', 1.5), ('min', 1.25), ('max', 2.0))}
  assert heads.head_cost(cost, evaluation) == {
      'gmac_mean': 2.5, 'gmac_min': 2.25, 'gmac_max': 3.0}
  static = cost._replace(static=10**10, minimum=10**10)
  assert heads.head_cost(static, {'AP': 0.5})['gmac_mean'] == 4.0


def test_the_last_evaluation_counts(tmp_path):
  writer = tf.summary.create_file_writer(str(tmp_path / 'validation'))
  with writer.as_default():
    for step, value in ((10, 0.5), (20, 0.75)):
      tf.summary.scalar('AP', value, step)
      tf.summary.scalar('AP50', value / 2, step)
  writer.close()
  np.testing.assert_equal(comparison.last_evaluation(tmp_path), {'AP': 0.75, 'AP50': 0.375})


class Counting(comparison.Comparison):
  """A comparison whose runs are of one experiment; a training's precision is their number."""
  default_runs = ('a',)
  allowed = 'a, b'

  def __init__(self):
    self.shown, self.timed = [], None

  def resolve(self, name, args):
    return comparison.Run('retinanet_fpn_efficientnetlite0_sample')

  def summarize(self, params, evaluation):
    return evaluation

  def table(self, results, milliseconds):
    self.shown.append({name: [run['AP'] for run in runs] for name, runs in results.items()})
    return f'{self.shown[-1]} {milliseconds}'

  def latencies(self, trainings, args):
    self.timed = {name: training.folder.name for name, training in trainings.items()}
    return {'a': {'head': 1.5}}


def convert(output_dir, crowds=(0,)):
  """Writes the annotations of one image of validation, as tools.convert_dataset does."""
  (output_dir / 'annotations').mkdir(parents=True, exist_ok=True)
  (output_dir / 'annotations' / 'val.json').write_text(json.dumps(
      {'images': [{}], 'annotations': [{'iscrowd': crowd} for crowd in crowds]}))


@pytest.mark.parametrize('crowds', [(), (1,)])
def test_data_without_objects_of_validation_are_refused_before_the_training(
    crowds, tmp_path, monkeypatch):
  ran = []

  def command(module, **options):
    ran.append(module)
    convert(options['output_dir'], crowds)

  monkeypatch.setattr(comparison, 'command', command)
  with pytest.raises(command_line.CommandError,
                     match='--data=x: the 1 images of validation have no object'):
    compare.main(['necks', '--data=x', '--runs=fpn', f'--output_dir={tmp_path}'])
  assert ran == ['tools.convert_dataset']


def test_finished_runs_are_kept_and_others_are_made(tmp_path, monkeypatch):
  """A name that is given twice is trained twice; the table is shown after every training."""
  trained, converted = [], []

  def command(module, **options):
    if module == 'train':
      assert options['mode'] == 'train_and_eval'
      trained.append(options['model_dir'].name)
      assert options['config_file'] == tmp_path / 'records/overrides.yaml'
      (options['model_dir'] / 'validation').mkdir(parents=True)
    else:
      convert(options['output_dir'])
      converted.append((module, options['output_dir']))

  monkeypatch.setattr(comparison, 'command', command)
  monkeypatch.setattr(comparison, 'last_evaluation', lambda _: {'AP': float(len(trained))})
  monkeypatch.setattr(comparison.experiment, 'resolve', lambda *args, **options: None)
  args = argparse.Namespace(data='data', output_dir=tmp_path, train_steps=None)

  def run(names):
    compared = Counting()
    args.command = f'necks --runs={",".join(names)}'
    comparison.run_all(compared, names, args)
    return compared

  first = run(['a', 'b'])
  assert trained == ['a-1', 'b-1'] and converted == [
      ('tools.convert_dataset', tmp_path / 'records')]
  whole = {'a': [1.0], 'b': [2.0]}
  assert first.shown == [{'a': [1.0]}, whole, whole]
  second = run(['a', 'a', 'b'])
  assert second.shown[-1] == {'a': [1.0, 3.0], 'b': [2.0]}
  assert trained == ['a-1', 'b-1', 'a-2']
  assert second.timed == {'a': 'a-1', 'b': 'b-1'}
  text = (tmp_path / 'table.md').read_text(encoding='utf-8')
  assert 'compare.py necks --runs=a,a,b\n' in text and "{'head': 1.5}" in text


@pytest.mark.parametrize('changed', [
    '--data=other', '--train_steps=8', '--image_size=128,192'])
def test_kept_runs_of_other_options_or_data_are_refused(changed, tmp_path, monkeypatch):
  ran = []

  def command(module, **options):
    ran.append(module)
    if module == 'train':
      (options['model_dir'] / 'validation').mkdir(parents=True)
    else:
      convert(options['output_dir'])

  monkeypatch.setattr(comparison, 'command', command)
  monkeypatch.setattr(comparison, 'last_evaluation', lambda _: {'AP': 0.5, 'AP50': 0.75})
  monkeypatch.setattr(comparison, '_params', lambda *_: None)
  monkeypatch.setattr(necks.NeckComparison, 'summarize', lambda self, params, found: {
      **found, 'gmac_minimum': 1.0, 'gmac_maximum': 1.0, 'parameters': 1.0})
  given = ['necks', '--data=x', '--train_steps=7', '--runs=fpn', f'--output_dir={tmp_path}']
  compare.main(given)
  compare.main(given)
  trained = ['tools.convert_dataset', 'train', 'tools.convert_dataset']
  assert ran == trained
  with pytest.raises(command_line.CommandError, match='fpn-1 is kept from a training with other'):
    compare.main([*given, changed])
  assert ran == trained
  # The table names the whole command.
  assert f'compare.py {" ".join(given)}\n' in (tmp_path / 'table.md').read_text()


@pytest.mark.parametrize('has_steps_left', [True, False])
def test_an_interrupted_run_goes_on_and_is_evaluated_anew(
    has_steps_left, tmp_path, monkeypatch, capsys):
  evaluations = tmp_path / 'a-1' / 'validation'
  evaluations.mkdir(parents=True)
  (evaluations / 'events.half').touch()
  modes = []

  def command(module, **options):
    if module == 'train':
      modes.append(options['mode'])
      # The trainer goes on from the last checkpoint; without a step it does not evaluate.
      if has_steps_left or options['mode'] == 'eval':
        evaluations.mkdir()
    else:
      convert(options['output_dir'])

  monkeypatch.setattr(comparison, 'command', command)
  monkeypatch.setattr(comparison, 'last_evaluation',
                      lambda folder: {'AP': float(len(list((folder / 'validation').iterdir())))})
  monkeypatch.setattr(comparison.experiment, 'resolve', lambda *args, **options: None)
  args = argparse.Namespace(
      command='necks', data='data', output_dir=tmp_path, train_steps=None)
  compared = Counting()
  comparison.run_all(compared, ['a'], args)
  assert compared.shown[-1] == {'a': [0.0]}
  assert modes == ['train_and_eval'] + ([] if has_steps_left else ['eval'])
  assert '\n0:00 for a, about 0:00 left\n' in capsys.readouterr().out


def test_further_evaluations_of_a_training_have_their_own_names(tmp_path, monkeypatch):
  """CADDet's: with the gates of open paths as their weights, and with weights of 1."""
  compared, made = compare.COMPARISONS['caddet'], []

  def command(module, **options):
    if module == 'train':
      made.append((options['mode'], 'hard_gates=true' in options['params_override']))
      (options['model_dir'] / 'validation').mkdir(parents=True, exist_ok=True)
    else:
      convert(options['output_dir'])

  monkeypatch.setattr(comparison, 'command', command)
  monkeypatch.setattr(comparison.experiment, 'resolve', lambda *args, **options: None)
  monkeypatch.setattr(comparison, 'last_evaluation', lambda _: {
      'AP': float(len(made)), **{f'routing/gmac/{name}': 0.0 for name in (
          *(f'executed/{field}' for field in ('mean', 'min', 'max', 'std')), 'expected/mean',
          'expected/std', 'maximum')}, 'AP50': 0.0})
  args = argparse.Namespace(**{**vars(ARGS), 'command': 'caddet', 'data': 'data',
                               'output_dir': tmp_path})
  comparison.run_all(compared, ['none'], args)
  assert made == [('train_and_eval', False), ('eval', True)]
  result = json.loads((tmp_path / 'none-1' / 'result.json').read_text(encoding='utf-8'))
  assert (result['AP'], result['hard/AP']) == (1.0, 2.0)


@pytest.mark.parametrize('flag', ['--train_steps', '--images', '--repeats'])
def test_numbers_are_above_0(flag, capsys):
  for value in ('0', '-1', 'few'):
    with pytest.raises(SystemExit):
      compare.main(['heads', '--data=x', f'{flag}={value}'])
    assert f'argument {flag}: ' in capsys.readouterr().err


def test_flags_of_a_comparison_stand_behind_its_name(capsys):
  for kind, flags in (('heads', ('--images', '--repeats')),
                      ('caddet', ('--init_checkpoint', '--scale_bounds')), ('necks', ())):
    with pytest.raises(SystemExit):
      compare.main([kind, '--help'])
    text = capsys.readouterr().out
    assert f'runs/{kind}' in text
    for flag in ('--images', '--repeats', '--init_checkpoint', '--scale_bounds'):
      assert (flag in text) == (flag in flags)
