"""The networks that studies and the quickstart train, with their options."""
from collections.abc import Mapping, Sequence
import json
import pathlib
from typing import Any, NamedTuple

from official_ext.tools import make_sample_data

Options = Mapping[str, Any]

BUDGETS = tuple(number / 10 for number in range(11))
# Every second step has every gate open, the others a budget that is drawn.
DRAWN = {'task.budget.kind': 'drawn', 'task.budget.weight': 0.1,
         'task.budget.reduction': 'mean_share', 'task.budget.distance': 'absolute'}
# The first blocks stay as ImageNet has them: half of a step's time is theirs, and few images
# cannot improve them.
FROZEN = ('stem', 'conv2_x')
# The name of the composed sample in place of a folder, and the folder that it is written into.
# `digits:2000` is one of 2000 images, a quarter of them for validation.
DIGITS = 'digits'
SAMPLE = pathlib.Path('runs/sample')
# Heights and widths of images are multiples of the largest stride of the pyramid.
_STRIDE = 64


class Subject(NamedTuple):
  """A network that is trained.

  Attributes:
    experiment: its registered name.
    options: field -> value.
    budgets: at which the trained network is measured; empty: it takes none.
    image_scale: of the size of images, beside that of the others.
    is_plain: whether it is what people have without this package.
    shrinking: share of the steps until which budgets are drawn from a range that widens.
  """
  experiment: str
  options: Options = {}
  budgets: Sequence[float] = ()
  image_scale: float = 1.0
  is_plain: bool = False
  shrinking: float = 0.0

  def fields(self, train_steps: int, frozen: Sequence[str] = FROZEN) -> dict[str, Any]:
    """Returns field -> value; where a backbone is carried, its first blocks are frozen.

    Args:
      train_steps: number of steps of the training.
      frozen: the stages that are frozen.
    """
    shrinking = ({'task.budget.shrink_steps': round(self.shrinking * train_steps)}
                 if self.shrinking else {})
    stages = ({'task.frozen_stages': list(frozen)}
              if 'efficientnetlite0' in self.experiment else {})
    return {**stages, **shrinking, **self.options}

  def sized(self, image_size: Sequence[int]) -> dict[str, Any]:
    """Returns the field of the size of images.

    Args:
      image_size: height and width of the images of the study.
    """
    size = [max(_STRIDE, round(self.image_scale * side / _STRIDE) * _STRIDE)
            for side in image_size]
    return {'task.model.input_size': [*size, 3]}


def is_composed(data: str) -> bool:
  """Returns whether data are the composed sample, and no folder."""
  return data.partition(':')[0] == DIGITS


def _shows_digits(data: str) -> bool:
  """Returns whether data are the composed sample, or a folder that its command wrote."""
  return is_composed(data) or pathlib.Path(data, make_sample_data.MARKER).is_file()


def schedule(train_steps: int | None, data: str) -> dict[str, Any]:
  """Returns field -> value of a training, whatever is trained.

  Args:
    train_steps: number of steps; None: as many as the experiment has.
    data: folder of the data set, or `DIGITS`; digits are not mirrored.
  """
  steps = ('train_steps', 'validation_interval',
           'optimizer_config.learning_rate.cosine.decay_steps') if train_steps else ()
  # The experiments do not mirror, because a mirrored digit is another thing.
  mirror = {} if _shows_digits(data) else {'task.train_data.parser.aug_rand_hflip': True}
  return {**mirror, **{f'trainer.{name}': train_steps for name in steps}}


def override(fields: Options) -> str:
  """Returns fields as `--params_override` takes them.

  Args:
    fields: field -> value.
  """
  # The parser of overrides takes lists of JSON without blanks and quotes.
  return ','.join(f'{field}={json.dumps(value, separators=(",", ":"))}'.replace('"', '')
                  for field, value in fields.items())


def retinanet(neck: str, options: Options | None = None, budgets: Sequence[float] = (),
              **rest: Any) -> Subject:
  """Returns RetinaNet with a neck and the carried backbone; arguments are those of `Subject`."""
  return Subject(f'retinanet_{neck}_efficientnetlite0_sample', options or {}, budgets, **rest)


def fcos(part: str, options: Options | None = None, budgets: Sequence[float] = (),
         **rest: Any) -> Subject:
  """Returns FCOS with a neck or head and the carried backbone."""
  return Subject(f'fcos_{part}_efficientnetlite0_sample', options or {}, budgets, **rest)


# A neck that takes its budget at every call.
DYFPN_BUDGET = {'task.model.decoder.dyfpn.gate.budget_input': True, **DRAWN}
# A neck whose solver evaluates as often as the budget says.
IFPN_BUDGET = {'task.model.decoder.ifpn.solver.budget_input': True, 'task.budget.kind': 'drawn',
               'task.budget.draw_range': [0.0, 0.8]}
# A block has two convolutions, as many as the towers of the plain head of these experiments.
ONE_BLOCK = {'task.model.head.tower.dynamic.num_blocks': 1}
# Open gates put the convolutions in the place of the input, where the paper adds them to it.
REPLACE = {**ONE_BLOCK, 'task.model.head.tower.dynamic.depth_update': 'replace'}
# Until gates have learned, a position that they shut at random is lost to the head.
_SHRINKING = 0.5


def dynamic_head_budget(options: Options | None = None) -> Subject:
  """Returns FCOS with a dynamic head that takes its budget; `options` are added."""
  return fcos('dynamichead', {
      **(options or {}), **DRAWN, 'task.model.head.tower.dynamic.budget_input': True,
      'task.budget.draw_range': [0.0, 0.9]}, BUDGETS, shrinking=_SHRINKING)


# The networks of the quickstart.  CADDet is not among them: no ImageNet weights of it are carried,
# and from random ones so few steps teach it too little (docs/gains.md).
NETWORKS = {
    'fpn': retinanet('fpn', is_plain=True),
    'inception_fpn': retinanet('inception_fpn'),
    'dyfpn': retinanet('dyfpn'),
    'dyfpn_budget': retinanet('dyfpn', DYFPN_BUDGET, BUDGETS),
    'drfpn': retinanet('drfpn'),
    'ifpn': retinanet('ifpn'),
    'ifpn_budget': retinanet('ifpn', IFPN_BUDGET, BUDGETS[::2]),
    'pafpn': retinanet('pafpn'),
    'bifpn': retinanet('bifpn'),
    'carafe': retinanet('carafe'),
    'deformable_fpn': retinanet('deformable_fpn'),
    'fcos': fcos('fpn', is_plain=True),
    'fcos_dyfpn': fcos('dyfpn'),
    'dynamic_head': fcos('dynamichead'),
    'dynamic_head_budget': dynamic_head_budget(),
    'dynamic_head_d1_budget': dynamic_head_budget(ONE_BLOCK),
    'dynamic_head_replace_budget': dynamic_head_budget(REPLACE),
}
