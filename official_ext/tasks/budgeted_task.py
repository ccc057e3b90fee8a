"""The interface by which a budget gets to know the objects of a detection task."""
from collections.abc import Mapping
from typing import Any

from official.core import base_task
import tensorflow as tf


class BudgetedTask(base_task.Task):
  """Base of detection tasks that says what their budget may depend on.

  `RoutedTask` derives from it, and so does a detection task that knows the objects of an image.
  In a class that has both bases Python finds the methods of the detection task first.

  Attributes:
    knows_objects: whether `image_losses` works, and whether labels have `boxes`, float32
      `[batch, instances, 4]` in pixels, if `budgets.needs_objects`.
  """

  knows_objects = False

  def image_losses(self, outputs: Mapping[str, Any], labels: Mapping[str, Any]) -> tf.Tensor:
    """Returns the detection loss of each image as if it were a batch of its own.

    Args:
      outputs: results of the model for a batch, in training.
      labels: labels of the batch.

    Returns:
      Float32 `[batch]`.
    """
    raise NotImplementedError(f'{type(self).__name__} has no losses of single images.')
