"""Model cards: data, recipe, result and licence of a network, as one JSON object.

An export has the card of its training, `model_card.json`.  It is made of what the training keeps
in its folder: `params.yaml`, `dataset.json` of the records and `evaluation.json`, the last result.
`tools.show_config --card` prints the card of an experiment, with the published result that the
comment of a YAML file of `configs/` quotes.

This module imports TensorFlow only inside functions.
"""
from collections.abc import Mapping
import json
import os
import pathlib
import re
from typing import Any, NamedTuple

from official_ext.utils import files

NAME = 'model_card.json'
DATASET = 'dataset.json'
RESULT = 'evaluation.json'
# Model Garden's folder of a training for averaged weights in the place of weights.
AVERAGES = 'ema_checkpoints'
# The trainer's variable in its checkpoints.
_STEP = 'global_step/.ATTRIBUTES/VARIABLE_VALUE'

_SOFTWARE = 'Apache-2.0'
# Licences of the data that an experiment's name ends with.
_LICENCES = {
    'coco': 'annotations: CC BY 4.0; images: of their owners, under the terms of Flickr',
    'imagenet': "images: of their owners; for research, under ImageNet's terms of access",
}
# Name of a rule of assignment -> the detector that has it.
_DENSE = {'fcos': 'FCOS', 'atss': 'ATSS', 'autoassign': 'AutoAssign', 'freeanchor': 'FreeAnchor'}
# Name of a folder of weights that comes with the package -> its licence.
_START_LICENCES = {'efficientnet_lite0_imagenet': 'Apache-2.0'}


class Published(NamedTuple):
  """The row of a paper's table, read from the comment of a YAML file.

  Attributes:
    source: the paper, table and row.
    results: the published figures, one text for each table.
    experiment: name of the experiment that the file changes.
    notes: what else it says, such as how the setting differs from the paper's.
  """
  source: str
  results: list[str]
  experiment: str
  notes: str


def read_comment(path: str | os.PathLike) -> Published | None:
  """Reads the comment at the beginning of a YAML file of `configs/`.

  Args:
    path: the file.

  Returns:
    What it says; None if the file does not quote a published result.
  """
  lines = []
  for line in pathlib.Path(path).read_text(encoding='utf-8').splitlines():
    if not line.startswith('#'):
      break
    lines.append(line.lstrip('# ').removesuffix(' \\'))
  found = re.fullmatch(
      r'(?P<source>.*?) (?P<results>Published.*?) Experiment: (?P<experiment>\w+)\. Command:'
      r'.*?--model_dir=\S+(?P<notes>.*)', ' '.join(lines))
  if not found:
    return None
  results = re.split(r' (?=Published\b)', found['results'])
  return Published(found['source'], results, found['experiment'], found['notes'].strip())


def _detector(task: Any) -> str:
  """Returns the common name of the detector that a task trains."""
  kind = type(task).__name__.removesuffix('Config').removesuffix('Task')
  if kind == 'Dense':
    return _DENSE.get(task.model.assigner, task.model.assigner)
  if kind != 'MaskRCNN':
    return kind
  first = 'Cascade' if task.model.roi_sampler.cascade_iou_thresholds else 'Faster'
  if not task.model.include_mask:
    return f'{first} R-CNN'
  return 'Mask R-CNN' if first == 'Faster' else 'Cascade Mask R-CNN'


def _type(model: Any, field: str) -> str:
  """Returns the type, and the size if there is one, of a backbone or decoder; else ''."""
  options: Any = getattr(model, field, None)
  if not getattr(options, 'type', None):
    return ''
  size = getattr(options.get(), 'model_id', '')
  return f'{options.type} {size}'.strip()


def network(task: Any) -> dict[str, str]:
  """Returns the names of the `detector`, `decoder` and `backbone` of a task's config."""
  model = getattr(task, 'model', None)
  return {'detector': _detector(task), 'decoder': _type(model, 'decoder'),
          'backbone': _type(model, 'backbone')}


def make(name: str, params: Any, published: Published | None = None,
         dataset: Mapping[str, Any] | None = None, result: Mapping[str, Any] | None = None
         ) -> dict[str, Any]:
  """Makes the card of an experiment or of a training.

  Args:
    name: of the experiment.
    params: the resolved experiment.
    published: what its YAML file quotes.
    dataset: content of `dataset.json` of the records; None: what the experiment says.
    result: content of `evaluation.json`; None: not measured.

  Returns:
    The card, plain JSON without paths of this machine; unknown values are None.
  """
  data = _of_dataset(dataset) if dataset else _of_experiment(name, params.task)
  start = _start(params.task)
  return {
      'experiment': name,
      'network': network(params.task),
      'data': data,
      'recipe': {**_recipe(params), 'start': start},
      'result': {'measured': dict(result) if result else None,
                 'published': published.results if published else [],
                 'source': published.source if published else None,
                 'notes': published.notes if published else None},
      'licence': {'software': _SOFTWARE, 'data': data['licence'],
                  'start': _START_LICENCES.get(start) if start else None},
  }


def _of_dataset(dataset: Mapping[str, Any]) -> dict[str, Any]:
  """Returns what a card says of records that convert_dataset wrote."""
  return {'classes': list(dataset['class_names'].values()),
          **{name: {key: split[key] for key in ('num_images', 'num_boxes')}
             for name, split in dataset['splits'].items()},
          'licence': dataset.get('licence') or None}


def _of_experiment(name: str, task: Any) -> dict[str, Any]:
  """Returns what a card says of the records that an experiment names."""
  from official.core import exp_factory
  standard = exp_factory.get_exp_config(name).task.train_data.input_path
  is_standard = task.train_data.input_path == standard
  known = _LICENCES.get(name.rpartition('_')[2]) if is_standard else None
  return {'classes': None,
          **{split: _without_machine(getattr(task, f'{field}_data').input_path)
             for split, field in (('train', 'train'), ('val', 'validation'))}, 'licence': known}


def _without_machine(path: Any) -> str | None:
  """Returns a relative path, or the last name of an absolute one; None without a path."""
  if not isinstance(path, str) or not path:
    return None
  return os.path.basename(path.rstrip('/')) if os.path.isabs(path) else path


def _start(task: Any) -> str | None:
  """Returns the name of the checkpoint that a training starts from; None: random weights."""
  return _without_machine(getattr(task, 'init_checkpoint', None))


def _recipe(params: Any) -> dict[str, Any]:
  """Returns the main options of a training; `params.yaml` has all."""
  trainer, task = params.trainer, params.task
  optimizer = trainer.optimizer_config
  parts = {field: getattr(optimizer, field) for field in ('optimizer', 'learning_rate', 'warmup')}
  model = getattr(task, 'model', None)
  resize: Any = getattr(task, 'resize', None)
  return {
      'train_steps': trainer.train_steps,
      'batch_size': task.train_data.global_batch_size,
      **{field: {'type': part.type, **part.get().as_dict()} if part and part.type else None
         for field, part in parts.items()},
      'input_size': list(getattr(model, 'input_size', None) or []),
      'resize': resize.as_dict() if getattr(resize, 'rule', 'garden') != 'garden' else None,
      'precision': params.runtime.mixed_precision_dtype or 'float32',
      'frozen_stages': list(getattr(task, 'frozen_stages', None) or []),
  }


def keep_dataset(task: Any, model_dir: str | os.PathLike) -> None:
  """Copies `dataset.json` of a task's records into the folder of its training, if there is one.

  Exports find it there when the records have moved.

  Args:
    task: config of the task; `annotation_file` is `annotations/*.json` of the records.
    model_dir: folder of the training; may be remote.
  """
  import tensorflow as tf
  annotation_file = getattr(task, 'annotation_file', None)
  if not annotation_file:
    return
  path = os.path.join(os.path.dirname(os.path.dirname(annotation_file)), DATASET)
  if tf.io.gfile.exists(path):
    tf.io.gfile.makedirs(os.fspath(model_dir))
    tf.io.gfile.copy(path, os.path.join(model_dir, DATASET), overwrite=True)


def keep_result(model_dir: str | os.PathLike, step: int, metrics: Mapping[str, float]) -> None:
  """Writes the result of an evaluation into the folder of a training, over an earlier one.

  Args:
    model_dir: folder of the training; may be remote.
    step: the training step of the weights.
    metrics: name -> value.
  """
  import tensorflow as tf
  path = os.path.join(model_dir, RESULT)
  temporary = f'{path}.{os.getpid()}'  # not that of another process that writes the same file
  with tf.io.gfile.GFile(temporary, 'w') as file:
    file.write(json.dumps({'step': step, **metrics}, indent=1))
  tf.io.gfile.rename(temporary, path, overwrite=True)


def of_training(name: str, params: Any, checkpoint_path: str | os.PathLike) -> dict[str, Any]:
  """Makes the card of a trained checkpoint.

  Args:
    name: of the experiment.
    params: the resolved experiment.
    checkpoint_path: a checkpoint, or the folder of the training.
  """
  result = _kept(checkpoint_path, RESULT)
  if result and (has_no_averages(params, checkpoint_path) or
                 _step(checkpoint_path) not in (None, result.get('step'))):
    result = None  # It is of other weights.
  return make(name, params, dataset=_kept(checkpoint_path, DATASET), result=result)


def has_no_averages(params: Any, checkpoint_path: str | os.PathLike) -> bool:
  """Returns whether a checkpoint has the weights whose averages the training evaluates.

  Args:
    params: the resolved experiment.
    checkpoint_path: a checkpoint, or the folder of the training.
  """
  trainer = params.trainer
  averaged = (AVERAGES, os.path.basename(trainer.best_checkpoint_export_subdir or ''))
  return bool(trainer.optimizer_config.ema) and (
      os.path.basename(_folder(checkpoint_path)) not in averaged)


def _step(checkpoint_path: str | os.PathLike) -> int | None:
  """Returns the training step of a checkpoint; None if it does not say it."""
  import tensorflow as tf
  path = files.plain_path(checkpoint_path)
  checkpoint = (tf.train.latest_checkpoint(path) if tf.io.gfile.isdir(path)
                else path.removesuffix('.index'))
  try:
    return int(tf.train.load_variable(checkpoint, _STEP)) if checkpoint else None
  except (ValueError, tf.errors.OpError):
    return None


def _folder(checkpoint_path: str | os.PathLike) -> str:
  """Returns the folder of a checkpoint, or a folder itself."""
  import tensorflow as tf
  path = os.fspath(checkpoint_path).rstrip('/')
  return path if tf.io.gfile.isdir(path) else os.path.dirname(path)


def _kept(checkpoint_path: str | os.PathLike, name: str) -> dict[str, Any] | None:
  """Returns what a training has kept in a file; None if there is none or it is damaged."""
  import tensorflow as tf
  folder = _folder(checkpoint_path)
  for place in (folder, os.path.dirname(folder)):  # the best checkpoint has a folder of its own
    file_name = os.path.join(place, name)
    if tf.io.gfile.exists(file_name):
      try:
        with tf.io.gfile.GFile(file_name) as file:
          content = json.loads(file.read())
      except ValueError:
        continue
      return content if isinstance(content, dict) else None
  return None
