"""Run a branch only for the images of a batch that selected it."""
from typing import Any, Callable, List, NamedTuple, Optional

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


class Selection(NamedTuple):
  """The images of a batch for which something runs.

  Attributes:
    images: boolean `[batch]`.
    case: int32 scalar, 0 where no image is selected, 1 for some and 2 for every one; None: nothing
      is skipped, every image is computed.
  """
  images: tf.Tensor
  case: Optional[tf.Tensor]


def select(images: tf.Tensor, skip: bool = True) -> List[Selection]:
  """Returns several selections at once: in graphs few operations are faster than many small ones.

  Args:
    images: boolean `[batch, number]`, a column for each.
    skip: False: leave `case` out.
  """
  columns = tf.unstack(images, axis=1)
  if not skip:
    return [Selection(column, None) for column in columns]
  some, every = tf.reduce_any(images, 0), tf.reduce_all(images, 0)
  # Of an empty batch every image is selected, and none.
  cases = tf.unstack(tf.cast(some, tf.int32) + tf.cast(some & every, tf.int32))
  return [Selection(*pair) for pair in zip(columns, cases)]


def by_case(selection: Selection, none: Callable[[], Any], some: Callable[[tf.Tensor], Any],
            every: Callable[[], Any]) -> Any:
  """Calls one of three functions, by how many images of a batch are selected.

  One image, or a batch of one mind, needs no copy to be gathered: `every` uses what is there.
  All three return the same structure, and what `run_selected` says of its branch holds for them.

  Args:
    selection: of `select`, with its case.
    none: called when no image is selected.
    some: called with the selected rows, int64 `[rows, 1]`.
    every: called when all images are selected, and there is one.
  """
  if selection.images.shape[0] == 1:
    return tf.cond(selection.case > 0, every, none)
  return tf.switch_case(
      selection.case, [none, lambda: some(tf.where(selection.images)), every])
