"""The error of an engine that lacks an operation of a model."""
from collections.abc import Iterable

from official_ext.utils import command_line

# Operation -> what to do so that an export does without it.
_ADVICE = {
    # Two stages suppress proposals too, which --nms=none leaves as they are.
    'CombinedNonMaxSuppression': 'export with --nms=portable, or, if it has one stage, with '
                                 '--nms=none',
}
# Characters of an engine's own text that an error shows.
_LONGEST = 300


class RefusedError(command_line.CommandError):
  """An engine cannot convert a model."""

  def __init__(self, engine: str, operations: Iterable[str], text: str):
    """Initializes the error.

    Args:
      engine: name of the engine.
      operations: the operations that it lacks; empty: it failed otherwise.
      text: what the engine says, for a failure of another kind.
    """
    names = sorted(set(filter(None, operations)))
    if not names:
      # The text of a graph begins with a brace.
      lines = [line.strip() for line in text.partition('{')[0].splitlines() if line.strip()]
      said = lines[-1][:_LONGEST] if lines else '?'
      super().__init__(f'{engine} cannot convert the SavedModel: {said}')
      return
    advice = ''.join(f'; {_ADVICE[name]}' for name in names if name in _ADVICE)
    kinds = 'operation' if len(names) == 1 else 'operations'
    super().__init__(f'{engine} has no {kinds} {", ".join(names)} of the SavedModel{advice}.')
