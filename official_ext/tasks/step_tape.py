"""The routing tape of one step of a task."""
from typing import Any, Optional

from official_ext.losses import budgets
from official_ext.ops import routing


class StepTape(routing.RoutingTape):
  """A routing tape that also says what the step knows, and keeps what the budget made of it.

  Model Garden's step calls `build_losses` in the middle of its own body and hands nothing
  through.  The tape is open around that body, in the replica's own thread, so both ends of the
  step reach each other by it.

  Attributes:
    step: number, image size, training or not.
    terms: what `build_losses` got of the budget; None before, and where nothing is routed.
  """

  def __init__(self, step: budgets.Step, **options: Any):
    """Initializes a tape.

    Args:
      step: what the step knows.
      **options: arguments of `RoutingTape`.
    """
    super().__init__(**options)
    self.step = step
    self.terms: Optional[budgets.Terms] = None
