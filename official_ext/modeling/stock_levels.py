"""Says which field to change where Model Garden's own decoders fail for a backbone's levels."""
from collections.abc import Iterator
import contextlib
from typing import Any

from official_ext.ops import checks

# How the error of Model Garden's FPN begins if the backbone has no level as fine as `min_level`.
_TOO_FINE = 'Backbone min level should be'
# Begin of TensorFlow's error if the FPN adds two levels of different sizes: a level is not twice as
# large as the next.
_UNEVEN = 'Dimensions must be equal'


@contextlib.contextmanager
def naming_field(model_config: Any) -> Iterator[None]:
  """Turns the errors of a decoder about levels into one that names the field.

  Args:
    model_config: options of the detector that the body builds.

  Raises:
    FieldError: the body failed because of `min_level`, or of `input_size`.
  """
  try:
    yield
  except (KeyError, ValueError) as error:
    size, stride = list(model_config.input_size), 2**model_config.max_level
    if _UNEVEN in str(error) and any(side and side % stride for side in size[:2]):
      raise checks.FieldError(
          f'task.model.input_size is {size}, whose levels decoder.type {model_config.decoder.type} '
          'cannot add: set task.train_data.parser.pad=true, or give sides that are multiples of '
          f'{stride}.') from error
    # If the backbone ends below `min_level`, the decoder looks up a lateral convolution of the
    # backbone's last level, which it has not made: the error says no more than that level's number.
    key = str(*error.args[:1]) if isinstance(error, KeyError) else ''
    is_too_coarse = key.isdecimal() and int(key) < model_config.min_level
    if not is_too_coarse and not str(error).startswith(_TOO_FINE):
      raise
    raise checks.FieldError(
        f'task.model.min_level is {model_config.min_level}, a level that the backbone does not '
        'give; show_config, with the same overrides, lists those that it gives.') from error
