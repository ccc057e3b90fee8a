"""Experiments by name: resolved from YAML and overrides, with errors that say what to change."""
import argparse
import difflib
import importlib
import os
from typing import Any, Iterable, List, Optional, Sequence

from official.core import config_definitions
from official.core import exp_factory
from official.modeling import hyperparams
import yaml

from official_ext.utils import command_line


def names() -> List[str]:
  """Returns the names of all registered experiments."""
  return sorted(exp_factory._REGISTERED_CONFIGS)  # pylint: disable=protected-access


def add_arguments(parser: argparse.ArgumentParser, required: bool = True) -> None:
  """Adds `--experiment`, `--config_file`, `--params_override` and `--import` to a command."""
  parser.add_argument('--experiment', required=required, metavar='NAME',
                      help='a registered experiment; show_config lists them')
  parser.add_argument('--config_file', action='append', default=[], metavar='YAML',
                      help='file of overrides; may be given several times')
  parser.add_argument('--params_override', default='', metavar='OVERRIDES',
                      help='overrides as a.b=1,c.d=null or as YAML, after the files')
  parser.add_argument('--import', action='append', default=[], dest='imports', metavar='MODULE',
                      help='Python module that registers components or experiments')


def import_modules(modules: Iterable[str]) -> None:
  """Imports modules that register something, or says which one cannot be imported."""
  for module in modules:
    try:
      importlib.import_module(module)
    except ImportError as error:
      raise command_line.CommandError(f'--import={module}: {error}.') from error


def _override(experiment: Any, override: Any, source: str) -> None:
  try:
    hyperparams.override_params_dict(experiment, override, is_strict=True)
  except (KeyError, ValueError, TypeError, AttributeError, yaml.YAMLError) as error:
    text = str(error.args[0] if error.args else error).split(' To extend')[0].rstrip('. ')
    raise command_line.CommandError(f'{source}: {text}.') from error


def resolve(name: str, config_files: Sequence[str] = (), params_override: Optional[str] = '',
            lock: bool = True) -> config_definitions.ExperimentConfig:
  """Returns an experiment with its overrides, validated.

  Args:
    name: registered name; the components must have been imported.
    config_files: YAML files, applied in this order.
    params_override: overrides as `a.b=1,c.d=null` or YAML, applied last.
    lock: forbid later changes.

  Raises:
    CommandError: unknown experiment, unreadable file, unknown or invalid field.
  """
  if name not in names():
    close = difflib.get_close_matches(name, names(), n=3)
    hint = f'; did you mean {" or ".join(close)}?' if close else ''
    raise command_line.CommandError(
        f'--experiment={name} is not registered{hint} `python -m official_ext.tools.show_config` '
        'lists all; --import=my_package.my_module registers more.')
  experiment = exp_factory.get_exp_config(name)
  for path in config_files:
    if not os.path.isfile(path):
      raise command_line.CommandError(f'--config_file={path}: no such file.')
    with open(path, encoding='utf-8') as file:
      text = file.read()
    _override(experiment, yaml.safe_load(text) if text.strip() else {}, f'--config_file={path}')
  if params_override:
    _override(experiment, params_override, '--params_override')
  try:
    experiment.validate()
  except (KeyError, ValueError) as error:
    raise command_line.CommandError(f'--experiment={name}: {error.args[0]}') from error
  if lock:
    experiment.lock()
  return experiment
