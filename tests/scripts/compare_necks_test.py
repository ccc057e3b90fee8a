"""The comparison of necks: its table, what it reads of a training, and what it refuses."""
import compare_necks
import comparison
import numpy as np
import pytest
import tensorflow as tf

from official_ext.utils import command_line
from official_ext.utils import experiment


def test_table_gives_the_mean_and_the_spread_of_runs():
  def run(ap, low=1.0):
    return {'AP': ap, 'AP50': 2 * ap, 'parameters': 2_500_000, 'gmac_minimum': low,
            'gmac_maximum': 1.0}

  results = {'fpn': [run(0.25), run(0.375)], 'dyfpn': [run(0.125, 0.5)]}
  lines = compare_necks.table(results).split('\n')
  assert lines[2] == '| `fpn` | 2 | 0.312 (0.250 to 0.375) | 0.625 | 2.50 | 1.00 |'
  assert lines[3] == '| `dyfpn` | 1 | 0.125 | 0.250 | 2.50 | 0.50 to 1.00 |'


def test_the_last_evaluation_counts(tmp_path):
  writer = tf.summary.create_file_writer(str(tmp_path / 'validation'))
  with writer.as_default():
    for step, value in ((10, 0.5), (20, 0.75)):
      tf.summary.scalar('AP', value, step)
      tf.summary.scalar('AP50', value / 2, step)
  writer.close()
  np.testing.assert_equal(comparison.last_evaluation(tmp_path), {'AP': 0.75, 'AP50': 0.375})


@pytest.mark.parametrize('neck', compare_necks.NECKS)
def test_every_neck_is_an_experiment_that_resolves(neck):
  decoder, overrides = compare_necks.NECKS[neck]
  params = experiment.resolve(
      compare_necks._EXPERIMENT.format(decoder), params_override=compare_necks.overrides(neck, 7))
  assert params.trainer.train_steps == params.trainer.validation_interval == 7
  assert params.task.model.decoder.type == decoder
  assert not overrides or overrides.split('=')[0].startswith(f'task.model.decoder.{decoder}')


def test_an_unknown_neck_is_refused(monkeypatch):
  monkeypatch.setattr('sys.argv', ['compare_necks', '--data=x', '--necks=fpn,pafpn'])
  with pytest.raises(command_line.CommandError, match='--necks names pafpn; allowed are fpn, '):
    compare_necks.main()
