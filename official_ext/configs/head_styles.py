"""Styles of RetinaNet and of R-CNN: Model Garden's heads and losses, or those of the papers.

`task.model.head_style` chooses the form of heads, losses and candidates, which the tasks build.  A
style also has numbers, such as the exponent of the focal loss, that are fields of their own.  An
override that changes the style sets these fields, so that a YAML file needs one line.
"""
from collections.abc import Mapping
from typing import Any

from official.modeling import hyperparams

from official_ext.ops import checks

STYLES = ('garden', 'paper')


def is_paper(model_config: Any) -> bool:
  """Returns whether a model has the papers' heads.

  Args:
    model_config: `task.model`, with a `head_style`.

  Raises:
    ArgumentError: an unknown style.
  """
  checks.check_one_of('task.model.head_style', model_config.head_style, STYLES)
  return model_config.head_style == 'paper'


class StyledTask(hyperparams.Config):
  """Base of a task's config: an override that changes `model.head_style` sets its numbers.

  Fields that the same override names keep the override's values.
  """

  def paper_numbers(self) -> dict[str, Any]:
    """Returns the overrides of the task that belong to the style `paper`."""
    raise NotImplementedError

  def _override(self, override_dict: Any, is_strict: bool = True) -> None:
    # The method through which Model Garden applies an override of the whole experiment.
    before = getattr(self.model, 'head_style', None)
    super()._override(override_dict, is_strict)
    if getattr(self.model, 'head_style', None) == before:
      return
    numbers = self.paper_numbers()
    super()._override(numbers if is_paper(self.model) else _values(type(self)(), numbers))
    super()._override(override_dict, is_strict)


def _values(config: Any, fields: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the values that the fields of some overrides have in a config."""
  return {name: _values(getattr(config, name), value) if isinstance(value, Mapping)
          else getattr(config, name) for name, value in fields.items()}
