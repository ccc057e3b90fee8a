"""What a published row is: its schedule, the values of its YAML file, and the paper of it."""
from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Schedule:
  """A training schedule: SGD with momentum 0.9, linear warm-up, steps down by ten.

  Attributes:
    batch_size: images per step.
    steps: training steps.
    warmup: steps of the warm-up.
    rate: learning rate after the warm-up.
    drops: steps after which the rate is a tenth.
    weight_decay: of all kernels.
    global_clipnorm: norm to which gradients are clipped; None: they are not.
    start: learning rate at which the warm-up begins.
  """
  batch_size: int
  steps: int
  warmup: int
  rate: float
  drops: tuple[int, int]
  weight_decay: float = 1e-4
  global_clipnorm: float | None = None
  start: float = 1e-5

  def rates(self) -> dict[int, float]:
    """Returns the learning rate at the steps where it changes, and halfway through the warm-up."""
    first, second = self.drops
    return {
        0: self.start, self.warmup // 2: (self.start + self.rate) / 2, self.warmup: self.rate,
        first: self.rate, first + 1: self.rate / 10, second: self.rate / 10,
        second + 1: self.rate / 100}


def epochs(number: int, batch_size: int, rate: float) -> Schedule:
  """Returns the schedule of so many epochs of COCO, with drops at 2/3 and 11/12 of them."""
  epoch = 118287 // batch_size
  return Schedule(batch_size, number * epoch, 500, rate,
                  (number * 2 // 3 * epoch, number * 11 // 12 * epoch))


STEPS_90K = Schedule(16, 90_000, 1000, 0.01, (60_000, 80_000))
STEPS_180K = Schedule(16, 180_000, 1000, 0.01, (120_000, 160_000))
CADDET_EPOCH = 118287 // 16


@dataclasses.dataclass(frozen=True)
class Expected:
  """The values that the YAML file of a row must resolve to.

  Attributes:
    schedule: the training schedule.
    parameters: trainable parameters of the decoder; None: not counted.
    tower_parameters: trainable parameters of one tower of the head; None: not counted.
    fields: path of a field below `task` -> value.
    same_as_experiment: the file changes nothing but `fields` and `image_sizes` in the task of its
      experiment.
  """
  schedule: Schedule
  parameters: int | None = None
  tower_parameters: int | None = None
  fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  same_as_experiment: bool = False


@dataclasses.dataclass(frozen=True)
class Paper:
  """A paper and its YAML files.

  Attributes:
    files: regular expression of the names, as `fasterrcnn/dyfpn_resnet50_1x`.
    comment: regular expression of how the first comment begins.
    rows: texts that the comments of all its files together must have; each file has one of them.
    expected: from the detector's folder and the file's name to what the file must resolve to.
    without_file: other rows of the paper -> the part that the package lacks for them.
  """
  files: str
  comment: str
  rows: Sequence[str]
  expected: Callable[[str, str], Expected]
  without_file: Mapping[str, str] = dataclasses.field(default_factory=dict)
