"""Exports a trained detector as a SavedModel, and checks what was written."""
import argparse
import json
import time
from typing import Any, Dict, List, Mapping, Optional, Sequence

import numpy as np
from PIL import Image

from official_ext.utils import argument_types
from official_ext.utils import command_line
from official_ext.utils import experiment
from official_ext.utils import files

_DESCRIPTION = """\
Exports a trained detector as a SavedModel that TensorFlow alone can load.  What was
written is loaded again and compared with the model in memory before it gets its name.

  DIR/saved_model.pb, variables/   the SavedModel; signature serving_default
  DIR/export.json                  input type and size, largest difference, multiply-adds
  DIR/params.yaml                  the resolved experiment, without paths of this machine

Outputs are Model Garden's (boxes in pixels of the resized image: divide by
image_info[:, 2]) and, per image, multiply_adds of the whole network,
executed_multiply_adds of its routed parts, and gate_<layer>_<level>.
"""
_EPILOG = """\
example:
  python -m official_ext.serving.export_saved_model \\
    --experiment=retinanet_dyfpn_efficientnetlite0_sample --checkpoint_path=runs/dyfpn \\
    --config_file=runs/dyfpn/params.yaml --export_dir=runs/dyfpn_saved_model
"""
_TOLERANCE = 1e-3
_INPUT_TYPES = ('image_tensor', 'image_bytes', 'tf_example')
_COMPARED = ('detection_scores', 'detection_boxes', 'detection_masks', 'raw_boxes', 'raw_scores',
             'decoded_boxes', 'decoded_box_scores', 'multiply_adds', 'executed_multiply_adds')


def _parse_arguments(arguments: Optional[Sequence[str]]) -> argparse.Namespace:
  parser = argparse.ArgumentParser(
      prog='python -m official_ext.serving.export_saved_model', description=_DESCRIPTION,
      epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
  experiment.add_arguments(parser)
  parser.add_argument('--checkpoint_path', required=True, metavar='PATH',
                      help='a checkpoint, or the --model_dir of a training: its latest one')
  parser.add_argument('--export_dir', required=True, metavar='DIR',
                      help='folder to write; an earlier export in it is replaced')
  parser.add_argument('--input_type', choices=_INPUT_TYPES, default='image_tensor',
                      help='uint8 images of one size, encoded image files, or tf.train.Examples '
                      'with image/encoded (image_tensor)')
  parser.add_argument('--input_image_size', type=argument_types.image_size, metavar='H,W',
                      help='size that images are resized to (task.model.input_size)')
  parser.add_argument('--batch_size', type=argument_types.positive_int, metavar='N',
                      help='a fixed number of images (any number)')
  parser.add_argument('--output_gates', action=argparse.BooleanOptionalAction, default=True,
                      help='one output for each gate')
  return parser.parse_args(arguments)


def build_module(params: Any, checkpoint_path: files.PathLike, input_type: str,
                 image_size: Optional[Sequence[int]] = None, batch_size: Optional[int] = None,
                 output_gates: bool = True) -> Any:
  """Builds the model of an experiment's own task, restored, as a module to be exported.

  Args:
    params: an unlocked experiment of a detection task; its image size is adjusted.
    checkpoint_path: a checkpoint, or a folder, of which the latest is taken.
    input_type: `image_tensor`, `image_bytes` or `tf_example`.
    image_size: `[height, width]` that images are resized to; None: the experiment's.
    batch_size: fixed number of images, or None for any.
    output_gates: adds one output per gate.

  Returns:
    A `RoutedDetectionModule`.

  Raises:
    CommandError: not a detection task, or a checkpoint that does not fit.
  """
  # pylint: disable=g-import-not-at-top
  from official.core import task_factory
  from official.vision import configs
  from official.vision.ops import preprocess_ops

  from official_ext.modeling.backbones.caddet import conv_norm
  from official_ext.serving import detection
  from official_ext.utils import checkpoints

  task_config = params.task
  if not isinstance(task_config, (configs.retinanet.RetinaNetTask, configs.maskrcnn.MaskRCNNTask)):
    raise command_line.CommandError(
        f'the task is a {type(task_config).__name__}, and this command exports RetinaNet, FCOS, '
        'ATSS and R-CNN tasks: use official.vision.serving.export_saved_model.')
  checkpoint = checkpoints.find(checkpoint_path)
  model_config = task_config.model
  image_size = list(image_size or model_config.input_size[:2])
  padded = image_size
  if task_config.train_data.parser.pad:
    padded = preprocess_ops.compute_padded_size(image_size, 2**model_config.max_level)
  model_config.input_size = [*(int(side) for side in padded), 3]
  generator = model_config.detection_generator
  if batch_size is None and generator.nms_version not in ('batched', 'v2', 'v3'):
    generator.nms_version = 'batched'  # as Model Garden: the others need a fixed batch
  model = task_factory.get_task(task_config).build_model()
  checkpoints.restore(model, checkpoint)
  conv_norm.fold_norms(model)
  return detection.RoutedDetectionModule(
      params, model=model, input_image_size=image_size, batch_size=batch_size,
      input_type=input_type, output_gates=output_gates)


def example_batches(size: Sequence[int], batch_size: int) -> List[np.ndarray]:
  """Makes pictures with structure at several scales, always the same ones.

  Args:
    size: `(height, width)` of the first batch; the second has another size and shape.
    batch_size: images per batch.

  Returns:
    Two arrays, uint8 `[batch_size, height, width, 3]`.
  """
  random = np.random.default_rng(0)
  height, width = size

  def picture(rows, columns):
    layers = [
        Image.fromarray(random.integers(0, 256, [cells, cells, 3], np.uint8)).resize(
            (columns, rows), Image.Resampling.NEAREST) for cells in (3, 9, 27)]
    return np.mean(layers, axis=0).astype(np.uint8)

  return [np.stack([picture(*shape) for _ in range(batch_size)])
          for shape in ((height, width), (height * 3 // 4 + 1, width * 5 // 4 + 1))]


def largest_differences(expected: Mapping[str, Any], actual: Mapping[str, Any]) -> Dict[str, float]:
  """Returns the largest absolute difference of each compared output, NaN where one is NaN."""
  return {name: float(np.max(np.abs(np.asarray(expected[name]) - np.asarray(actual[name]))))
          for name in _COMPARED if name in expected}


def save(module: Any, export_dir: files.PathLike, input_type: str, image_size: Sequence[int],
         batch_size: Optional[int] = None) -> Dict[str, float]:
  """Writes a module as a SavedModel, loads it again and compares the two.

  Args:
    module: an export module of a detector.
    export_dir: an existing folder to write into.
    input_type: as the module's.
    image_size: `(height, width)` of the images to compare with.
    batch_size: as the module's; two images if None.

  Returns:
    The largest absolute difference of each output.

  Raises:
    CommandError: the folder cannot be written, or the two differ.
  """
  import tensorflow as tf  # pylint: disable=g-import-not-at-top

  from official_ext.serving import detectors  # pylint: disable=g-import-not-at-top

  signatures = module.get_inference_signatures({input_type: 'serving_default'})
  # Only what the signature needs: a module with the Keras model in it would be saved with a
  # trace of every layer's call, ten times slower to write and five times to load.
  exported = tf.Module()
  exported.variables_of_model = list(module.model.variables)
  try:
    tf.saved_model.save(exported, str(export_dir), signatures=signatures)
  except tf.errors.OpError as error:
    text = str(error).strip().splitlines()[0]
    raise command_line.CommandError(
        f'the SavedModel could not be written ({text}): free some space or choose a folder on '
        'another disk.') from error
  saved = tf.saved_model.load(str(export_dir)).signatures['serving_default']
  differences = {}
  for images in example_batches(image_size, batch_size or 2):
    inputs = detectors.encode(images, input_type)
    found = largest_differences(signatures['serving_default'](inputs), saved(inputs=inputs))
    differences = {name: float(np.maximum(value, differences.get(name, 0.0)))
                   for name, value in found.items()}
  wrong = [f'{name} by {value:g}' for name, value in differences.items()
           if not value <= _TOLERANCE]
  if wrong:
    raise command_line.CommandError(
        f'the SavedModel, loaded again, differs from the model in memory in {", ".join(wrong)} '
        f'(allowed: {_TOLERANCE:g}), so nothing was exported: check that the checkpoint is of a '
        'training that did not diverge.')
  return differences


def without_local_paths(value: Any) -> Any:
  """Returns a config's plain values with null for every absolute path."""
  if isinstance(value, dict):
    return {name: without_local_paths(item) for name, item in value.items()}
  if isinstance(value, (list, tuple)):
    return [without_local_paths(item) for item in value]
  return None if isinstance(value, str) and value.startswith('/') else value


def export(params: Any, args: argparse.Namespace) -> Dict[str, Any]:
  """Exports an experiment and returns what it wrote into `export.json`.

  Args:
    params: the resolved experiment, not locked.
    args: the command's arguments.

  Raises:
    CommandError: what is wrong, and what to change.
  """
  import yaml  # pylint: disable=g-import-not-at-top

  start = time.monotonic()
  files.check_own_output(args.export_dir, 'export.json', '--export_dir')
  module = build_module(params, args.checkpoint_path, args.input_type, args.input_image_size,
                        args.batch_size, args.output_gates)
  size, cost = list(module.image_size), module.cost
  with files.atomic_directory(args.export_dir) as temporary:
    differences = save(module, temporary, args.input_type, size, args.batch_size)
    description = {
        'experiment': args.experiment,
        'input_type': args.input_type,
        'input_image_size': size,
        'batch_size': args.batch_size,
        'num_classes': params.task.model.num_classes,
        'normalized_boxes': has_normalized_boxes(params.task),
        'max_abs_diff': max(differences.values()),
        'max_abs_diff_by_output': differences,
        'gmac': {name: getattr(cost, name) / 1e9 for name in ('static', 'minimum', 'maximum')},
        'seconds': round(time.monotonic() - start, 1),
    }
    (temporary / 'export.json').write_text(json.dumps(description, indent=2), encoding='utf-8')
    resolved = yaml.safe_dump(without_local_paths(params.as_dict()))
    (temporary / 'params.yaml').write_text(resolved, encoding='utf-8')
  return description


def has_normalized_boxes(task_config: Any) -> bool:
  """Returns whether exported boxes are parts of the image instead of pixels of its resized form."""
  export_config = getattr(task_config, 'export_config', None)
  return bool(getattr(export_config, 'output_normalized_coordinates', False))


def main(arguments: Optional[Sequence[str]] = None) -> None:
  """Exports; `arguments` stand in for those of the command line."""
  args = _parse_arguments(arguments)
  command_line.say('Loading TensorFlow and building the model ...')
  from official_ext import registry_imports  # pylint: disable=g-import-not-at-top,unused-import
  experiment.import_modules(args.imports)
  params = experiment.resolve(args.experiment, args.config_file, args.params_override, lock=False)
  description = export(params, args)
  gmac = description['gmac']
  command_line.say(
      f'Exported to {args.export_dir} in {command_line.duration(description["seconds"])}: loaded '
      f'again it differs from the model in memory by at most {description["max_abs_diff"]:.2g}; '
      f'{gmac["minimum"]:.3f} to {gmac["maximum"]:.3f} * 10^9 multiply-adds per image.')


if __name__ == '__main__':
  command_line.run(main)
