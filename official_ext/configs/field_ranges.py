"""What Model Garden's own fields may be: it takes any value, and fails long after the start.

Fields of registered components are checked where these are built, and name their own ranges.
"""
from collections.abc import Mapping
import math
from typing import Any, NamedTuple

from official.modeling import tf_utils

from official_ext.configs import metric_names
from official_ext.configs import optimizer_fields
from official_ext.configs import two_stage_fields
from official_ext.ops import checks


class _Range(NamedTuple):
  """The values of a field.

  Attributes:
    hint: their type, as `checks.has_type` takes it.  A list has to have an entry unless the field
      may be null.
    least: the smallest number; the field has to be above it if `is_open`.
    most: the largest number.
    is_open: whether `least` itself is not allowed.
  """
  hint: Any
  least: float
  most: float = math.inf
  is_open: bool = False

  def allows(self, value: Any) -> bool:
    """Returns whether the field may have a value."""
    may_lack = checks.has_type(None, self.hint)
    if value is None or not checks.has_type(value, self.hint):
      return value is None and may_lack
    if isinstance(value, (list, tuple)):
      return (bool(value) or may_lack) and all(map(self._has, value))
    return self._has(value)

  def _has(self, number: float) -> bool:
    return self.least <= number <= self.most and not (self.is_open and number == self.least)

  def __str__(self):
    """The values in words."""
    text = checks.type_name(self.hint)
    if self.is_open:
      return f'{text}, above {self.least:g}'
    if self.most == math.inf:
      return f'{text}, at least {self.least:g}'
    return f'{text}, from {self.least:g} to {self.most:g}'


_COUNT, _NUMBER = _Range(int, 1), _Range(int, 0)
_SHARE = _Range(float, 0, 1)
_FACTOR, _ABOVE_0 = _Range(float, 0), _Range(float, 0, is_open=True)

# Path of a record -> its fields.  A record or a field that a detector lacks is left out.
_MODEL: Mapping[str, Mapping[str, _Range]] = {
    '': {'num_classes': _Range(int, 2), 'min_level': _COUNT, 'max_level': _COUNT},
    'anchor': {'anchor_size': _ABOVE_0, 'num_scales': _COUNT,
               'aspect_ratios': _Range(list[float], 0, is_open=True)},
    'head': {'num_convs': _NUMBER, 'num_filters': _COUNT},
    'rpn_head': {'num_convs': _NUMBER, 'num_filters': _COUNT},
    'detection_head': {'num_convs': _NUMBER, 'num_filters': _COUNT, 'num_fcs': _NUMBER,
                       'fc_dims': _COUNT},
    'mask_head': {'num_convs': _NUMBER, 'num_filters': _COUNT, 'upsample_factor': _COUNT},
    'detection_generator': {
        'pre_nms_top_k': _COUNT, 'pre_nms_score_threshold': _SHARE, 'nms_iou_threshold': _SHARE,
        'max_num_detections': _COUNT, 'soft_nms_sigma': _Range(float | None, 0)},
    'roi_generator': {
        f'{when}{name}': values for when in ('', 'test_') for name, values in (
            ('pre_nms_top_k', _COUNT), ('pre_nms_score_threshold', _SHARE),
            ('pre_nms_min_size_threshold', _FACTOR), ('nms_iou_threshold', _SHARE),
            ('num_proposals', _COUNT))},
    'roi_sampler': {
        'num_sampled_rois': _COUNT, 'foreground_fraction': _SHARE,
        'foreground_iou_threshold': _SHARE, 'background_iou_high_threshold': _SHARE,
        'background_iou_low_threshold': _SHARE,
        'cascade_iou_thresholds': _Range(list[float] | None, 0, 1)},
    'roi_aligner': {'crop_size': _COUNT},
    'mask_roi_aligner': {'crop_size': _COUNT},
    'mask_sampler': {'num_sampled_masks': _COUNT},
    'norm_activation': {'norm_momentum': _SHARE, 'norm_epsilon': _FACTOR},
}
_LOSSES = {
    **dict.fromkeys(('loss_weight', 'focal_loss_gamma', 'huber_loss_delta', 'box_loss_weight',
                     'l2_weight_decay', 'rpn_huber_loss_delta', 'frcnn_huber_loss_delta',
                     'rpn_score_weight', 'rpn_box_weight', 'frcnn_class_weight',
                     'frcnn_box_weight', 'mask_weight'), _FACTOR),
    'focal_loss_alpha': _SHARE, 'frcnn_class_loss_top_k_percent': _SHARE}
_DATA: Mapping[str, Mapping[str, _Range]] = {
    '': {'global_batch_size': _COUNT},
    'parser': {
        'max_num_instances': _COUNT, 'match_threshold': _SHARE, 'unmatched_threshold': _SHARE,
        'rpn_match_threshold': _SHARE, 'rpn_unmatched_threshold': _SHARE,
        'rpn_batch_size_per_im': _COUNT, 'rpn_fg_fraction': _SHARE, 'mask_crop_size': _COUNT}}
# Only training reads these fields.
_TRAINING_DATA: Mapping[str, Mapping[str, _Range]] = {
    '': {'shuffle_buffer_size': _COUNT},
    'parser': {'aug_scale_min': _ABOVE_0, 'aug_scale_max': _ABOVE_0}}
_TRAINER = {
    'train_steps': _NUMBER, 'steps_per_loop': _COUNT, 'summary_interval': _Range(int | None, 1),
    'checkpoint_interval': _Range(int | None, 0), 'validation_interval': _Range(int | None, 0),
    'max_to_keep': _Range(int | None, 1)}
_EVALUATION = {'validation_steps': _Range(int, -1)}
_EVALUATED_TASK = {'sampled_evaluation_runs': _NUMBER, 'max_num_eval_detections': _COUNT}
# Model Garden also has `tflite`, which detects nothing outside of its own converter.  The last one
# is RetinaNet's alone.
_NMS_VERSIONS = ('batched', 'portable', 'v1', 'v2', 'v3')
_IMAGE_TYPES = ('float32', 'bfloat16', 'float16')
# The first field of a pair must not be above the second.
_ORDERED = (('min_level', 'max_level'), ('aug_scale_min', 'aug_scale_max'),
            ('unmatched_threshold', 'match_threshold'),
            ('rpn_unmatched_threshold', 'rpn_match_threshold'))


def check_detector(task: Any) -> None:
  """Checks the model and the losses of a detection task.

  Args:
    task: config of the task.

  Raises:
    FieldError: a field has a value that is not allowed; the message names it.
  """
  _check_records(task.model, 'task.model', _MODEL)
  _check_input_size(task.model.input_size)
  _check_activation(task.model)
  _check_suppression(task.model)
  two_stage_fields.check_mask_branch(task.model)
  _check(task.losses, 'task.losses', _LOSSES)


def check_training(experiment: Any) -> None:
  """Checks how an experiment with any task reads its data and trains.

  Args:
    experiment: config of the experiment.

  Raises:
    FieldError: a field has a value that is not allowed; the message names it.
  """
  for table in (_DATA, _TRAINING_DATA):
    _check_records(experiment.task.train_data, 'task.train_data', table)
  _check_reader(experiment.task.train_data, 'task.train_data', is_training=True)
  if hasattr(getattr(experiment.task, 'model', None), 'roi_sampler'):
    two_stage_fields.check_samples(experiment.task)
  trainer = experiment.trainer
  _check(trainer, 'trainer', _TRAINER)
  optimizer_fields.check(trainer.optimizer_config)
  optimizer_fields.check_averages(
      trainer.optimizer_config, experiment.runtime.mixed_precision_dtype)
  if trainer.summary_interval and trainer.summary_interval % trainer.steps_per_loop:
    raise checks.FieldError(
        f'trainer.summary_interval is {trainer.summary_interval}; it must be a multiple of '
        f'trainer.steps_per_loop, which is {trainer.steps_per_loop}.')


def check_evaluation(experiment: Any) -> None:
  """Checks how an experiment with any task reads its data and evaluates.

  Args:
    experiment: config of the experiment.

  Raises:
    FieldError: a field has a value that is not allowed; the message names it.
  """
  _check_records(experiment.task.validation_data, 'task.validation_data', _DATA)
  _check_reader(experiment.task.validation_data, 'task.validation_data', is_training=False)
  _check(experiment.task, 'task', _EVALUATED_TASK)
  _check(experiment.trainer, 'trainer', _EVALUATION)
  if experiment.trainer.validation_steps == 0:
    raise checks.FieldError(
        'trainer.validation_steps is 0; it must be a number of batches, or -1 for all.')
  _check_best_checkpoint(experiment.trainer)
  if hasattr(experiment.task, 'use_wod_metrics'):  # of detectors
    metric_names.check_detector(
        experiment.task, experiment.trainer.best_checkpoint_eval_metric)


def _check_best_checkpoint(trainer: Any) -> None:
  """Checks that Model Garden keeps the best checkpoint, or that nothing asks for it."""
  folder, metric = trainer.best_checkpoint_export_subdir, trainer.best_checkpoint_eval_metric
  if bool(folder) != bool(metric):
    raise checks.FieldError(
        f'trainer.best_checkpoint_export_subdir is {folder!r} and best_checkpoint_eval_metric '
        f'{metric!r}: the best checkpoint is kept with both alone, such as best and AP.')
  if trainer.best_checkpoint_metric_comp not in ('higher', 'lower'):
    raise checks.FieldError(
        f'trainer.best_checkpoint_metric_comp is {trainer.best_checkpoint_metric_comp!r}; it must '
        'be higher or lower, whichever is better.')


def _check_records(config: Any, prefix: str, table: Mapping[str, Mapping[str, _Range]]) -> None:
  """Checks those records of a table that a config has; an empty name is the config itself."""
  for name, ranges in table.items():
    record = getattr(config, name, None) if name else config
    if record is not None:
      _check(record, f'{prefix}.{name}'.rstrip('.'), ranges)


def _check(record: Any, path: str, ranges: Mapping[str, _Range]) -> None:
  """Checks those fields that a record has."""
  for name, allowed in ranges.items():
    if hasattr(record, name) and not allowed.allows(getattr(record, name)):
      raise checks.FieldError(f'{path}.{name} is {getattr(record, name)!r}; it must be {allowed}.')
  for first, second in _ORDERED:
    if first in ranges and hasattr(record, first) and hasattr(record, second):
      low, high = getattr(record, first), getattr(record, second)
      if low > high:
        raise checks.FieldError(f'{path}.{first} is {low!r} and {second} {high!r}: the first must '
                                'not be above the second.')


def _check_reader(data: Any, path: str, is_training: bool) -> None:
  """Checks that data are read for what they are used for.

  A reader gives training targets without the objects, and evaluation the objects.  Normalized
  pixels are about -2 to 2, which whole numbers cannot tell apart.
  """
  if bool(getattr(data, 'is_training', is_training)) is not is_training:
    raise checks.FieldError(
        f'{path}.is_training is {data.is_training!r}; it must be {str(is_training).lower()}.')
  image_type = getattr(data, 'dtype', _IMAGE_TYPES[0])
  if image_type not in _IMAGE_TYPES:
    raise checks.FieldError(f'{path}.dtype is {image_type!r}; allowed are '
                            f'{", ".join(map(repr, _IMAGE_TYPES))}.')


def _check_activation(model: Any) -> None:
  """Checks that the activation of the heads is one of Keras or of Model Garden."""
  activation = model.norm_activation.activation
  try:
    tf_utils.get_activation(activation)
  except (TypeError, ValueError) as error:
    raise checks.FieldError(
        f'task.model.norm_activation.activation is {activation!r}; it must be the name of an '
        'activation in Keras, such as relu or swish.') from error


def _check_suppression(model: Any) -> None:
  """Checks the version of the suppression of boxes, and an option that one version has."""
  generator = getattr(model, 'detection_generator', None)
  version = getattr(generator, 'nms_version', _NMS_VERSIONS[0])
  allowed = _NMS_VERSIONS[:-1] if hasattr(model, 'roi_generator') else _NMS_VERSIONS
  if version not in allowed:
    raise checks.FieldError(f'task.model.detection_generator.nms_version is {version!r}; allowed '
                            f'are {", ".join(map(repr, allowed))}.')
  if getattr(generator, 'use_class_agnostic_nms', False) and version != 'v2':
    raise checks.FieldError(
        'task.model.detection_generator.use_class_agnostic_nms is true, which only nms_version '
        f"'v2' has, and nms_version is {version!r}: change one of the two.")


def _check_input_size(size: Any) -> None:
  """Checks height, width and channels; sides are null where images have several sizes."""
  is_size = isinstance(size, (list, tuple)) and len(size) == 3 and size[2] == 3 and all(
      side is None or _COUNT.allows(side) for side in size[:2])
  if not is_size:
    raise checks.FieldError(
        f'task.model.input_size is {size!r}; it must be [height, width, 3], in pixels, such as '
        '[512,640,3].')
