"""Run a branch only for the images of a batch that selected it."""
from typing import Any, Callable, List

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


def cases(selections: tf.Tensor) -> List[tf.Tensor]:
  """Returns for each of several selections whether no, some or every image is selected.

  Args:
    selections: boolean `[batch, number]`.

  Returns:
    One int32 scalar for each: 0, 1 or 2.
  """
  counts = tf.reduce_sum(tf.cast(selections, tf.int32), 0)
  every = tf.cast(tf.equal(counts, tf.shape(selections)[0]), tf.int32)
  return tf.unstack(tf.where(counts > 0, 1 + every, 0))


def by_case(case: tf.Tensor, selected: tf.Tensor, none: Callable[[], Any],
            some: Callable[[tf.Tensor], Any], every: Callable[[], Any]) -> Any:
  """Calls one of three functions, by how many images of a batch are selected.

  One image, or a batch of one mind, needs no copy to be gathered: `every` uses what is there.
  All three return the same structure, and what `run_selected` says of its branch holds for them.

  Args:
    case: of `cases`, for this selection.
    selected: boolean `[batch]`.
    none: called when no image is selected.
    some: called with the selected rows, int64 `[rows, 1]`.
    every: called when all images are selected, and there is one.
  """
  if selected.shape[0] == 1:
    return tf.cond(case > 0, every, none)
  return tf.switch_case(case, [none, lambda: some(tf.where(selected)), every])
