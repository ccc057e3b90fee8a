"""Run a branch only for the images of a batch that selected it."""
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf


class Selection(NamedTuple):
  """The images of a batch for which a branch runs.

  Attributes:
    images: boolean `[batch]`.
    some: boolean scalar, whether any image is selected.
    every: boolean scalar, whether all are, and there is one.
  """
  images: tf.Tensor
  some: tf.Tensor
  every: tf.Tensor


def select(images: tf.Tensor) -> list[Selection]:
  """Returns several selections at once: a graph runs few large operations faster than many small.

  Args:
    images: boolean `[batch, selections]`.

  Returns:
    One selection per column.
  """
  if images.shape[0] == 1:
    every = some = tf.unstack(images[0])
  else:
    any_selected = tf.reduce_any(images, 0)
    some = tf.unstack(any_selected)
    # For an empty batch reduce_all is True and reduce_any is False.
    every = tf.unstack(any_selected & tf.reduce_all(images, 0))
  return [Selection(*parts) for parts in zip(tf.unstack(images, axis=1), some, every)]


def switch(index: tf.Tensor, branches: Sequence[Callable[[], Any]]) -> Any:
  """Runs one of several branches, like `tf.switch_case`, by two-way conditionals.

  Other engines have an operation for `tf.cond`, but none for `tf.switch_case`.

  Args:
    index: int32 scalar, the number of the branch that runs, from 0 to `len(branches) - 1`.
    branches: functions without arguments, which return the same structure of tensors.

  Returns:
    What the branch returns.
  """
  if len(branches) == 1:
    return branches[0]()
  half = len(branches) // 2
  return tf.cond(index < half, lambda: switch(index, branches[:half]),
                 lambda: switch(index - half, branches[half:]))


def run_selected(branch: Callable[[Any], Any], inputs: Any, selection: Selection, base: Any,
                 replace: bool = False, before: Callable[[Any], Any] | None = None) -> Any:
  """Runs a branch for the selected images of a batch and puts its results into `base`.

  If all images are selected, the branch runs on the whole batch without a gather.  If some are,
  their rows are gathered, the branch runs on this smaller batch, and the results are scattered
  back.  If none is, the branch is not entered: convolutions of an empty batch have the wrong
  shape under oneDNN, and batch norm would write NaN.

  Build the branch's variables before, and do not record on a routing tape inside the branch: it
  runs in the graph of a conditional.

  Args:
    branch: maps `inputs` of any number of images to what `base` is for these images.  Images
      are independent of each other (no synchronized batch norm).
    inputs: tensor or nested structure of tensors `[batch, ...]`.
    selection: the images to run for.
    base: tensor or nested structure of tensors `[batch, ...]`, the result where nothing runs.
    replace: the branch's results take the place of the selected rows of `base`; otherwise they
      are added to them.
    before: a function that maps `inputs` of the whole batch to what the branch gets, row by
      row.  It runs before rows are gathered; give one that makes rows small, such as pooling.

  Returns:
    The structure of `base`.
  """

  def shared() -> Any:
    return before(inputs) if before else inputs

  def put(rows: tf.Tensor, results: Any) -> Any:
    scatter = tf.tensor_scatter_nd_update if replace else tf.tensor_scatter_nd_add
    return tf.nest.map_structure(lambda x, result: scatter(x, rows, result), base, results)

  def run_some() -> Any:
    rows = tf.where(selection.images)
    return put(rows, branch(tf.nest.map_structure(lambda x: tf.gather(x, rows[:, 0]), shared())))

  def run_all() -> Any:
    results = branch(shared())
    # Not tf.add: Grappler merges it with sums inside the branch, in some graphs and not in others,
    # so that an exported detector would round otherwise than the model in memory.
    return results if replace else tf.nest.map_structure(
        lambda x, result: tf.raw_ops.AddN(inputs=[x, result]), base, results)

  def run_few() -> Any:
    if selection.images.shape[0] == 1:
      return base
    return tf.cond(selection.some, run_some, lambda: base)

  return tf.cond(selection.every, run_all, run_few)
