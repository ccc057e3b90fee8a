"""Converts an exported detector for another engine, and checks what was written."""
import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
import json
import pathlib
import shutil
import time
from typing import Any, NamedTuple

import numpy as np

from official_ext.serving.engines import catalog
from official_ext.serving.engines import examples
from official_ext.serving.engines import gate_times
from official_ext.serving.engines import inputs
from official_ext.serving.engines import verification
from official_ext.utils import command_line
from official_ext.utils import files
from official_ext.utils import model_cards

_DESCRIPTION = """\
Converts a SavedModel that export_saved_model wrote for an engine that runs it without TensorFlow.
What was written is loaded and compared with the SavedModel before it gets its name: scores, boxes,
every gate and the cost of every image, for one image and for four, which are made up; with
--images also on images of yours.  A network with gates keeps the input gate_threshold, and is
compared at several thresholds; one that takes a budget keeps the input budget, one number for all
images of a call, instead, and is compared at several budgets.  If it has kept conditionals, it is
timed with open and with shut gates.

  DIR/model.xml, model.bin   the model, for --to=openvino
  DIR/model.onnx             for --to=onnx
  DIR/model.tflite           for --to=litert
  DIR/export.json            the description of the SavedModel, with classes
  DIR/model_card.json        the card of the SavedModel
  DIR/params.yaml            its experiment
  DIR/conversion.json        engine and version, largest differences, conditionals,
                             milliseconds with open and with shut gates

Export with --input_type=image_tensor.  tools.predict and tools.profile take DIR as --saved_model.
"""
_EPILOG = """\
example:
  python -m official_ext.serving.convert --to=openvino --saved_model=runs/dyfpn_saved_model \\
    --output_dir=runs/dyfpn_openvino
"""
_MARKER = 'conversion.json'
# Further files and folders of a conversion, as patterns; `tools.frontier` writes `assets.extra`.
_WRITES = ('model.*', 'export.json', 'params.yaml', model_cards.NAME, 'assets.extra')
_LONGEST_REASON = 300
# Parts of the names of operations whose weights exports have transformed.
_TRANSFORMED = ('/winograd', 'winograd_weights', '/fourier')


def _parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(
      prog='python -m official_ext.serving.convert', description=_DESCRIPTION, epilog=_EPILOG,
      formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
  parser.add_argument('--to', required=True, choices=catalog.NAMES, help='the engine')
  parser.add_argument('--saved_model', required=True, metavar='DIR',
                      help='folder that export_saved_model wrote')
  parser.add_argument('--quantize', choices=('dynamic_range',),
                      help='round kernels of convolutions to 8 bits, with --to=litert: they take '
                      'a quarter of the size; scores and boxes differ, see what '
                      'predict --evaluate says (weights of float32)')
  parser.add_argument('--images', nargs='+', type=pathlib.Path, default=[], metavar='PATH',
                      help='a folder, searched with all folders in it, or image files: compare on '
                      'four of them too, at equal distances, read as tools.predict reads them')
  parser.add_argument('--output_dir', required=True, metavar='DIR',
                      help='folder to write; an earlier conversion in it is replaced')
  return parser.parse_args(arguments)


class Source(NamedTuple):
  """A loaded SavedModel.

  Attributes:
    run: function from images, and perhaps scalars by name, to outputs by name.
    signature: the one with the most inputs, which `run` calls.
    name: its name.
    model: what was loaded: a signature does not keep its variables.
  """
  run: Callable[..., dict[str, np.ndarray]]
  signature: Any
  name: str
  model: Any


def load(path: files.PathLike) -> Source:
  """Loads a SavedModel.

  Args:
    path: its folder.

  Raises:
    CommandError: there is no SavedModel, it does not take images, or it detects nothing.
  """
  import tensorflow as tf

  from official_ext.serving import saved_models
  from official_ext.serving import signatures
  model = saved_models.load(path)
  name = signatures.widest(model.signatures)
  signature: Any = model.signatures[name] if name else None
  specs = signature.structured_input_signature[1] if name else {}
  images = [spec for key, spec in specs.items() if key not in inputs.NEUTRAL]
  if not name or [spec.dtype for spec in images] != [tf.uint8]:
    raise command_line.CommandError(
        f'--saved_model={path} does not take images as pixels: export it with '
        '--input_type=image_tensor.')
  if not verification.can_compare(signature.structured_outputs):
    raise command_line.CommandError(
        f'--saved_model={path} does not detect objects, so that nothing could be compared: its '
        f'outputs are {", ".join(signature.structured_outputs)}. Export a detector.')

  def run(images: np.ndarray, scalars: Mapping[str, float] = inputs.NEUTRAL
          ) -> dict[str, np.ndarray]:
    fed = inputs.feed(specs, images, scalars)
    with saved_models.unoptimized():
      outputs = signature(**{key: tf.constant(value) for key, value in fed.items()})
    return {key: value.numpy() for key, value in outputs.items()}

  return Source(run, signature, name, model)


def count_conditionals(signature: Any) -> int:
  """Returns the number of conditionals in a signature, those inside of others included."""
  return sum(node.op in ('If', 'StatelessIf') for node in _nodes(signature))


def _nodes(signature: Any) -> Iterator[Any]:
  """Yields the nodes of a signature and of all functions that it may call."""
  graph = signature.graph.as_graph_def()
  yield from graph.node
  for function in graph.library.function:
    yield from function.node_def


def convert(engine_name: str, saved_model: files.PathLike, folder: pathlib.Path,
            quantize: str | None = None, images: Mapping[str, np.ndarray] | None = None
            ) -> dict[str, Any]:
  """Converts a SavedModel and compares the result with it.

  Args:
    engine_name: one of `catalog.NAMES`.
    saved_model: folder of the SavedModel.
    folder: an existing folder to write into.
    quantize: one of the engine's `QUANTIZATIONS`; None: weights are not rounded.  Rounding changes
      scores and boxes, so that they are compared, but not limited.
    images: file -> uint8 `[height, width, 3]`, up to four to compare on beside made-up ones.

  Returns:
    The content of `conversion.json`.

  Raises:
    CommandError: the engine is not installed, cannot round so or refuses the model, the SavedModel
      fails for one of the images or the engine for what it converted, or the two differ.
  """
  from official_ext.serving import budget_table
  from official_ext.serving import saved_models
  engine = catalog.engine(engine_name)
  start = time.monotonic()
  _check_quantization(engine, engine_name, quantize)
  source = load(saved_model)
  _check_weights(source.signature, quantize)
  specs = source.signature.structured_input_signature[1]
  scalars = inputs.scalars(specs)
  # The table of budgets is about models that were measured, which this one was not.
  description = budget_table.without(saved_models.read_description(saved_model))
  batch_size, = (spec.shape[0] for key, spec in specs.items() if key not in scalars)
  description['batch_size'] = batch_size
  images = images or {}
  examples.check(source.run, images, batch_size)
  conditionals = engine.convert(files.plain_path(saved_model), source.name, folder, quantize)
  wanted = count_conditionals(source.signature)
  if wanted and not conditionals:
    raise command_line.CommandError(
        f'{engine_name} lost the {wanted} conditionals of the SavedModel, so that shut gates would '
        'save nothing; nothing was written.')

  model, batches = engine.Model(folder), examples.batches(description, [*images.values()])
  differences = _compare(engine_name, source, model, examples.calls(batches, scalars), description)
  _check_differences(differences, quantize)
  times = gate_times.measure(model, batches, scalars[0]) if conditionals and scalars else None
  (folder / 'export.json').write_text(json.dumps(description, indent=2), encoding='utf-8')
  for name in (model_cards.NAME, 'params.yaml'):
    file = pathlib.Path(saved_model, name)
    if file.is_file():  # an earlier version may have written none
      shutil.copy(file, folder)
  result = {
      'engine': engine_name, 'version': engine.version(), 'quantize': quantize,
      'conditionals': conditionals, 'conditionals_of_saved_model': wanted, 'scalars': scalars,
      'images': [*images], 'timed_images': times.images if times else None,
      'milliseconds_open': times.opened if times else None,
      'milliseconds_shut': times.shut if times else None,
      'differences': {name: difference.value for name, difference in differences.items()},
      'seconds': round(time.monotonic() - start, 1)}
  (folder / _MARKER).write_text(json.dumps(result, indent=2), encoding='utf-8')
  return result


def _compare(engine_name: str, source: Source, model: Callable[..., dict[str, np.ndarray]],
             calls: Sequence[inputs.Call], description: Mapping[str, Any]
             ) -> dict[str, verification.Difference]:
  """Returns the differences of a converted model; raises a CommandError if the engine fails."""
  try:
    return verification.compare(source.run, model, calls, description)
  except RuntimeError as error:
    # The names of nested nodes come first, and fill pages.
    reason = (str(error).strip() or type(error).__name__).splitlines()[-1][-_LONGEST_REASON:]
    raise command_line.CommandError(
        f'{engine_name} fails in the converted model ({reason}), so nothing was written.'
        ) from error


def _check_differences(differences: Mapping[str, verification.Difference],
                       quantize: str | None) -> None:
  """Raises a CommandError if an output differs by more than is allowed."""
  wrong = [f'{name} by {difference.value:g} (allowed: {difference.limit:g})'
           for name, difference in differences.items()
           if not (difference.is_number if quantize else difference.is_allowed)]
  if wrong:
    raise command_line.CommandError(
        f'the converted model differs from the SavedModel in {", ".join(wrong)}, so nothing was '
        'written.')


def _check_quantization(engine: Any, name: str, quantize: str | None) -> None:
  """Raises a CommandError if an engine cannot round weights so."""
  if quantize not in (None, *engine.QUANTIZATIONS):
    raise command_line.CommandError(
        f'--quantize={quantize}: {name} has {", ".join(engine.QUANTIZATIONS) or "none"}; LiteRT '
        'has dynamic_range.')


def _check_weights(signature: Any, quantize: str | None) -> None:
  """Raises a CommandError if weights are to be rounded that must not be.

  Results of `winograd_conv` are small differences of large products: with weights of 8 bits they
  are off by 40 % of their size, where those of kernels are by 1 %.  Spectra of maps, which are
  rounded too, have a mean that is far larger than all else.
  """
  if quantize and any(name in node.name for node in _nodes(signature) for name in _TRANSFORMED):
    raise command_line.CommandError(
        f'--quantize={quantize}: 8 bits are too few for the weights of convolutions that have '
        'fewer multiplications: export with --no-winograd and --laterals=folded.')


def warnings(result: Mapping[str, Any]) -> Iterator[str]:
  """Yields a sentence for everything about gates that a user may not expect of a conversion.

  Args:
    result: the content of `conversion.json`.
  """
  found, wanted = result['conditionals'], result['conditionals_of_saved_model']
  if found < wanted:
    yield (f'Warning: {result["engine"]} has {found} of the {wanted} conditionals of the '
           'SavedModel; what the others skipped may run at every call.')
  if not found or not result['scalars']:
    return
  opened, shut = result['milliseconds_open'], result['milliseconds_shut']
  if opened is None:
    yield ('Warning: no gate is open for the images that were compared, so that nothing was timed; '
           'give images of yours with --images.')
  elif shut >= opened:
    yield (f'Warning: with every gate shut the model is not faster ({shut:.1f} ms, {opened:.1f} ms '
           'with open gates); gates of small maps save little, and other work on this machine '
           'disturbs times.')


def summary(result: Mapping[str, Any], folder: files.PathLike) -> str:
  """Returns what a conversion has written, in one sentence.

  Args:
    result: the content of `conversion.json`.
    folder: what was written.
  """
  differences = result['differences']
  largest = max((name for name in differences), key=differences.__getitem__)
  text = (f'Wrote {folder} in {command_line.duration(result["seconds"])}: it differs from the '
          f'SavedModel most in {largest}, by {differences[largest]:.2g}; '
          f'{result["conditionals"]} conditionals')
  if result['images']:
    text += f'; compared on {len(result["images"])} images of --images too'
  if result['milliseconds_open'] is not None:
    scalar, = result['scalars']
    count = result['timed_images']
    text += (f'; {count} image{"s" * (count > 1)}: {result["milliseconds_open"]:.1f} ms '
             f'{gate_times.OPEN[scalar]}, {result["milliseconds_shut"]:.1f} ms with every gate '
             'shut')
  return text + '.'


def main(arguments: Sequence[str] | None = None) -> None:
  """Converts a SavedModel; `arguments` replace those of the command line."""
  args = _parse_arguments(arguments)
  files.check_own_output(args.output_dir, _MARKER, _WRITES, reads=[args.saved_model, *args.images])
  _check_quantization(catalog.engine(args.to), args.to, args.quantize)
  images = examples.read(args.images)
  command_line.say(f'Loading the SavedModel and converting it for {args.to} ...')
  with files.atomic_directory(args.output_dir) as folder:
    result = convert(args.to, args.saved_model, folder, args.quantize, images)
  for text in warnings(result):
    command_line.say(text)
  command_line.say(summary(result, args.output_dir))


if __name__ == '__main__':
  command_line.run(main)
