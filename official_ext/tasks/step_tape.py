"""The routing tape of one step of a task."""
from typing import Any

from official_ext.losses import budgets
from official_ext.losses import task_budgets
from official_ext.ops import routing


class StepTape(routing.RoutingTape):
  """A routing tape that carries what is known of the step in, and the losses of the budgets out.

  Model Garden's step calls `build_losses` in the middle of its body and has no argument to pass
  anything through.  The tape is open around that body, in the thread of the replica, so
  `build_losses` finds it by `StepTape.current()`.

  Attributes:
    step: number of the step and size of the images.
    terms: what the budgets added to the loss; None before `build_losses`, and if nothing in the
      model is routed.
  """

  def __init__(self, step: budgets.Step, **options: Any):
    """Initializes a tape.

    Args:
      step: number of the step and size of the images.
      **options: arguments of `RoutingTape`.
    """
    super().__init__(**options)
    self.step = step
    self.terms: task_budgets.TaskTerms | None = None
