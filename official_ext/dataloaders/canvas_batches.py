"""Batches of images that have one canvas, with the labels of Model Garden's parsers."""
from collections.abc import Callable, Mapping, Sequence
import functools
from typing import Any

import tensorflow as tf

from official_ext.ops import canvases as canvases_lib

Example = Mapping[str, Any]
_CANVAS = 'canvas'


class CanvasParser:
  """Parses every image by the parser of its canvas, so that labels and anchors are of its size.

  If there are several short sides, each image of training draws one.
  """

  def __init__(self, choices: Sequence[canvases_lib.Canvases],
               make_parser: Callable[[canvases_lib.Canvas], Any]):
    """Initializes the parser.

    Args:
      choices: the canvases for each short side.
      make_parser: makes Model Garden's parser for a canvas.
    """
    self._choices = choices
    self._parsers = [make_parser(canvas) for canvases in choices for canvas in canvases]

  def parse_fn(self, is_training: bool) -> Callable[[Example], tuple[tf.Tensor, dict[str, Any]]]:
    """Returns what turns an example into an image and its labels, among them its canvas.

    Args:
      is_training: whether the parsers parse for training.
    """
    branches = [parser.parse_fn(is_training) for parser in self._parsers]

    def parse(data: Example) -> tuple[tf.Tensor, dict[str, Any]]:
      index = self._index(tf.shape(data['image'])[:2])
      image, labels = tf.switch_case(
          index, [functools.partial(_parse, branch, data) for branch in branches])
      return image, {**labels, _CANVAS: tf.cast(index, tf.int64)}

    return parse

  def _index(self, image_size: tf.Tensor) -> tf.Tensor:
    """Returns the index of an image's canvas among those of all short sides."""
    start, indices = 0, []
    for canvases in self._choices:
      indices.append(start + canvases.index(image_size))
      start += len(canvases)
    chosen = tf.random.uniform([], 0, len(indices), tf.int32) if len(indices) > 1 else 0
    return tf.stack(indices)[chosen]


def _parse(branch: Callable[[Example], tuple[tf.Tensor, dict[str, Any]]], data: Example
           ) -> tuple[tf.Tensor, dict[str, Any]]:
  # Model Garden's parser changes the dictionary of attributes, which all branches share.
  image, labels = branch(tf.nest.map_structure(lambda value: value, data))
  return image, {**labels, 'image_info': canvases_lib.without_padding(labels['image_info'])}


def batch_by_canvas(params: Any) -> Callable[..., tf.data.Dataset]:
  """Returns Model Garden's `transform_and_batch_fn`, which makes batches of images of one canvas.

  All replicas get the same canvas in a step.  If too few images of a canvas are left at the end
  of an evaluation, some replicas get a batch of no images.

  Args:
    params: data config of a detector.
  """

  def batch(dataset: tf.data.Dataset,
            context: tf.distribute.InputContext | None) -> tf.data.Dataset:
    size, replicas = params.global_batch_size, 1
    if context:
      size = context.get_per_replica_batch_size(size)
      replicas = context.num_replicas_in_sync // context.num_input_pipelines

    def reduce(canvas: tf.Tensor, window: tf.data.Dataset) -> tf.data.Dataset:
      del canvas
      batches = window.map(_without_canvas).batch(size, drop_remainder=params.drop_remainder)
      if params.drop_remainder or replicas == 1:
        return batches
      return batches.concatenate(batches.take(1).map(_empty).repeat(replicas - 1)).take(replicas)

    return dataset.group_by_window(
        lambda image, labels: labels[_CANVAS], reduce, window_size=size * replicas)

  return batch


def _empty(*batch: Any) -> tuple[Any, ...]:
  return tf.nest.map_structure(lambda value: value[:0], batch)


def _without_canvas(image: tf.Tensor, labels: Mapping[str, Any]
                    ) -> tuple[tf.Tensor, dict[str, Any]]:
  return image, {name: value for name, value in labels.items() if name != _CANVAS}
