"""Puts networks side by side: a table, and accuracy against time."""
from collections.abc import Sequence
from typing import Any

from matplotlib import figure

from official_ext.visualization import html_page

# An interval is one over images, as `predict --resamples` finds it.
_AP = 'AP (95 % over images)'
_HEADER = ('network', _AP, 'AP50', 'GMAC per image', 'cheapest to dearest', 'ms per image',
           'fastest to slowest', 'gates that decide by image')


_TIMES = ('network', _AP, 'ms per image', 'fastest to slowest')


def write(page: html_page.HtmlPage, networks: Sequence[Any], best: Sequence[Any],
          advice: Sequence[str]) -> None:
  """Writes which network to use, what each costs and takes, and a picture of it.

  Args:
    page: to write on.
    networks: of `serving.side_by_side`.
    best: as in `draw_accuracy_against_time`.
    advice: sentences.
  """
  page.heading('Which network to use' if len(networks) > 1 else 'This network')
  for sentence in advice:
    page.text(sentence)
  page.table(_HEADER, [(
      title(one), _accuracy(one), 'unknown' if one.ap50 is None else f'{one.ap50:.3f}',
      f'{one.gmac_mean:.3f}', f'{one.gmac_min:.3f} to {one.gmac_max:.3f}', f'{one.ms_mean:.1f}',
      f'{one.ms_min:.1f} to {one.ms_max:.1f}',
      _deciding(one)) for one in networks])
  if best:
    page.figure(draw_accuracy_against_time([one for one in networks if one.ap is not None], best),
                'Accuracy against time in TensorFlow on this machine. A thin line is one network '
                'at all budgets that were measured.')


def _accuracy(network: Any) -> str:
  """Returns the AP of a network, with its interval where that is known."""
  if network.ap is None:
    return 'unknown'
  if network.ap_low is None or network.ap_high is None:
    return f'{network.ap:.3f}'
  return f'{network.ap:.3f} ({network.ap_low:.3f} to {network.ap_high:.3f})'


def _deciding(network: Any) -> str:
  """Returns how many gates decide by image, which a single image does not say."""
  if not network.gates:
    return 'no gates'
  return 'unknown' if network.images == 1 else f'{network.decides} of {network.gates}'


def write_times(page: html_page.HtmlPage, engine: str, networks: Sequence[Any],
                best: Sequence[Any]) -> None:
  """Writes what networks take in another engine, and a picture of it.

  Args:
    page: to write on.
    engine: its name.
    networks: of `serving.side_by_side`, with their times in the engine.
    best: as in `draw_accuracy_against_time`.
  """
  page.text(f'The same networks in {engine}:')
  page.table(_TIMES, [(
      title(one), _accuracy(one), f'{one.ms_mean:.1f}',
      f'{one.ms_min:.1f} to {one.ms_max:.1f}') for one in networks])
  if best:
    page.figure(draw_accuracy_against_time(
        [one._replace(budgets=()) for one in networks if one.ap is not None], best),
                f'Accuracy against time in {engine} on this machine.')


def title(network: Any) -> str:
  """Returns the name of a network, with its budget if it takes one."""
  return network.name if network.budget is None else f'{network.name}, budget {network.budget:g}'


def draw_accuracy_against_time(networks: Sequence[Any], best: Sequence[Any]) -> figure.Figure:
  """Draws average precision against milliseconds.

  Args:
    networks: of `serving.side_by_side`, with a known precision.
    best: those of the networks that none is ahead of in both, from the fastest to the slowest.

  Returns:
    A figure with a point per network, its name beside it, horizontal bars from the fastest to the
    slowest image, vertical ones over the interval of AP where that is known, a thin line through
    its `budgets` if it has some, and a line of steps through the best.
  """
  plot = figure.Figure(figsize=(8, 5))
  axes = plot.subplots()
  for number, network in enumerate(networks):
    bars = [[network.ms_mean - network.ms_min], [network.ms_max - network.ms_mean]]
    # The interval need not hold the AP of all images.
    heights = None if network.ap_low is None or network.ap_high is None else [
        [max(0.0, network.ap - network.ap_low)], [max(0.0, network.ap_high - network.ap)]]
    axes.errorbar([network.ms_mean], [network.ap], heights, bars, color=f'C{number}', marker='o',
                  capsize=3, elinewidth=1)
    if network.budgets:
      axes.plot([point['ms_mean'] for point in network.budgets],
                [point['ap'] for point in network.budgets], color=f'C{number}', marker='.',
                linewidth=0.8)
    axes.annotate(title(network), (network.ms_mean, network.ap), (0, 7), ha='center',
                  textcoords='offset points', color=f'C{number}')
  axes.step([network.ms_mean for network in best], [network.ap for network in best], where='post',
            color='gray', linestyle=':', label='best at each time')
  axes.margins(0.15)
  axes.set_xlabel('milliseconds per image: mean, and fastest to slowest image')
  axes.set_ylabel('AP')
  axes.grid(alpha=0.3)
  axes.legend()
  return plot
