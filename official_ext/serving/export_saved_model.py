"""Exports a trained detector as a SavedModel, and checks what was written."""
import argparse
from collections.abc import Callable, Mapping, Sequence
import contextlib
import gc
import json
import pathlib
import tempfile
import time
from typing import Any

import numpy as np

from official_ext.datasets import categories as categories_lib
from official_ext.serving import export_checks
from official_ext.serving import input_types
from official_ext.serving import serving_layout
from official_ext.utils import argument_types
from official_ext.utils import command_line
from official_ext.utils import experiment
from official_ext.utils import files
from official_ext.utils import model_cards

_DESCRIPTION = """\
Exports a trained detector as a SavedModel that TensorFlow alone can load.  What was
written is loaded again and compared with the model in memory before it gets its name.

  DIR/saved_model.pb, variables/   the SavedModel; the weights are constants of its graph,
                                   unless --no-freeze
  DIR/assets/categories.json       class numbers, names, and category ids of your data
  DIR/export.json                  input type and size, classes, largest difference,
                                   multiply-adds
  DIR/params.yaml                  the resolved experiment, without paths of this machine
  DIR/model_card.json              data, recipe, result and licence

Outputs are Model Garden's (boxes in pixels of the resized image: divide by
image_info[:, 2]) and, per image, multiply_adds of the whole network,
executed_multiply_adds of its routed parts, and gate_<layer>_<level>.
With --nms=none they have decoded_boxes and decoded_box_scores of all locations instead of
detections; official_ext.serving.suppression, which needs NumPy alone, makes detections of them.

The signature serving_default takes images. If the network has gates of DyFPN, CADDet or a dynamic
head, the signature with_gate_threshold takes gate_threshold too, a number from 0, the gates as
trained, to 1, every gate shut: with it you choose between accuracy and time for every call. If its
gates were trained with budget_input, with_budget takes budget, one number or one for each image,
the share of what gates can save that runs: from 0, every gate shut, to 1, as in serving_default,
unless --default_budget gives that another one.

Names and category ids come from categories.json, which a training writes into its folder,
or from task.annotation_file; the SavedModel brings them along as the asset `categories`.
"""
_EPILOG = """\
example:
  python -m official_ext.serving.export_saved_model \\
    --experiment=retinanet_dyfpn_efficientnetlite0_sample --checkpoint_path=runs/dyfpn \\
    --config_file=runs/dyfpn/params.yaml --export_dir=runs/dyfpn_saved_model
"""
_DESCRIPTION_FILE = 'export.json'
# Further files and folders of an export; `--serving_layout` and `tools.frontier` write
# `assets.extra`.
_WRITES = ('saved_model.pb', 'fingerprint.pb', 'variables', 'assets', 'assets.extra',
           'params.yaml', model_cards.NAME)
LATERALS = ('folded', 'fourier')
# An export is compared with the model at this threshold of gates and at this budget, as well as
# without them.
_HALF = 0.5


def _parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(
      prog='python -m official_ext.serving.export_saved_model', description=_DESCRIPTION,
      epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
  experiment.add_arguments(parser)
  parser.add_argument('--checkpoint_path', required=True, metavar='PATH',
                      help='a checkpoint, or the --model_dir of a training: its latest one')
  parser.add_argument('--export_dir', required=True, metavar='DIR',
                      help='folder to write; an earlier export in it is replaced')
  parser.add_argument('--input_type', choices=input_types.INPUT_TYPES, default='image_tensor',
                      help='uint8 images of one size, encoded image files, or tf.train.Examples '
                      'with image/encoded (image_tensor)')
  parser.add_argument('--input_image_size', type=argument_types.image_size, metavar='H,W',
                      help='size that images are fitted into (task.model.input_size or '
                      'task.resize)')
  parser.add_argument('--batch_size', type=argument_types.positive_int, metavar='N',
                      help='a fixed number of images (any number)')
  parser.add_argument('--nms', choices=('batched', 'none', 'portable'),
                      help='suppression of overlapping boxes: one operation of TensorFlow; none, '
                      'see official_ext.serving.suppression; or in operations that other engines '
                      "know, with the same detections (the experiment's: batched)")
  parser.add_argument('--freeze', action=argparse.BooleanOptionalAction,
                      help='write constants instead of variables, with norms folded into the '
                      'kernels of convolutions, which is faster but takes much memory if there '
                      'are many weights (on; of more than 0.3 * 10^9 bytes the largest stay '
                      'variables, unless --freeze is given)')
  parser.add_argument('--laterals', choices=LATERALS, default='folded',
                      help="sums of convolutions of a map, such as DyFPN's laterals: folded into "
                      'one for each dilation rate; or, with the same results and more weights, in '
                      'the Fourier domain where this is expected to be faster (folded)')
  parser.add_argument('--winograd', action=argparse.BooleanOptionalAction, default=True,
                      help='compute large 3x3 convolutions of constants with fewer '
                      'multiplications and four times the weights, where this is expected to be '
                      'faster; results differ by up to 4e-6 of the largest value (on)')
  parser.add_argument('--default_budget', type=argument_types.threshold, metavar='B',
                      help='for networks with budget_input, the budget of calls that give none '
                      '(1)')
  parser.add_argument('--budget_images', nargs='+', type=pathlib.Path, default=[], metavar='PATH',
                      help='for networks with budget_input, image files, and folders with images, '
                      'which are to spend what a budget says; no annotations are needed (images of '
                      'the training set)')
  parser.add_argument('--serving_layout', action='store_true',
                      help='write a new numbered version into --export_dir, as TensorFlow Serving '
                      'reads them, with requests for its warm-up')
  parser.add_argument('--outputs', choices=('detections', 'detections+cost', 'all'), default='all',
                      help='detections alone, with the cost of every image, or with its gates too '
                      '(all)')
  parser.add_argument('--no-output_gates', dest='outputs', action='store_const',
                      const='detections+cost', help='the same as --outputs=detections+cost')
  return parser.parse_args(arguments)


def save(module: Any, export_dir: files.PathLike, input_type: str, image_size: Sequence[int],
         batch_size: int | None = None,
         categories: categories_lib.Categories = categories_lib.UNKNOWN, network: Any = None,
         freeze: Callable[[], Any] | None = None, budget: float = 1.0) -> dict[str, float]:
  """Writes a module as a SavedModel, loads it again and compares the two.

  Args:
    module: the export module of a detector.
    export_dir: an existing folder to write into.
    input_type: one of `input_types.INPUT_TYPES`.
    image_size: `(height, width)` in pixels of the images to compare with; upright ones follow,
      unless nothing is left of them when they are resized to it.
    batch_size: the module's fixed number of images; None: compare with two images.
    categories: the classes; if there are any, they become the asset `categories`.
    network: what `signatures.network_function` returned for the module; None: it is made here.
    freeze: returns what is written, `network` as `frozen.freeze` makes it, which nothing else
      should keep, because all weights are in it; None, or where it returns None: `network` itself.
    budget: of calls that give none.

  Returns:
    The largest absolute difference of each output.

  Raises:
    CommandError: the folder cannot be written, or the two differ.
  """
  import tensorflow as tf

  from official_ext.serving import image_runs
  from official_ext.serving import saved_models
  from official_ext.serving import signatures
  network = network or signatures.network_function(module, input_type)
  frozen_network = freeze() if freeze else None
  gc.collect()  # Graphs refer to themselves, and hold all constants.
  _write(signatures.signatures(frozen_network or network, budget),
         frozen_network.variables_of_graph if frozen_network else module.model.variables,
         export_dir, categories)
  is_frozen, frozen_network = frozen_network is not None, None
  gc.collect()
  saved = tf.saved_model.load(files.plain_path(export_dir)).signatures
  comparison = export_checks.Comparison(module.description)
  further_inputs: dict[str, dict[str, float]] = {
      signatures.DEFAULT: {}, signatures.WITH_GATE_THRESHOLD: {'gate_threshold': _HALF},
      signatures.WITH_BUDGET: {'budget': _HALF}}
  batches = export_checks.example_batches(image_size, batch_size or 2)
  for images in (*batches, np.swapaxes(batches[0], 1, 2)):
    if image_runs.is_lost_by_resizing(images.shape[1:3], image_size):
      continue  # an upright image for a long and narrow size
    inputs = input_types.encode(images, input_type)
    for name, values in further_inputs.items():
      if name not in saved:
        continue
      with saved_models.unoptimized():
        expected = signatures.call(network, inputs, **{'budget': budget, **values})
      # All signatures call one function; a user's TensorFlow optimizes it as it does here.
      optimizers = contextlib.nullcontext if name == signatures.DEFAULT else (
          saved_models.unoptimized)
      with optimizers():
        comparison.add(expected, saved[name](
            inputs=inputs, **{key: tf.constant(value) for key, value in values.items()}))
  comparison.check('--no-freeze writes the network without folding' if is_frozen else '')
  return comparison.differences


def _write(functions: Mapping[str, Any], variables: Sequence[Any], export_dir: files.PathLike,
           categories: categories_lib.Categories) -> None:
  """Writes functions as signatures of a SavedModel; raises CommandError if it cannot."""
  import tensorflow as tf

  from official_ext.datasets import category_files

  # The module holds only what the signatures need.  With the Keras model in it, TensorFlow would
  # also save a trace of every layer's call, which takes ten times as long to write and five times
  # as long to load.
  exported = tf.Module()
  exported.variables_of_model = list(variables)
  try:
    with tempfile.TemporaryDirectory() as folder:
      if categories:
        exported.categories = tf.saved_model.Asset(category_files.write(categories, folder))
      tf.saved_model.save(
          exported, files.plain_path(export_dir), signatures=dict(functions))
  except tf.errors.OpError as error:
    text = str(error).strip().splitlines()[0]
    raise command_line.CommandError(
        f'the SavedModel could not be written ({text}): free some space or choose a folder on '
        'another disk.') from error


def _write_warm_up(folder: pathlib.Path, args: argparse.Namespace, image_size: Sequence[int]
                   ) -> None:
  """Writes requests for the warm-up of a server beside a SavedModel."""
  import tensorflow as tf

  from official_ext.serving import signatures
  loaded = tf.saved_model.load(files.plain_path(folder))
  serving_layout.write_warm_up(
      folder, pathlib.Path(args.export_dir).name, signatures.DEFAULT,
      lambda images: loaded.signatures[signatures.DEFAULT](inputs=images),
      export_checks.example_batches(image_size, args.batch_size or 1),
      lambda images: input_types.encode(images, args.input_type))


def without_local_paths(value: Any) -> Any:
  """Returns the plain values of a config, with None in place of every absolute path."""
  if isinstance(value, dict):
    return {name: without_local_paths(item) for name, item in value.items()}
  if isinstance(value, (list, tuple)):
    return [without_local_paths(item) for item in value]
  return None if isinstance(value, str) and value.startswith('/') else value


def _network_functions(module: Any, args: argparse.Namespace) -> tuple[Any, Any]:
  """Returns the network to compare with, and the one to write, which may list tiles."""
  from official_ext.ops import export_expectation
  from official_ext.serving import signatures
  from official_ext.serving.compiling import frozen
  is_frozen = frozen.is_advisable(module.model) if args.freeze is None else args.freeze
  if not (args.winograd and is_frozen):
    network = signatures.network_function(module, args.input_type)
    return network, network
  with export_expectation.expected() as found:
    written = signatures.network_function(module, args.input_type)
  if not found.shares:
    return written, written
  network = signatures.network_function(module, args.input_type)
  return network, written if frozen.is_advisable(module.model, found.bytes) else network


def export(params: Any, args: argparse.Namespace, target: pathlib.Path) -> dict[str, Any]:
  """Exports an experiment.

  Args:
    params: the resolved experiment, not locked.
    args: the command's arguments.
    target: the folder to write.

  Returns:
    The content of `export.json`.

  Raises:
    CommandError: not a detector, a checkpoint that does not fit, options that contradict each
      other, or a folder that cannot be written.
  """
  import yaml

  from official_ext.datasets import category_files
  from official_ext.modeling.layers import routed
  from official_ext.serving import budget_images
  from official_ext.serving import export_modules
  from official_ext.serving.compiling import frozen

  start = time.monotonic()
  files.check_own_output(target, _DESCRIPTION_FILE, _WRITES, '--export_dir', reads=[
      args.checkpoint_path, *args.config_file, *args.budget_images])
  if args.laterals == 'fourier' and args.freeze is False:
    raise command_line.CommandError(
        '--laterals=fourier transforms constants, and with --no-freeze there are none: leave one '
        'of the two out.')
  module = export_modules.build_module(params, args.checkpoint_path, args.input_type,
                                       args.input_image_size, args.batch_size, args.outputs,
                                       nms=args.nms)
  if args.default_budget is not None and not routed.has_budget_input(module.model):
    raise command_line.CommandError(
        f'--default_budget={args.default_budget:g}: this network takes no budget; its gates must '
        'be trained with budget_input.')
  number = budget_images.calibrate(module, args.budget_images) if args.budget_images else 0
  categories = category_files.of_training(args.checkpoint_path, params.task)
  budget = 1.0 if args.default_budget is None else args.default_budget
  network, written = _network_functions(module, args)
  folding: dict[str, int] = {}

  def freeze() -> Any:
    frozen_network, found = frozen.freeze_as_told(
        written, module, args.freeze, args.laterals == 'fourier', args.winograd)
    folding.update(found)
    return frozen_network

  # Another export may have written the same new version meanwhile.
  with files.atomic_directory(target, replaces=not args.serving_layout) as temporary:
    differences = save(module, temporary, args.input_type, module.image_size, args.batch_size,
                       categories, network, freeze, budget)
    if args.serving_layout:
      _write_warm_up(temporary, args, module.image_size)
    description = {
        'experiment': args.experiment,
        **module.description,
        **({} if args.default_budget is None else {'default_budget': budget}),
        **({'budget_images': number} if number else {}),
        'categories': categories.to_coco(),
        **folding,
        'max_abs_diff': max(differences.values()),
        'max_abs_diff_by_output': differences,
        'seconds': round(time.monotonic() - start, 1),
    }
    (temporary / _DESCRIPTION_FILE).write_text(
        json.dumps(description, indent=2), encoding='utf-8')
    resolved = yaml.safe_dump(without_local_paths(params.as_dict()))
    (temporary / 'params.yaml').write_text(resolved, encoding='utf-8')
    card = model_cards.of_training(args.experiment, params, args.checkpoint_path)
    (temporary / model_cards.NAME).write_text(json.dumps(card, indent=2), encoding='utf-8')
  return description


def main(arguments: Sequence[str] | None = None) -> None:
  """Exports a detector; `arguments` replace those of the command line."""
  args = _parse_arguments(arguments)
  command_line.say('Loading TensorFlow and building the model ...')
  from official_ext import registry_imports
  experiment.import_modules(args.imports)
  params = experiment.resolve(args.experiment, args.config_file, args.params_override, lock=False)
  target = pathlib.Path(args.export_dir)
  if args.serving_layout:
    target = serving_layout.next_version(target)
    files.make_folder(target.parent)
  description = export(params, args, target)
  gmac = description['gmac']
  command_line.say(
      f'Exported to {target} in {command_line.duration(description["seconds"])}: loaded '
      f'again it differs from the model in memory by at most {description["max_abs_diff"]:.2g}; '
      f'{gmac["minimum"]:.3f} to {gmac["maximum"]:.3f} * 10^9 multiply-adds per image.')
  if args.laterals == 'fourier' and not description['fourier_laterals']:
    command_line.say('No lateral runs in the Fourier domain: there is no sum of convolutions that '
                     'is expected to be faster there and whose weights fit.')
  if model_cards.has_no_averages(params, args.checkpoint_path):
    command_line.say('The training averages weights and evaluates the averages, which this export '
                     f'does not have: give --checkpoint_path=MODEL_DIR/{model_cards.AVERAGES}.')
  if not description['categories']:
    command_line.say('Class names are unknown: neither a categories.json beside the checkpoint nor '
                     'task.annotation_file tells them.')


if __name__ == '__main__':
  command_line.run(main)
