"""Checks that the averages of weights that an evaluation is to use are there.

Model Garden starts them with zeros and restores of a checkpoint what fits, so that without them it
evaluates a network of zeros.
"""
from typing import Any

import tensorflow as tf

from official_ext.utils import command_line
from official_ext.utils import files
from official_ext.utils import model_cards

_FIELD = 'trainer.optimizer_config.ema'
# An optimizer that averages weights keeps the one that trains them under this name.
_INNER = 'optimizer/ema_base_optimizer/'


def check(params: Any, model_dir: str, mode: str) -> None:
  """Checks that the latest checkpoint of a folder, if there is one, has averages as an experiment.

  Args:
    params: the resolved experiment.
    model_dir: folder of the run, which need not exist.
    mode: Model Garden's `--mode`.

  Raises:
    CommandError: training would start with an optimizer without its state, or an evaluation would
      use zeros, or weights in the place of their averages.
  """
  wanted = params.trainer.optimizer_config.ema is not None
  has_folder = tf.io.gfile.isdir(model_dir)
  checkpoint = tf.train.latest_checkpoint(files.plain_path(model_dir)) if has_folder else None
  if checkpoint is None:
    if wanted and mode == 'eval':
      raise command_line.CommandError(
          f'{_FIELD} is given, but task.init_checkpoint gives an evaluation no averages: set '
          f'{_FIELD} to null.')
    return
  found = _has_averages(checkpoint)
  if found is None:
    return
  if 'train' in mode and wanted != found:
    has, field = ('has', 'null') if found else ('has no', 'given')
    raise command_line.CommandError(
        f'--model_dir={model_dir} {has} averages of weights, and {_FIELD} is {field}: momentum and '
        'the learning rate would start anew. Give what the training was started with, or start '
        'another in another folder, with task.init_checkpoint and init_checkpoint_modules=all.')
  if 'train' not in mode and wanted:
    if not found:
      raise command_line.CommandError(
          f'--model_dir={model_dir} has no averages of weights, and {_FIELD} is given: set it to '
          'null, to evaluate the weights.')
    if not model_cards.has_no_averages(params, model_dir):
      raise command_line.CommandError(
          f'--model_dir={model_dir} has averages in the place of weights, and {_FIELD} would put '
          'the weights of the last step there: set it to null, to evaluate the averages.')


def _has_averages(checkpoint: str) -> bool | None:
  """Returns whether a checkpoint has averages of weights; None if it is damaged."""
  try:
    names = tf.train.load_checkpoint(checkpoint).get_variable_to_shape_map()
  except (tf.errors.OpError, ValueError):
    return None
  return any(name.startswith(_INNER) for name in names)
