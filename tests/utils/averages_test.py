"""An evaluation by averages of weights, and a training that goes on, need averages to be there."""
import pytest
import tensorflow as tf

from official_ext import registry_imports
from official_ext.utils import averages
from official_ext.utils import command_line
from official_ext.utils import experiment

WITH, WITHOUT = 'trainer.optimizer_config.ema.average_decay=0.9', ''


def _folder(path, has_averages: bool):
  inner = {'ema_base_optimizer': tf.train.Checkpoint(iter=tf.Variable(3))} if has_averages else {
      'iter': tf.Variable(3)}
  tf.train.Checkpoint(optimizer=tf.train.Checkpoint(**inner)).save(f'{path}/ckpt')
  return str(path)


def _params(override):
  return experiment.resolve('fcos_fpn_efficientnetlite0_sample', params_override=override)


@pytest.mark.parametrize('override, mode, said', [
    (WITH, 'eval', 'has no averages of weights, and trainer.optimizer_config.ema is given: set it'),
    (WITH, 'continuous_eval', 'to null, to evaluate the weights'),
    (WITH, 'train', 'has no averages of weights, and trainer.optimizer_config.ema is given: mom'),
    (WITH, 'train_and_eval', 'would start anew'),
    (WITHOUT, 'eval', None), (WITHOUT, 'train', None), (WITHOUT, 'train_and_eval', None)])
def test_a_checkpoint_without_averages(override, mode, said, tmp_path):
  _check(_params(override), _folder(tmp_path, False), mode, said)


@pytest.mark.parametrize('override, mode, said', [
    (WITHOUT, 'train', 'has averages of weights, and trainer.optimizer_config.ema is null: mom'),
    (WITHOUT, 'train_and_post_eval', 'would start anew'),
    (WITHOUT, 'eval', None), (WITH, 'eval', None), (WITH, 'train', None)])
def test_a_checkpoint_with_averages(override, mode, said, tmp_path):
  _check(_params(override), _folder(tmp_path, True), mode, said)


@pytest.mark.parametrize('name', ['ema_checkpoints', 'best'])
def test_averages_in_the_place_of_weights_are_not_changed_back(name, tmp_path):
  best = ('trainer.best_checkpoint_export_subdir=best,trainer.best_checkpoint_eval_metric=AP')
  folder = _folder(tmp_path / name, True)
  _check(_params(f'{WITH},{best}'), folder, 'eval', 'has averages in the place of weights')
  _check(_params(best), folder, 'eval', None)


def test_without_a_checkpoint_nothing_can_be_averaged(tmp_path):
  for folder in (tmp_path, tmp_path / 'none'):
    _check(_params(WITH), str(folder), 'eval', 'task.init_checkpoint gives an evaluation no')
    for override, mode in ((WITHOUT, 'eval'), (WITH, 'train'), (WITH, 'continuous_eval')):
      _check(_params(override), str(folder), mode, None)


def test_a_damaged_checkpoint_is_left_to_who_reads_it(tmp_path):
  folder = _folder(tmp_path, True)
  (tmp_path / 'ckpt-1.index').write_bytes(b'nothing')
  _check(_params(WITHOUT), folder, 'train', None)


def _check(params, folder, mode, said):
  if said is None:
    averages.check(params, folder, mode)
    return
  with pytest.raises(command_line.CommandError) as caught:
    averages.check(params, folder, mode)
  assert said in str(caught.value)
