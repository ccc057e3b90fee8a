r"""Trains and evaluates: Model Garden's trainer and flags, with our experiments registered.

    python -m official_ext.train --experiment=retinanet_dyfpn_efficientnetlite0_sample \
      --mode=train_and_eval --model_dir=runs/dyfpn

All experiments of Model Garden's vision package run too.  The same command continues a stopped
run from its last checkpoint; if it has another learning rate or momentum, that one counts, not
the one in the checkpoint.  On several hosts, run it on each with TensorFlow's environment
variable `TF_CONFIG`, `runtime.distribution_strategy=multi_worker_mirrored` and one --model_dir on
a disk that all share; if one stops, start all again.
"""
from collections.abc import Sequence
import logging as python_logging
import os
import re
import time
from typing import Any

from absl import app
from absl import flags
from absl import logging
from official.common import flags as model_garden_flags
from official.vision import train  # noqa: F401 (defines a flag)
import tensorflow as tf
import yaml

from official_ext import registry_imports
from official_ext.configs import without_effect
from official_ext.tasks import training
from official_ext.utils import averages
from official_ext.utils import command_line
from official_ext.utils import experiment
from official_ext.utils import files
from official_ext.utils import input_checks
from official_ext.utils import model_options

FLAGS = flags.FLAGS
# Model Garden's flag takes further ones, for which its trainer has no code.
_MODES = ('train', 'eval', 'train_and_eval', 'continuous_eval', 'train_and_post_eval')
# Options with which a trained model may be evaluated otherwise than it was trained.
_INFERENCE_OPTIONS = frozenset({
    'detection_generator', 'gate_threshold', 'hard_gates', 'inference', 'inference_evaluations',
    'tile_capacity', 'tolerance'})


def _define_flags() -> None:
  model_garden_flags.define_flags()
  flags.DEFINE_multi_string(
      'import', [], 'Python module that registers components or experiments; may be repeated.')
  flags.mark_flags_as_required(['experiment', 'mode', 'model_dir'])


class _TimeLeft(python_logging.Filter):
  """Prints how long training will still take, after every loop of steps that the trainer logs.

  It is a filter because a logging filter sees every record of Model Garden's logger; it drops
  none.
  """

  def __init__(self, train_steps: int):
    """Initializes the filter.

    Args:
      train_steps: number of the last training step.
    """
    super().__init__()
    self._train_steps = train_steps
    # The first step that was logged, and the time of that in seconds.
    self._start: tuple[int, float] | None = None

  def filter(self, record: python_logging.LogRecord) -> bool:
    match = re.match(r'(train| eval) \| step: +(\d+) \|', record.getMessage())
    if match:
      step, now = int(match[2]), time.monotonic()
      if self._start is None:
        self._start = step, now
      elif match[1] == 'train' and step > self._start[0]:
        done, seconds = step - self._start[0], now - self._start[1]
        left = command_line.duration(seconds / done * (self._train_steps - step))
        command_line.say(f'train | step: {step: 6d} of {self._train_steps}, {left} left')
    return True


def _parse_flags(argv: Sequence[str]) -> None:
  """Parses the flags; absl ends with its own text, and drops arguments that are no flags.

  Raises:
    CommandError: a flag is unknown, missing or has a value that is not allowed, or an argument is
      no flag.
  """
  FLAGS['mode'].parser = flags.ArgumentParser()  # takes any text; `main` says what is allowed
  try:
    others = FLAGS(argv)[1:]
  except flags.Error as error:
    raise command_line.CommandError(
        f'{error}; --helpshort says which flags there are, --helpfull what they mean.') from error
  if others:
    raise command_line.CommandError(
        f'{" ".join(others)}: a flag has two hyphens at its beginning, and a blank or = before its '
        'value; --config_file may be given several times.')


def _has_checkpoint(model_dir: str) -> bool:
  return (tf.io.gfile.isdir(model_dir) and
          tf.train.latest_checkpoint(files.plain_path(model_dir)) is not None)


def _check_model_dir(params: Any, model_dir: str, mode: str) -> None:
  """Checks that a folder holds what a mode needs, and no run of another model.

  A folder without a checkpoint counts as empty, because a start that failed leaves its
  `params.yaml` behind.

  Args:
    params: the resolved experiment.
    model_dir: folder of the run, which need not exist.
    mode: Model Garden's `--mode`.

  Raises:
    CommandError: `params.yaml` in the folder has another `task.model`, apart from options of
      inference where the mode only evaluates, or the file is damaged; the folder cannot be
      written; or there is no checkpoint to evaluate.
  """
  path = os.path.join(model_dir, 'params.yaml')
  if 'train' in mode and '://' not in model_dir:
    files.check_place(model_dir, f'--model_dir={model_dir}')
  if not _has_checkpoint(model_dir):
    _check_evaluation_without_checkpoint(params, model_dir, mode)
  elif os.path.exists(path):
    model = getattr(params.task, 'model', None)
    free = () if 'train' in mode else _INFERENCE_OPTIONS
    if model and model_options.difference(_previous_model(path), model, free) is not None:
      raise command_line.CommandError(
          f'--model_dir={model_dir} holds a run of another model (its params.yaml differs in '
          'task.model): choose another folder, or give the same experiment and overrides.')


def _say_if_done(train_steps: int, model_dir: str) -> None:
  """Says that a training has no step left; Model Garden ends without a word."""
  latest = tf.train.latest_checkpoint(files.plain_path(model_dir))
  found = latest and re.search(r'-([0-9]+)$', latest)
  if found and int(found[1]) >= train_steps:
    command_line.say(
        f'--model_dir={model_dir} has a checkpoint of step {found[1]}, and trainer.train_steps is '
        f'{train_steps}: no step is left to train. Set it higher to go on, or choose another '
        'folder to start again.')


def _previous_model(path: str) -> Any:
  """Returns `task.model` of a `params.yaml`; raises CommandError if the file is damaged."""
  try:
    with open(path, encoding='utf-8') as file:
      return yaml.safe_load(file)['task'].get('model')
  except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
    raise command_line.CommandError(
        f'--model_dir: {path} is damaged ({error}), so that nothing says which model the '
        'checkpoints beside it are of: write it again with show_config, or choose another folder.'
    ) from error


def _check_evaluation_without_checkpoint(params: Any, model_dir: str, mode: str) -> None:
  """Refuses to evaluate random weights, and says that a continuous evaluation waits.

  Raises:
    CommandError: the mode evaluates at once, and no complete model is loaded.
  """
  if mode == 'continuous_eval':
    # Model Garden asks after its `continuous_eval_timeout` whether that step is evaluated.
    command_line.say(
        f'--model_dir={model_dir} has no checkpoint yet: continuous_eval waits for those of a '
        f'training, however long that takes, up to step {params.trainer.train_steps} '
        '(trainer.train_steps).')
  # `task.init_checkpoint` may give a whole model, which can be evaluated without training.
  elif mode == 'eval' and not (getattr(params.task, 'init_checkpoint', None)
                               and 'all' in getattr(params.task, 'init_checkpoint_modules', 'all')):
    what = 'has no checkpoint' if os.path.isdir(model_dir) else 'does not exist'
    raise command_line.CommandError(
        f'--model_dir={model_dir} {what}: --mode=eval evaluates the latest checkpoint of a '
        'training, so give the --model_dir of one; to evaluate another checkpoint, set '
        'task.init_checkpoint to it and task.init_checkpoint_modules to all.')


def main(_) -> None:
  """Checks the input, then runs Model Garden's trainer."""
  if FLAGS.mode not in _MODES:
    raise command_line.CommandError(
        f'--mode={FLAGS.mode}: the trainer does not have it; allowed are {", ".join(_MODES)}.')
  experiment.import_modules(FLAGS['import'].value)
  params = experiment.resolve(FLAGS.experiment, FLAGS.config_file or [], FLAGS.params_override)
  experiment.check_training(params, FLAGS.mode)
  _check_model_dir(params, FLAGS.model_dir, FLAGS.mode)
  averages.check(params, FLAGS.model_dir, FLAGS.mode)
  input_checks.check_task(params.task, FLAGS.mode)
  if 'train' in FLAGS.mode and _has_checkpoint(FLAGS.model_dir):
    _say_if_done(params.trainer.train_steps, FLAGS.model_dir)
  for sentence in without_effect.find(params, FLAGS.mode):
    command_line.say(f'Doubtful: {sentence}')
  FLAGS.model_dir = files.plain_path(FLAGS.model_dir)
  logging.get_absl_logger().addFilter(_TimeLeft(params.trainer.train_steps))
  training.run(FLAGS)


if __name__ == '__main__':
  _define_flags()
  command_line.run(lambda: app.run(main, flags_parser=_parse_flags))
