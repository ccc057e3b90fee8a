"""Times the step from predictions to detections, as a share of the network before it.

    .venv/bin/python benchmarks/suppression.py [--image_size 512] [--versions batched,portable,v2]
    .venv/bin/python benchmarks/suppression.py --engine openvino --versions portable

The detectors are those of the COCO experiments, with 90 classes and random weights, the networks
those of exports.  What is suppressed is made up, because random weights give hardly a score
above the threshold: a crowd of scores around each of forty objects, as trained detectors have it.
The time of the step has decoding in it.  Times are medians, interleaved in one run; of `v2`, Model
Garden's, a repeat takes seconds, and FCOS, ATSS, AutoAssign and FreeAnchor do not have it.
"""
import argparse
from collections.abc import Callable
from typing import Any

import official_ext  # noqa: F401 (chooses Keras 2)
import graphs
import numpy as np
from official.core import task_factory
from official.vision.ops import anchor
import tensorflow as tf

from official_ext import registry_imports
from official_ext.modeling import dense_detections
from official_ext.serving.compiling import frozen
from official_ext.serving import signatures
from official_ext.utils import command_line
from official_ext.utils import experiment
from official_ext.utils import timing

_TWO_STAGE = ('fasterrcnn', 'cascadercnn')
DETECTORS = ('retinanet', 'fcos', 'atss', 'autoassign', 'freeanchor', *_TWO_STAGE)
# Generators that have Model Garden's own version.
_STOCK = ('retinanet', *_TWO_STAGE)
_OBJECTS, _REACH = 40, 0.8  # reach of an object's scores in cells of a map


def build(name: str, image_size: int, **generator: Any) -> tuple[Any, Any]:
  """Returns the options and the model of an experiment for square images, in float32."""
  config = experiment.resolve(f'{name}_fpn_resnet50_coco', lock=False)
  config.override({'task': {'model': {
      'input_size': [image_size, image_size, 3], 'detection_generator': generator,
      # Masks are computed from detections, so that no network has them without the step.
      **({'include_mask': False} if name in _TWO_STAGE else {})}}})
  return config.task.model, task_factory.get_task(config.task).build_model()


def crowd(random: np.random.Generator, shape: tuple[int, ...], first: int, objects: int
          ) -> np.ndarray:
  """Makes logits that are high near objects, each of one class.

  Args:
    random: generator of random numbers.
    shape: (height, width, anchors, classes).
    first: the first class that objects have.
    objects: number of objects.
  """
  logits = random.normal(-6, 0.7, shape).astype(np.float32)
  rows, columns = np.indices(shape[:2])
  for _ in range(objects):
    row, column = random.uniform(0, 1, 2) * shape[:2]
    near = 3 - ((rows - row)**2 + (columns - column)**2) / (2 * _REACH**2)
    own = logits[..., random.integers(first, shape[3])]
    np.maximum(own, near[..., None] - random.uniform(0, 3, shape[2]), out=own)
  return logits


def dense_inputs(config: Any, model: Any, image_size: int) -> list[Any] | dict[str, Any]:
  """Returns what the generator of a one-stage detector is called with, for one image."""
  random = np.random.default_rng(0)
  outputs = model(tf.zeros([1, image_size, image_size, 3]), training=True)
  anchors = anchor.build_anchor_generator(
      config.min_level, config.max_level, config.anchor.num_scales, config.anchor.aspect_ratios,
      config.anchor.anchor_size)((image_size, image_size))
  places = config.anchor.num_scales * len(config.anchor.aspect_ratios)
  is_ours = isinstance(model.detection_generator, dense_detections.DetectionGenerator)
  logits = {level: tf.constant(crowd(
      random, (*map.shape[1:3], places, map.shape[3] // places),
      0 if is_ours else 1, _OBJECTS // len(anchors)).reshape(map.shape))
            for level, map in outputs['cls_outputs'].items()}
  shape = tf.fill([1, 2], float(image_size))
  if is_ours:
    boxes = tf.concat([tf.reshape(anchors[level], [1, -1, 4]) for level in sorted(anchors)], 1)
    return {'class_logits': logits, 'boxes': boxes, 'image_shape': shape,
            **{f'{attribute}_logits': maps for attribute, maps in
               (outputs.get('attribute_outputs') or {}).items()}}
  return [outputs['box_outputs'], logits, {level: own[None] for level, own in anchors.items()},
          shape]


def roi_inputs(config: Any, image_size: int) -> list[Any]:
  """Returns what the generator of the second stage is called with, for one image."""
  random = np.random.default_rng(0)
  number, classes = config.roi_generator.test_num_proposals, config.num_classes
  low = random.uniform(0, 0.8, (1, _OBJECTS, 2)) * image_size
  boxes = np.concatenate([low, low + random.uniform(0.05, 0.2, low.shape) * image_size], -1)
  which = random.integers(0, _OBJECTS, number)
  logits = random.normal(0, 0.5, (1, number, classes))
  logits[0, range(number), 1 + which % (classes - 1)] += random.uniform(2, 8, number)
  rois = boxes[:, which] + random.normal(0, 3, (1, number, 4))
  values = (np.zeros((1, number, classes * 4)), logits, rois, [[image_size] * 2])
  return [tf.constant(value, tf.float32) for value in values]


def _in_openvino(function: Any, inputs: list[tf.Tensor]) -> Callable[[], Any]:
  """Returns a function that runs another one, of `_named`, in OpenVINO for one image."""
  compiled = graphs.in_openvino(function).compile(1)
  values = {f'input_{number}': value.numpy() for number, value in enumerate(inputs)}
  return lambda: compiled(values, share_outputs=True)


def _named(function: Callable[..., Any], inputs: list[tf.Tensor]) -> Any:
  """Returns a concrete function whose arguments are `input_0` and so on."""
  return signatures.with_names(function, [
      tf.TensorSpec(value.shape, value.dtype, f'input_{number}')
      for number, value in enumerate(inputs)])


def step(name: str, version: str, image_size: int, engine: str) -> Callable[[], Any]:
  """Returns a function that runs the step from predictions to detections."""
  config, model = build(name, image_size, nms_version=version, apply_nms=True)
  generator = model.detection_generator
  inputs = (roi_inputs(config, image_size) if name in _TWO_STAGE
            else dense_inputs(config, model, image_size))

  def detect(*flat):
    values = tf.nest.pack_sequence_as(inputs, flat)
    detections = generator(**values) if isinstance(values, dict) else generator(*values)
    return {'scores': detections['detection_scores']}

  flat = tf.nest.flatten(inputs)
  suppress = _named(detect, flat)
  if engine == 'openvino':
    return _in_openvino(suppress, flat)
  return lambda: suppress(*flat)['scores'].numpy()


def network(name: str, image_size: int, engine: str) -> Callable[[], Any]:
  """Returns a function that runs the network as an export has it."""
  # The proposals of two stages are suppressed too.
  _, model = build(name, image_size, apply_nms=False,
                   nms_version='portable' if engine == 'openvino' else 'batched')
  image, shape = tf.zeros([1, image_size, image_size, 3]), tf.fill([1, 2], float(image_size))

  def run(inputs):
    outputs = model(inputs, image_shape=shape, training=False)
    return {'scores': outputs['decoded_box_scores']}

  function, _ = frozen.freeze(_named(run, [image]), largest_stay=True)
  return (_in_openvino(function, [image]) if engine == 'openvino'
          else lambda: function(image)['scores'].numpy())


def main() -> None:
  """Measures and prints."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--detectors', default=','.join(DETECTORS))
  parser.add_argument('--image_size', type=int, default=512)
  parser.add_argument('--versions', default='batched,portable')
  parser.add_argument('--engine', choices=('tensorflow', 'openvino'), default='tensorflow')
  parser.add_argument('--repeats', type=int, default=9)
  arguments = parser.parse_args()
  command_line.say(
      f'{"detector":12}{"version":10}{"network ms":>12}{"detections ms":>15}{"share":>8}')
  for name in arguments.detectors.split(','):
    run = network(name, arguments.image_size, arguments.engine)
    for version in arguments.versions.split(','):
      if version == 'v2' and name not in _STOCK:
        continue
      seconds = timing.interleaved(
          {'network': run,
           'step': step(name, version, arguments.image_size, arguments.engine)},
          arguments.repeats)
      own = [1e3 * np.median(seconds[key]) for key in ('network', 'step')]
      command_line.say(f'{name:12}{version:10}{own[0]:12.1f}{own[1]:15.1f}'
                       f'{timing.median_ratio(seconds, "step", "network"):8.1%}')


if __name__ == '__main__':
  main()
