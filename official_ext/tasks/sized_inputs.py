"""The inputs of a detection task, in the sizes that `task.resize` gives."""
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from official_ext.dataloaders import canvas_batches
from official_ext.dataloaders import dense_input
from official_ext.dataloaders import image_sizes
from official_ext.ops import canvases


def read(task_config: Any, params: Any, make_parser: Callable[[Sequence[int]], Any],
         context: tf.distribute.InputContext | None = None, include_mask: bool = False
         ) -> tf.data.Dataset:
  """Reads batches, each of images of one size.

  Args:
    task_config: config of a detection task.
    params: data config of the task, for training or evaluation.
    make_parser: makes Model Garden's parser for images that are fitted into `[height, width]`.
    context: says which part of the data this host reads; None for all.
    include_mask: whether masks are decoded.

  Returns:
    A dataset as `dense_input.read` gives it.
  """
  if not image_sizes.is_paper(task_config):
    parser = make_parser(task_config.model.input_size[:2])
    return dense_input.read(params, parser, context, include_mask)

  def parser_of(canvas: canvases.Canvas) -> Any:
    return make_parser(list(canvas.box))

  parser = canvas_batches.CanvasParser(
      image_sizes.canvases(task_config, params.is_training), parser_of)
  return dense_input.read(params, parser, context, include_mask,
                          canvas_batches.batch_by_canvas(params))
