"""`task.resize`: which canvases the images of a task get, and whether other options agree."""
from collections.abc import Sequence
from typing import Any

from official_ext.ops import canvases as canvases_lib
from official_ext.ops import checks

RULES = ('garden', 'paper')
# The stride of a ResNet's last maps, to which the papers pad.
_FINE_STRIDE = 32


def is_paper(task_config: Any) -> bool:
  """Returns whether a task resizes by the papers' rule; Model Garden's own tasks do not."""
  resize = getattr(task_config, 'resize', None)
  return resize is not None and resize.rule == 'paper'


def check(task_config: Any) -> None:
  """Checks that the options of a detection task agree on the size of images.

  Raises:
    FieldError: an option is not allowed; the message names the field.
  """
  resize = getattr(task_config, 'resize', None)
  if resize is None:
    return
  if resize.rule not in RULES:
    raise checks.FieldError(
        f'task.resize.rule is {resize.rule!r}; allowed are {" and ".join(RULES)}.')
  if not is_paper(task_config):
    return
  size = list(task_config.model.input_size)
  if size != [None, None, 3]:
    raise checks.FieldError(
        f'task.model.input_size is {size}, but with task.resize.rule=paper images have several '
        'sizes: set task.model.input_size=[null,null,3].')
  _check_parsers(task_config)
  canvases(task_config, is_training=True)


def _check_parsers(task_config: Any) -> None:
  """Checks the options of both parsers that would resize images otherwise."""
  parsers = {name: getattr(task_config, name).parser for name in ('train_data', 'validation_data')}
  wanted: dict[str, Any] = {'aug_scale_min': 1.0, 'aug_scale_max': 1.0, 'keep_aspect_ratio': True}
  if not _may_pad_finely(task_config):
    wanted['pad'] = True
  for data, parser in parsers.items():
    for name, value in wanted.items():
      given = getattr(parser, name, value)
      if given != value:
        raise checks.FieldError(f'task.{data}.parser.{name} is {given}; with '
                                f'task.resize.rule=paper it must be {value}.')
  pads = {data: getattr(parser, 'pad', True) for data, parser in parsers.items()}
  if len(set(pads.values())) > 1:
    raise checks.FieldError(f'parser.pad differs: {pads}. With task.resize.rule=paper '
                            'task.train_data and task.validation_data need the same.')
  heads = getattr(getattr(task_config.model, 'head', None), 'attribute_heads', None)
  if heads:
    raise checks.FieldError(f'task.model.head.attribute_heads is {heads}; with '
                            'task.resize.rule=paper there must be none.')


def _may_pad_finely(task_config: Any) -> bool:
  # FCOS and ATSS take their locations from the maps, Model Garden's anchors from the images.
  return hasattr(task_config.model, 'assigner')


def stride(task_config: Any) -> int:
  """Returns what heights and widths are multiples of.

  That is the stride of the coarsest level, or 32 for FCOS and ATSS with `parser.pad` false.
  """
  pads = getattr(task_config.train_data.parser, 'pad', True)
  if _may_pad_finely(task_config) and not pads:
    return _FINE_STRIDE
  return 2 ** task_config.model.max_level


def canvases(task_config: Any, is_training: bool) -> Sequence[canvases_lib.Canvases]:
  """Returns the canvases for each short side of a task with the rule `paper`.

  Args:
    task_config: config of a detection task.
    is_training: whether the images are for training, which may have several short sides.

  Raises:
    FieldError: a side or ratio is not allowed; the message names the field.
  """
  resize = task_config.resize
  sides = (is_training and resize.training_short_sides) or [resize.short_side]
  return [canvases_lib.Canvases(side, resize.long_side, resize.aspect_ratios, stride(task_config))
          for side in sides]
