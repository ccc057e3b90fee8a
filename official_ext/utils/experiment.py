"""Resolves experiments from YAML and overrides, with errors that say what to change.

This module imports TensorFlow and Model Garden only inside functions, so that a command can read
its arguments at once.
"""
import argparse
from collections.abc import Iterable, Mapping, Sequence
import difflib
import importlib
import itertools
import os
from typing import Any

import yaml

from official_ext.utils import command_line

# What `runtime.mixed_precision_dtype` may be, and names of the same in Keras and elsewhere.
_PRECISIONS = ('float32', 'bfloat16', 'float16')
_KERAS_PRECISIONS = {'fp16': 'float16', 'half': 'float16', 'bf16': 'bfloat16', 'fp32': 'float32'}
# Backbones that are no functional models of Keras.
_BACKBONES_OF_ANY_SIZE = ('caddet',)


def names() -> list[str]:
  """Returns the names of all registered experiments."""
  from official.core import exp_factory
  return sorted(exp_factory._REGISTERED_CONFIGS)


def add_arguments(parser: argparse.ArgumentParser, required: bool = True) -> None:
  """Adds `--experiment`, `--config_file`, `--params_override` and `--import` to a command."""
  parser.add_argument('--experiment', required=required, metavar='NAME',
                      help='a registered experiment; show_config lists them')
  parser.add_argument('--config_file', action='append', default=[], metavar='YAML',
                      help='file of overrides; may be given several times')
  parser.add_argument('--params_override', default='', metavar='OVERRIDES',
                      help='overrides as a.b=1,c.d=null or as YAML, after the files')
  add_import_argument(parser)


def add_import_argument(parser: argparse.ArgumentParser) -> None:
  """Adds `--import` to a command; the values become `imports`."""
  parser.add_argument('--import', action='append', default=[], dest='imports', metavar='MODULE',
                      help='Python module that registers components or experiments')


def import_modules(modules: Iterable[str]) -> None:
  """Imports modules that register something.

  Args:
    modules: dotted names.

  Raises:
    CommandError: names the module that cannot be imported.
  """
  for module in modules:
    try:
      importlib.import_module(module)
    except ImportError as error:
      raise command_line.CommandError(f'--import={module}: {error}.') from error


def _checked_mapping(text: str, source: str) -> dict[str, Any]:
  """Parses YAML; raises a CommandError that names the source unless it is a mapping."""
  try:
    parsed = yaml.safe_load(text)
  except yaml.YAMLError as error:
    raise command_line.CommandError(f'{source} is not valid YAML: {error}.') from error
  if not isinstance(parsed or {}, dict):
    raise command_line.CommandError(
        f'{source} holds {parsed!r}, not fields with values, such as `task: {{model: ...}}` or '
        'task.model.min_level=3.')
  return parsed or {}


def _override(experiment: Any, override: Any, source: str, fields: Mapping[str, Any]) -> None:
  """Overrides fields by `override`, of which `fields` is the content."""
  from official.modeling import hyperparams
  try:
    hyperparams.override_params_dict(experiment, override, is_strict=True)
  except (KeyError, ValueError, TypeError, AttributeError) as error:
    text = str(error.args[0] if error.args else error).split(' To extend')[0]
    if isinstance(error, KeyError):
      text = _unknown_field(experiment, fields) or text
    raise command_line.CommandError(f'{source}: {text.rstrip(". ")}.') from error


def _unknown_field(record: Any, fields: Mapping[str, Any], path: str = '') -> str:
  """Says which of the fields a record does not have, and which it has; empty if it has all."""
  for name, value in fields.items():
    known = [field for field in vars(record) if not field.startswith('_')]
    if name not in known:
      close = difflib.get_close_matches(str(name), known, n=1)
      hint = f' (did you mean {close[0]}?)' if close else ''
      where = path.rstrip('.') or 'an experiment'
      return f'{path}{name} is no field{hint}; those of {where} are {", ".join(sorted(known))}'
    inner = getattr(record, name)
    if isinstance(value, dict) and hasattr(inner, 'as_dict'):
      text = _unknown_field(inner, value, f'{path}{name}.')
      if text:
        return text
  return ''


def _override_by_file(experiment: Any, path: str) -> None:
  from official.modeling import hyperparams
  source = f'--config_file={path}'
  if not os.path.isfile(path):
    raise command_line.CommandError(f'{source}: no such file.')
  with open(path, encoding='utf-8') as file:
    try:
      text = file.read()
    except UnicodeDecodeError as error:
      raise command_line.CommandError(f'{source} is not text in UTF-8: {error}.') from error
  is_empty = not _checked_mapping(text, source)
  if not is_empty:
    # Model Garden's reader reads 1e-4 as a number, PyYAML reads it as text.
    fields = hyperparams.read_yaml_to_params_dict(path).as_dict()
    _override(experiment, fields, source, fields)


def _override_by_text(experiment: Any, text: str) -> None:
  from official.modeling.hyperparams import params_dict
  source = '--params_override'
  try:
    as_yaml = params_dict.nested_csv_str_to_json_str(text)
  except ValueError:
    as_yaml = text
  # Model Garden takes any text that is no mapping as the name of a file.
  fields = _checked_mapping(as_yaml, source)
  if fields:
    _override(experiment, text, source, fields)


def resolve(name: str, config_files: Sequence[str] = (), params_override: str | None = '',
            lock: bool = True) -> Any:
  """Returns an experiment with its overrides, validated.

  Args:
    name: a registered experiment, whose components have been imported.
    config_files: YAML files with overrides, applied in this order.
    params_override: overrides as `a.b=1,c.d=null` or YAML, applied last.
    lock: whether to forbid later changes.

  Returns:
    An `ExperimentConfig` of Model Garden.

  Raises:
    CommandError: the experiment or a field is unknown, a file cannot be read, or a value is
      not allowed.
  """
  from official.core import exp_factory

  from official_ext.configs import field_types
  from official_ext.configs import optimizer_fields
  from official_ext.ops import checks
  if name not in names():
    close = difflib.get_close_matches(name, names(), n=3)
    hint = f'; did you mean {" or ".join(close)}?' if close else '.'
    raise command_line.CommandError(
        f'--experiment={name} is not registered{hint} `python -m official_ext.tools.show_config` '
        'lists all; --import=my_package.my_module registers more.')
  experiment = exp_factory.get_exp_config(name)
  for path in config_files:
    _override_by_file(experiment, path)
  if params_override:
    _override_by_text(experiment, params_override)
  try:
    field_types.check_records(experiment)
    experiment.validate()
  except checks.FieldError as error:
    raise command_line.CommandError(str(error)) from error
  except (KeyError, ValueError) as error:
    raise command_line.CommandError(f'--experiment={name}: {error.args[0]}') from error
  optimizer_fields.make_floats(experiment.trainer.optimizer_config)
  if lock:
    experiment.lock()
  return experiment


def check_training(params: Any, mode: str = 'train_and_eval') -> None:
  """Checks options with which a model could be built but not trained or evaluated.

  Args:
    params: a resolved experiment.
    mode: Model Garden's `--mode`, which says whether the fields of training, of evaluation or both
      are read.

  Raises:
    CommandError: a precision that Model Garden does not have, a field outside of its range, options
      that do not agree on the size of images, or an input size to which the reader of the data does
      not keep.
  """
  from official_ext.configs import classifiers
  from official_ext.configs import detectors
  from official_ext.configs import field_ranges
  from official_ext.configs import field_types
  from official_ext.dataloaders import image_sizes
  precision = params.runtime.mixed_precision_dtype
  if precision and precision not in _PRECISIONS:
    close = next((name for name in _PRECISIONS if str(precision).endswith(f'_{name}')),
                 _KERAS_PRECISIONS.get(precision))
    hint = f'; did you mean {close}?' if close else '.'
    raise command_line.CommandError(
        f'runtime.mixed_precision_dtype is {precision!r}; allowed are '
        f'{", ".join(_PRECISIONS)} and null{hint}')
  try:
    field_types.check_truth_values(params)
    # Model Garden's own experiments leave fields open that it lets other code set.
    if isinstance(params.task, (detectors.RetinaNetTaskConfig, detectors.MaskRCNNTaskConfig)):
      field_ranges.check_detector(params.task)
      _check_mode(params, mode)
    elif isinstance(params.task, classifiers.ClassificationTaskConfig):
      _check_mode(params, mode)
    image_sizes.check(params.task)
  except ValueError as error:
    raise command_line.CommandError(str(error)) from error
  _check_input_size(params.task)


def _check_mode(params: Any, mode: str) -> None:
  """Checks the fields that `mode` reads; raises ValueError about one that is out of its range."""
  from official_ext.configs import field_ranges
  if 'train' in mode:
    field_ranges.check_training(params)
  if 'eval' in mode:
    field_ranges.check_evaluation(params)


def _check_input_size(task: Any) -> None:
  """Checks that the size of the images after padding is the size that the model is built for.

  Model Garden's readers pad images to multiples of the coarsest level's stride.  Its backbones
  are functional models of Keras, which take images of exactly one size.
  """
  model: Any = getattr(task, 'model', None)
  size, max_level = getattr(model, 'input_size', None), getattr(model, 'max_level', None)
  pads = any(getattr(getattr(data, 'parser', None), 'pad', True)
             for data in (task.train_data, task.validation_data))
  is_detection = hasattr(task, 'annotation_file')
  if (not (is_detection and size and max_level and pads)
      or model.backbone.type in _BACKBONES_OF_ANY_SIZE):
    return
  stride = 2 ** max_level
  sides = [side for side in size[:2] if side]
  if all(side % stride == 0 for side in sides):
    return
  nearest = [sorted({max(stride, side // stride * stride), -(-side // stride) * stride})
             for side in sides]
  listed = ' or '.join(f'[{height},{width},{size[-1]}]'
                       for height, width in itertools.product(*nearest))
  raise command_line.CommandError(
      f'task.model.input_size is {list(size)}; height and width must be multiples of {stride}, '
      f'the stride of task.model.max_level={max_level}. The nearest sizes are {listed}; a smaller '
      'max_level allows smaller steps.')


def build_decoder(model: Any, l2_regularizer: Any | None = None) -> Any:
  """Builds the backbone and the decoder of a detector, to see whether their options fit.

  Args:
    model: `task.model` of an experiment.
    l2_regularizer: regularizer of all kernels, or None.

  Returns:
    The decoder; None for a detector that has none.

  Raises:
    CommandError: levels that the backbone does not give, or an option that is not allowed.
  """
  from official.vision.modeling import backbones
  from official.vision.modeling.decoders import factory
  import tf_keras
  if model.min_level > model.max_level:
    raise command_line.CommandError(
        f'task.model.min_level is {model.min_level} and max_level {model.max_level}: the first '
        'must not be above the second.')
  try:
    backbone = backbones.factory.build_backbone(
        tf_keras.layers.InputSpec(shape=[None, *model.input_size]), model.backbone,
        model.norm_activation, l2_regularizer)
    levels = sorted(int(level) for level in backbone.output_specs)
    if model.min_level not in levels:
      raise command_line.CommandError(
          f'task.model.min_level is {model.min_level}; the backbone gives levels {levels}.')
    return factory.build_decoder(backbone.output_specs, model, l2_regularizer)
  except (KeyError, TypeError, ValueError) as error:
    raise command_line.CommandError(f'task.model: {error.args[0]}') from error
