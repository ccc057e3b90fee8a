"""Keeps the options of an optimizer those of the experiment when a training is resumed.

Keras saves the numbers of an optimizer, such as a constant learning rate or the momentum, as
variables in the checkpoint. Restoring would replace the numbers of the experiment, so that an
override at a resumed training changed nothing. A schedule is not saved, so it needs none of this.
"""
from typing import Any

from absl import logging
from official.core import base_trainer
import tensorflow as tf


def _innermost(optimizer: Any) -> Any:
  """Returns the optimizer inside of wrappers for loss scales and moving averages."""
  while hasattr(optimizer, '_optimizer'):
    optimizer = optimizer._optimizer
  return optimizer


def keep(trainer: base_trainer.Trainer, strategy: tf.distribute.Strategy) -> None:
  """Gives a restored optimizer the numbers of the experiment.

  Args:
    trainer: its checkpoint, if there is one, has been restored.
    strategy: that the trainer was made in.
  """
  config = trainer.config
  optimizer = _innermost(trainer.optimizer)
  if not hasattr(optimizer, '_hyper'):  # another kind than Model Garden's own
    return
  wanted = _innermost(trainer.task.create_optimizer(
      config.trainer.optimizer_config, config.runtime))._hyper
  with strategy.scope():
    optimizer._create_hypers()  # what is not there yet would be restored when it is made
    for name, value in wanted.items():
      if not isinstance(value, (int, float)):
        continue
      restored = float(optimizer._hyper[name].numpy())
      if abs(restored - value) > 1e-6 * abs(value):
        logging.info('%s is %g as the experiment says, not %g as in the checkpoint', name, value,
                     restored)
        optimizer._set_hyper(name, value)
