"""Run a branch only for the images of a batch that selected it."""
from typing import Any, Callable

import tensorflow as tf


def run_selected(branch: Callable[[Any], tf.Tensor], inputs: Any, selected: tf.Tensor,
                 base: tf.Tensor) -> tf.Tensor:
  """Adds `branch(inputs)` to the selected rows of `base`, computing only those rows.

  The selected images are gathered, the branch runs on this smaller batch, and its
  result is added back where it belongs; a batch that is selected as a whole, such as one image,
  is not copied.  When no image is selected the branch is not entered: convolutions of an empty
  batch have the wrong shape under oneDNN, and batch norm would write NaN.  Build the branch's
  variables before, and do not record on a routing tape inside it: it runs in the graph of a
  conditional.

  Args:
    branch: maps `[rows, ...]` to `[rows, ...]`, one row per image, rows independent of
      each other (no synchronized batch norm).
    inputs: `[batch, ...]`, or a tuple of such tensors: the branch's one argument.
    selected: boolean `[batch]`.
    base: `[batch, ...]`, of the shape and dtype that the branch gives.

  Returns:
    `base + branch(inputs)` in selected rows, `base` in the others.
  """
  return _run(branch, inputs, selected, base, tf.add, tf.tensor_scatter_nd_add)


def replace_selected(branch: Callable[[tf.Tensor], tf.Tensor], inputs: tf.Tensor,
                     selected: tf.Tensor) -> tf.Tensor:
  """Returns `branch(inputs)` in selected rows and `inputs` in the others; see `run_selected`."""
  return _run(branch, inputs, selected, inputs, lambda _, result: result,
              tf.tensor_scatter_nd_update)


def _run(branch, inputs, selected, base, put_all, put_rows):
  every = tf.reduce_all(selected)

  def run():
    rows = tf.where(selected)
    taken = tf.cond(every, lambda: inputs, lambda: tf.nest.map_structure(
        lambda tensor: tf.gather(tensor, rows[:, 0]), inputs))
    result = branch(taken)
    return tf.cond(every, lambda: put_all(base, result), lambda: put_rows(base, rows, result))

  return tf.cond(tf.reduce_any(selected), run, lambda: base)
