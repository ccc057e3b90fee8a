"""Run a branch only for the images of a batch that selected it."""
from typing import Callable

import tensorflow as tf


def run_selected(branch: Callable[[tf.Tensor], tf.Tensor], inputs: tf.Tensor,
                 selected: tf.Tensor, base: tf.Tensor) -> tf.Tensor:
  """Adds `branch(inputs)` to the selected rows of `base`, computing only those rows.

  The selected images are gathered, the branch runs on this smaller batch, and its
  result is added back where it belongs.  When no image is selected the branch is not
  entered: convolutions of an empty batch have the wrong shape under oneDNN, and batch
  norm would write NaN.  Build the branch's variables before, and do not record on a
  routing tape inside it: it runs in the graph of a conditional.

  Args:
    branch: maps `[rows, ...]` to `[rows, ...]`, one row per image, rows independent of
      each other (no synchronized batch norm).
    inputs: `[batch, ...]`.
    selected: boolean `[batch]`.
    base: `[batch, ...]`, of the shape and dtype that the branch gives.

  Returns:
    `base + branch(inputs)` in selected rows, `base` in the others.
  """

  def run():
    rows = tf.where(selected)
    result = branch(tf.gather(inputs, rows[:, 0]))
    return tf.tensor_scatter_nd_add(base, rows, result)

  return tf.cond(tf.reduce_any(selected), run, lambda: base)
