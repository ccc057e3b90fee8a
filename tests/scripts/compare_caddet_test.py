"""The comparison of CADDet's budgets: its table, what it reads of a training, what it refuses."""
import compare_caddet
import pytest

from official_ext import registry_imports
from official_ext.utils import command_line
from official_ext.utils import experiment


def test_table_gives_precision_and_the_spread_of_cost():
  def run(ap, mean):
    return {'AP': ap, 'AP50': 2 * ap, 'mean': mean, 'min': 0.1, 'max': 0.4, 'std': 0.0625,
            'maximum': 0.5, 'weighted_mean': mean / 2, 'weighted_std': 0.03125}

  lines = compare_caddet.table({
      'fixed': [run(0.25, 0.2)], 'dynamic': [run(0.25, 0.2), run(0.375, 0.3)]}).split('\n')
  assert lines[2] == (
      '| `fixed` | 1 | 0.250 | 0.500 | 200.0 | 100.0 | 400.0 | 62.5 | 500.0 | 100.0 | 31.2 |')
  assert lines[3] == ('| `dynamic` | 2 | 0.312 (0.250 to 0.375) | 0.625 | 250.0 | 100.0 | 400.0 | '
                      '62.5 | 500.0 | 125.0 | 31.2 |')


@pytest.mark.parametrize('budget', compare_caddet.BUDGETS)
def test_every_budget_is_an_experiment_that_resolves(budget):
  text = compare_caddet.overrides(budget, 70, 'runs/pretraining', '20.0,50.0,60.0')
  params = experiment.resolve('fcos_caddet_sample', params_override=text)
  assert params.trainer.train_steps == params.trainer.validation_interval == 70
  options = params.task.budget
  assert (options.weight > 0) == (budget != 'none') and options.start_step == 7
  assert (options.path_similarity.weight > 0) == (budget == 'dynamic_similarity')
  assert budget == 'none' or options.kind == {'fixed': 'fixed', 'loss_aware': 'loss_aware'}.get(
      budget, 'scale_aware')
  assert options.scale_bounds == [20.0, 50.0, 60.0]
  assert params.task.init_checkpoint == 'runs/pretraining'
  assert experiment.resolve(
      'fcos_caddet_sample', params_override=compare_caddet.overrides(budget)
  ).task.init_checkpoint is None


def test_an_unknown_budget_is_refused(monkeypatch):
  monkeypatch.setattr('sys.argv', ['compare_caddet', '--data=x', '--budgets=none,both'])
  with pytest.raises(command_line.CommandError, match='--budgets names both; allowed are none, '):
    compare_caddet.main()
