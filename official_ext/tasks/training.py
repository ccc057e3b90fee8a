"""Model Garden's training and evaluation: on several hosts, and with a sentence at a bad end."""
import atexit
from collections.abc import Iterator
import contextlib
import math
import os
import shutil
import tempfile
from typing import Any

import gin
import numpy as np
from official.core import base_trainer
from official.core import task_factory
from official.core import train_lib
from official.core import train_utils
from official.modeling import performance
from official.vision.utils import summary_manager
import orbit
import tensorflow as tf, tf_keras

from official_ext.configs import optimizer_fields
from official_ext.dataloaders import image_sizes
from official_ext.datasets import category_files
from official_ext.tasks import budget_calibration
from official_ext.tasks import canvas_trainer
from official_ext.tasks import devices
from official_ext.tasks import initialization
from official_ext.tasks import last_batch
from official_ext.tasks import optimizer_options
from official_ext.utils import checkpoints
from official_ext.utils import command_line
from official_ext.utils import input_checks
from official_ext.utils import model_cards

# How Model Garden's error begins when the loss of a loop of steps is not allowed.
_LOSS_ERROR = 'The loss value is'
# Number of images that an error names.
_NAMED = 8


class Runner(train_lib.OrbitExperimentRunner):
  """Model Garden's runner, in which every worker goes on from the checkpoint of the first one.

  Model Garden's own gives each other worker an empty folder, from which it would start with
  random weights again after a stop.  Its optimizer makes variables in the first training step,
  and TensorFlow traces a function twice that makes variables: here they are made before.
  """

  def _build_trainer(self, task: Any, train: bool, evaluate: bool) -> base_trainer.Trainer:
    """Returns Model Garden's trainer, or one for several sizes of images."""
    is_paper = image_sizes.is_paper(self.params.task)
    with self.strategy.scope():
      trainer = train_utils.create_trainer(
          self.params, task, train=train, evaluate=evaluate,
          checkpoint_exporter=self._build_best_checkpoint_exporter(),
          trainer_cls=canvas_trainer.CanvasTrainer if is_paper else base_trainer.Trainer)
      if train and isinstance(trainer.optimizer, tf_keras.optimizers.legacy.Optimizer):
        trainer.optimizer._create_all_weights(trainer.model.trainable_variables)
    return trainer

  def _maybe_build_checkpoint_manager(self) -> tf.train.CheckpointManager:
    if self.strategy.extended.should_checkpoint:
      return super()._maybe_build_checkpoint_manager()
    trainer = self.params.trainer
    return tf.train.CheckpointManager(
        self.trainer.checkpoint, directory=self.model_dir, max_to_keep=trainer.max_to_keep,
        step_counter=self.trainer.global_step, checkpoint_interval=trainer.checkpoint_interval,
        init_fn=self.trainer.initialize)


class _ResultKeeper:
  """Keeps the result of every evaluation in the folder of the training, for the model card.

  It is an action of Orbit's controller.

  Attributes:
    trainer: whose steps count; set before the first evaluation.
  """

  def __init__(self, model_dir: str):
    """Initializes the action; the folder may be remote."""
    self._model_dir = model_dir
    self.trainer: Any = None

  def __call__(self, output: Any) -> None:
    """Writes the finite numbers of an evaluation; JSON has no others."""
    values = {name: np.asarray(orbit.utils.get_value(value)) for name, value in output.items()}
    scalars = {name: float(value) for name, value in values.items()
               if value.ndim == 0 and value.dtype.kind in 'fiu' and np.isfinite(value)}
    model_cards.keep_result(self._model_dir, int(self.trainer.global_step.numpy()), scalars)


class _LossWatch:
  """Looks at the loss and the weights after each loop of steps, before they are saved.

  It is an action of Orbit's controller.  Model Garden's own action, which comes after it, ends the
  training or goes back to a checkpoint (`trainer.recovery_max_trials`) if the loss is NaN.

  Attributes:
    loss: the loss of the last loop; None before the first one.
    learning_rate: that of the last loop.
  """

  def __init__(self):
    self.loss: float | None = None
    self.learning_rate: float | None = None
    self.model: Any = None

  def __call__(self, output: Any) -> None:
    """Reads the output of a loop, and sets its loss to NaN if a weight has become infinite or NaN.

    The loss of a step is that of the weights before the step, so it may be the last one that is
    finite.

    Args:
      output: `training_loss` and `learning_rate` of the loop, and other values.
    """
    if not all(bool(tf.reduce_all(tf.math.is_finite(weight)))
               for weight in self.model.trainable_variables):
      output['training_loss'] = tf.constant(math.nan)
    self.loss = float(orbit.utils.get_value(output['training_loss']))
    self.learning_rate = float(orbit.utils.get_value(output['learning_rate']))


def _private_folder(model_dir: str, best_subfolder: str) -> str:
  """Returns a temporary folder with the latest checkpoint of a run, for a worker's own files.

  Args:
    model_dir: folder of the run.
    best_subfolder: its folder with the best checkpoint; empty without one.
  """
  folder = tempfile.mkdtemp()
  atexit.register(shutil.rmtree, folder, ignore_errors=True)
  latest = tf.train.latest_checkpoint(model_dir)
  if latest:
    name = os.path.basename(latest)
    for file in tf.io.gfile.listdir(model_dir):
      if file.startswith(f'{name}.'):
        tf.io.gfile.copy(os.path.join(model_dir, file), os.path.join(folder, file))
    tf.compat.v1.train.update_checkpoint_state(folder, os.path.join(folder, name))
  # All workers must find the same results better than the best before: all save together.
  best = os.path.join(best_subfolder, 'info.json')
  if best_subfolder and tf.io.gfile.exists(os.path.join(model_dir, best)):
    tf.io.gfile.makedirs(os.path.join(folder, best_subfolder))
    tf.io.gfile.copy(os.path.join(model_dir, best), os.path.join(folder, best))
  return folder


def _runner(params: Any, strategy: tf.distribute.Strategy, flags: Any, watch: _LossWatch
            ) -> Runner:
  """Builds the task, the model and what trains or evaluates it."""
  model_dir = flags.model_dir
  if strategy.extended.should_checkpoint:
    if 'train' in flags.mode:
      train_utils.serialize_config(params, model_dir)
  else:
    model_dir = _private_folder(model_dir, params.trainer.best_checkpoint_export_subdir)
  with strategy.scope():
    task = task_factory.get_task(params.task, logging_dir=model_dir)
  calibration = budget_calibration.BudgetCalibration(params, task, strategy)
  keeper = _ResultKeeper(model_dir)
  runner = Runner(
      strategy, task, flags.mode, params, model_dir, train_actions=[watch, calibration],
      eval_actions=[keeper],
      eval_summary_manager=summary_manager.maybe_build_eval_summary_manager(params, model_dir),
      enable_async_checkpointing=flags.enable_async_checkpointing)
  watch.model, calibration.trainer, keeper.trainer = (
      runner.trainer.model, runner.trainer, runner.trainer)
  return runner


@contextlib.contextmanager
def _explained_errors(params: Any, mode: str, strategy: tf.distribute.Strategy) -> Iterator[None]:
  """Turns errors whose cause can be found into a `CommandError` that names it."""
  try:
    yield
  except initialization.InitializationError as error:
    raise command_line.CommandError(str(error)) from error
  except (tf.errors.InvalidArgumentError, tf.errors.DataLossError) as error:
    problem = input_checks.problem_of_all_records(params.task, mode)
    if not problem:
      raise
    raise command_line.CommandError(problem) from error
  except (tf.errors.UnavailableError, tf.errors.AbortedError) as error:
    if not _is_of_workers(strategy):
      raise
    raise command_line.CommandError(
        'another worker has ended or cannot be reached: start all workers again, with the same '
        f'--model_dir, to go on from its last checkpoint ({str(error).splitlines()[0]}).'
    ) from error


def _is_of_workers(strategy: tf.distribute.Strategy) -> bool:
  return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)


def run(flags: Any) -> None:
  """Trains or evaluates as Model Garden's command does.

  Args:
    flags: parsed flags of Model Garden's command.

  Raises:
    CommandError: a checkpoint does not fit, the loss is not allowed, a record cannot be used, two
      images have one id, another worker was lost, or several hosts are to train with several
      sizes of images.
  """
  gin.parse_config_files_and_bindings(flags.gin_file, flags.gin_params)
  params = train_utils.parse_configuration(flags, lock_return=False)
  optimizer_fields.make_floats(params.trainer.optimizer_config)
  if params.runtime.mixed_precision_dtype:
    performance.set_mixed_precision_policy(params.runtime.mixed_precision_dtype)
  strategy = devices.strategy(params.runtime)
  if _is_of_workers(strategy):
    # Each worker computes the metrics of the images that it has seen, so it must see all.
    params.task.validation_data.sharding = False
    if image_sizes.is_paper(params.task) and 'train' in flags.mode:
      # The workers' gradients meet in operations that each of them numbers when it traces a size.
      raise command_line.CommandError(
          'task.resize.rule is paper, with which only one host can train: set '
          'task.resize.rule=garden and task.model.input_size, or another '
          'runtime.distribution_strategy.')
  params.lock()
  input_checks.check_generated_ids(params.task, flags.mode)
  if 'train' in flags.mode and strategy.extended.should_checkpoint:
    category_files.save_for_training(params.task, flags.model_dir)
    model_cards.keep_dataset(params.task, flags.model_dir)
  watch = _LossWatch()
  with _explained_errors(params, flags.mode, strategy):
    runner = _runner(params, strategy, flags, watch)
    if 'train' in flags.mode:
      optimizer_options.keep(runner.trainer, strategy)
    if flags.mode == 'eval' and tf.train.latest_checkpoint(flags.model_dir):
      # The controller takes a checkpoint of another model without a word.
      with strategy.scope():
        checkpoints.restore(runner.trainer.model, flags.model_dir, '--model_dir')
    try:
      runner.run()
    except RuntimeError as error:
      if not str(error).startswith(_LOSS_ERROR):
        raise
      raise command_line.CommandError(_loss_message(runner, watch, flags.model_dir)) from error
    except KeyError as error:
      message = _metric_message(runner)
      if not message:
        raise
      raise command_line.CommandError(message) from error
  train_utils.save_gin_config(flags.mode, runner.model_dir)


def _metric_message(runner: Runner) -> str:
  """Returns why the best checkpoint cannot be told; empty if evaluation gave its metric."""
  trainer = runner.params.trainer
  exporter = runner.trainer.checkpoint_exporter
  metric, found = trainer.best_checkpoint_eval_metric, exporter and exporter.best_ckpt_logs
  if not found or metric in found:
    return ''
  names = ', '.join(sorted(name for name in found if '/' not in name))
  return (f'trainer.best_checkpoint_eval_metric is {metric!r}, which evaluation does not give: it '
          f'gives {names} and more. The same command with another name goes on from the last '
          'checkpoint.')


def _loss_message(runner: Runner, watch: _LossWatch, model_dir: str) -> str:
  """Returns why a training ended whose loss was not allowed, and what to do."""
  step, names = _last_images(runner)
  checkpoint = tf.train.latest_checkpoint(model_dir)
  kept = f'the checkpoint of before is {checkpoint}' if checkpoint else 'no checkpoint was written'
  images = f' of the images {", ".join(names[:_NAMED])}' if names else ''
  if len(names) > _NAMED:
    images += f' and {len(names) - _NAMED} more'
  return (f'the training loss is {watch.loss:g} at step {step}{images}, with learning rate '
          f'{watch.learning_rate:g}; {kept}. Try a tenth of the learning rate, a longer warm-up or '
          'trainer.optimizer_config.optimizer.*.clipnorm, runtime.mixed_precision_dtype=float32, '
          'and look at the data with python -m official_ext.tools.check_dataset.')


def _last_images(runner: Runner) -> tuple[int, list[str]]:
  """Returns the step that spoiled the loss, or else the last one, and the names of its images."""
  last_step = int(runner.trainer.global_step.numpy())
  batch, data = getattr(runner.trainer.task, 'last_batch', None), runner.params.task.train_data
  if batch is None or not input_checks.is_pattern_of_records(data):
    return last_step, []
  with runner.strategy.scope():
    step, hashes = batch.read()
  files = input_checks.matching_files(data.input_path, 'task.train_data.input_path')
  return step or last_step, last_batch.image_names(hashes, files)
