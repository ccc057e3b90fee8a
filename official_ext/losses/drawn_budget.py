"""The budget that a training step draws for a network whose gates take it as an input."""
from collections.abc import Mapping, Sequence

import tensorflow as tf, tf_keras

from official_ext.modeling.layers import routed
from official_ext.ops import checks
from official_ext.ops import noise


def check(draw_range: Sequence[float], full_every: int, shrink_steps: int) -> None:
  """Checks the arguments of `draw`.

  Args:
    draw_range: between which shares budgets are drawn.
    full_every: every how many steps the budget is 1.
    shrink_steps: until which step the range widens.

  Raises:
    ArgumentError: a range that does not ascend within 0 and 1, or a negative number.
  """
  if len(draw_range) != 2 or not 0 <= draw_range[0] <= draw_range[1] <= 1:
    raise checks.ArgumentError(
        'draw_range', f'draw_range is {list(draw_range)}; it is two shares that ascend within 0 '
        'and 1.')
  for argument, steps, none in (('full_every', full_every, 'never'),
                                ('shrink_steps', shrink_steps, 'the whole range at once')):
    if steps < 0:
      raise checks.ArgumentError(
          argument, f'{argument} is {steps}; it is a number of steps, or 0 for {none}.')


def check_model(model: tf_keras.Model, drawn: Mapping[str, str]) -> None:
  """Checks that what takes a budget gets one in training, and that what gets one takes it.

  Args:
    model: a detector.
    drawn: part whose budget is drawn, of `routed.PARTS` or `all` -> field of that budget.

  Raises:
    FieldError: names the layers and the fields.
  """
  takers = dict.fromkeys(drawn, False)
  for part, layers in routed.layers_by_part(model).items():
    key = part if part in drawn else 'all'
    for layer in layers:
      if layer.has_budget_input and key not in drawn:
        raise checks.FieldError(
            f'{layer.name} has budget_input, but training draws no budget of the {part}. Change '
            "task.budget.kind to 'drawn', or budget_input in task.model to false.")
      if key in drawn and layer.gate_names and not layer.has_budget_input:
        raise checks.FieldError(
            f"{drawn[key]}.kind is 'drawn', but the gates of {layer.name} take no budget. Change "
            f"{drawn[key]}.kind or .part, or budget_input in task.model to true.")
      if key in takers:
        takers[key] |= layer.has_budget_input
  for part, found in takers.items():
    if not found:
      raise checks.FieldError(
          f"{drawn[part]}.kind is 'drawn', but nothing in the part {part!r} takes a budget. Change "
          f'{drawn[part]}.kind, or budget_input in task.model to true.')


def draw(number: tf.Tensor, draw_range: Sequence[float], full_every: int,
         shrink_steps: int = 0) -> tf.Tensor:
  """Draws the budget of a step: a function of the arguments, so the same on all replicas.

  Steps with a budget of 1 train the whole network, as slimmable networks do (Jiahui Yu and
  Thomas Huang, Universally Slimmable Networks, https://arxiv.org/abs/1903.05134).  At the start
  every step is such a step, and the range widens from there, because gates that have not learned
  shut at random: progressive shrinking (Han Cai et al., Once-for-All, https://arxiv.org/abs/1908.09791,
  section 3.3).

  Args:
    number: int64 scalar, the number of the step.
    draw_range: between which shares budgets are drawn, all with equal probability.
    full_every: every how many steps the budget is 1; 0: never.
    shrink_steps: until which step the distance of budgets from 1 grows in proportion to the step;
      0: budgets are drawn from the whole range at once.

  Returns:
    A float32 scalar in [0, 1].
  """
  low, high = draw_range
  steps = noise.uniform_steps('budget', 0, number, [], differs_by_replica=False)
  drawn = low + (high - low) * (steps + 0.5) * 2.0**-23
  if shrink_steps:
    drawn = 1 - tf.minimum(tf.cast(number, tf.float32) / shrink_steps, 1.0) * (1 - drawn)
  return tf.where(number % full_every == 0, 1.0, drawn) if full_every else drawn
