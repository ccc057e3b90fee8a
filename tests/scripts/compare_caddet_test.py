"""The comparison of CADDet's budgets: its table, what it reads of a training, what it refuses."""
import pathlib
import runpy

import pytest
import tensorflow as tf

from official_ext import registry_imports  # pylint: disable=unused-import
from official_ext.utils import command_line
from official_ext.utils import experiment

SCRIPT = runpy.run_path(
    str(pathlib.Path(__file__).resolve().parents[2] / 'scripts' / 'compare_caddet.py'))


def test_table_gives_precision_and_the_spread_of_cost():
  def run(ap, mean):
    return {'AP': ap, 'AP50': 2 * ap, 'mean': mean, 'min': 0.1, 'max': 0.4, 'std': 0.0625,
            'maximum': 0.5}

  lines = SCRIPT['table']({
      'fixed': [run(0.25, 0.2)], 'dynamic': [run(0.25, 0.2), run(0.375, 0.3)]}).split('\n')
  assert lines[2] == '| `fixed` | 1 | 0.250 | 0.500 | 200.0 | 100.0 | 400.0 | 62.5 | 500.0 |'
  assert lines[3] == ('| `dynamic` | 2 | 0.312 (0.250 to 0.375) | 0.625 | 250.0 | 100.0 | 400.0 | '
                      '62.5 | 500.0 |')


def test_the_last_evaluation_counts(tmp_path):
  tags = {'AP': 'AP', 'AP50': 'AP50', 'maximum': 'routing/gmac/maximum',
          **{name: f'routing/gmac/executed/{name}' for name in ('mean', 'min', 'max', 'std')}}
  writer = tf.summary.create_file_writer(str(tmp_path / 'validation'))
  with writer.as_default():
    for step in (10, 20):
      for number, tag in enumerate(tags.values()):
        tf.summary.scalar(tag, step + number / 8, step)
  writer.close()
  assert SCRIPT['last_evaluation'](tmp_path) == {
      name: 20 + number / 8 for number, name in enumerate(tags)}


@pytest.mark.parametrize('budget', SCRIPT['BUDGETS'])
def test_every_budget_is_an_experiment_that_resolves(budget):
  text = SCRIPT['overrides'](budget, 70, 'runs/pretraining')
  params = experiment.resolve('fcos_caddet_sample', params_override=text)
  assert params.trainer.train_steps == params.trainer.validation_interval == 70
  options = params.task.budget
  assert (options.weight > 0) == (budget != 'none') and options.start_step == 7
  assert (options.path_similarity.weight > 0) == (budget == 'dynamic_similarity')
  assert budget == 'none' or options.kind == {'fixed': 'fixed', 'loss_aware': 'loss_aware'}.get(
      budget, 'scale_aware')
  assert params.task.init_checkpoint == 'runs/pretraining'
  assert experiment.resolve(
      'fcos_caddet_sample', params_override=SCRIPT['overrides'](budget, None, None)
  ).task.init_checkpoint is None


def test_an_unknown_budget_is_refused(monkeypatch):
  monkeypatch.setattr('sys.argv', ['compare_caddet', '--data=x', '--budgets=none,both'])
  with pytest.raises(command_line.CommandError, match='--budgets names both; allowed are none, '):
    SCRIPT['main']()
