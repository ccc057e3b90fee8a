"""The interface by which a budget gets to know the objects of a detection task."""
from collections.abc import Mapping
from typing import Any

from official.core import base_task
import tensorflow as tf


class BudgetedTask(base_task.Task):
  """Base of detection tasks that says what their budget may depend on.

  `RoutedTask` derives from it, and so does a detection task that knows the objects of an image.
  In a class that has both bases Python finds the methods of the detection task first.

  """

  def boxes(self, labels: Mapping[str, Any]) -> tf.Tensor | None:
    """Returns the boxes of the objects, if labels have them.

    Labels of training must have them if `task_budgets.needs_objects`.

    Args:
      labels: labels of the batch.

    Returns:
      float32 `[batch, instances, 4]` in pixels of the network's input; rows without area are
      padding.
    """
    return labels.get('boxes')

  def image_losses(self, outputs: Mapping[str, Any], labels: Mapping[str, Any]) -> tf.Tensor:
    """Returns the detection loss of each image as if it were a batch of its own.

    Args:
      outputs: results of the model for a batch, in training.
      labels: labels of the batch.

    Returns:
      Float32 `[batch]`.
    """
    raise NotImplementedError(f'{type(self).__name__} has no losses of single images.')
