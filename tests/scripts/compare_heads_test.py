"""The comparison of heads: its runs, their cost, its table, and what it refuses."""
import argparse

import compare_heads
import comparison
import pytest

from official_ext.utils import command_line
from official_ext.utils import experiment
from official_ext.modeling import network_cost

RUN = {'AP': 0.25, 'AP50': 0.5, 'gmac_mean': 0.3, 'gmac_min': 0.2, 'gmac_max': 0.45}


@pytest.mark.parametrize('head', compare_heads._DEFAULT)
def test_every_head_is_an_experiment_that_resolves(head):
  name, overrides = compare_heads.resolve_head(head)
  params = experiment.resolve(name, params_override=comparison.overrides(7, overrides))
  assert params.trainer.train_steps == params.trainer.validation_interval == 7
  tower = params.task.model.head.tower
  if head in ('fcos', 'atss'):
    assert (params.task.model.assigner, tower.plain.num_convs) == (head, 4)
    return
  assert (params.task.model.assigner, tower.dynamic.num_blocks) == ('fcos', 2)
  is_fixed = head == 'fcos_fixed'
  assert tower.dynamic.depth_step == tower.dynamic.scale_step == ('fixed' if is_fixed else 'gated')
  expected = 0.0 if is_fixed else float(head.rpartition('_')[2])
  assert params.task.budget.weight == expected


@pytest.mark.parametrize('head', ['pan', 'fcos_dynamic_', 'fcos_dynamic_x'])
def test_an_unknown_head_is_refused(monkeypatch, head):
  monkeypatch.setattr('sys.argv', ['compare_heads', '--data=x', f'--heads=fcos,{head}'])
  with pytest.raises(command_line.CommandError, match=f'--heads names {head}; allowed are fcos, '):
    compare_heads.main()


def test_cost_of_a_head_is_what_is_fixed_and_what_was_executed():
  parts = {'backbone': 5 * 10**9, 'decoder': 10**9, 'head': 4 * 10**9}
  # Of the head's 4 GMAC 3 are routed.
  cost = network_cost.NetworkCost(
      static=7 * 10**9, minimum=8 * 10**9, maximum=10**10, dense=10**10, maximum_by_part=parts)
  evaluation = {f'routing/gmac/executed/{name}': value
                for name, value in (('mean', 1.5), ('min', 1.25), ('max', 2.0))}
  assert compare_heads.head_cost(cost, evaluation) == {
      'gmac_mean': 2.5, 'gmac_min': 2.25, 'gmac_max': 3.0}
  static = cost._replace(static=10**10, minimum=10**10)
  assert compare_heads.head_cost(static, {'AP': 0.5})['gmac_mean'] == 4.0


def test_table_has_the_spread_over_images_and_the_times_that_are_known():
  results = {'fcos': [{**RUN, 'gmac_min': 0.3, 'gmac_max': 0.3}],
             'fcos_dynamic_0.1': [RUN, {**RUN, 'AP': 0.35}]}
  rows = compare_heads.table(results, {'fcos': {'head': 12.34, 'detector': 56.78}}).split('\n')
  assert rows[2] == '| `fcos` | 1 | 0.250 | 0.500 | 0.300 | 12.3 | 56.8 |'
  assert rows[3] == ('| `fcos_dynamic_0.1` | 2 | 0.300 (0.250 to 0.350) | 0.500 | '
                     '0.300 (0.200 to 0.450) | - | - |')


def test_finished_runs_are_kept_and_others_are_made(tmp_path, monkeypatch):
  """A name that is given twice is run twice; the table is shown after every run."""
  commands, trained, shown = [], [], []
  monkeypatch.setattr(comparison, 'command', lambda *args, **options: commands.append(args))
  args = argparse.Namespace(output_dir=tmp_path, data='data')

  def train(name, folder, records):
    assert records == tmp_path / 'records'
    trained.append(folder.name)
    return {'AP': float(len(trained))}

  def run(names):
    return comparison.run_all(names, args, train, lambda found: shown.append(dict(found)))

  first = run(['a', 'b'])
  assert trained == ['a-1', 'b-1'] and commands == [('tools.convert_dataset',)]
  assert shown == [{'a': first['a']}, first]
  assert run(['a', 'a', 'b']) == {'a': [{'AP': 1.0}, {'AP': 3.0}], 'b': [{'AP': 2.0}]}
  assert trained == ['a-1', 'b-1', 'a-2']
