"""The dynamic head in plain NumPy: gates, steps, blocks and their cost.

Features are `{level: [batch, height, width, channels]}`, finest first.  `weights` maps the names
of a layer's variables, without the layer's own name, to arrays; gates map `(path, level)` to
arrays.
"""
import functools

import numpy as np

import reference


def named_weights(layer):
  """Returns the float64 values of a layer's variables, by their names without the layer's name."""
  return {variable.name.split(f'{layer.name}/', 1)[1][:-2]: variable.numpy().astype(np.float64)
          for variable in layer.variables}


def inner_weights(weights, name):
  """Returns the weights of an inner layer, without its name."""
  return {key[len(name) + 1:]: value for key, value in weights.items()
          if key.startswith(f'{name}/')}


def activate(logits, activation='tanh', tau=1.5):
  """Returns gates of logits, by eq. 3 as it is printed; softmax is over the last axis."""
  if activation == 'softmax':
    return reference.softmax(logits)
  if activation == 'sigmoid':
    return reference.sigmoid(logits)
  return np.maximum(0, (np.tanh(logits - tau) + np.tanh(tau)) / (1 + np.tanh(tau)))


def at_budget(weights, logits, column, budgets):
  """Moves logits of one gate and level to a budget of each image; `column` is that of the level."""
  moved = []
  for image, budget in zip(logits, budgets):
    mean, variance, shift = (
        np.interp(budget, np.linspace(0, 1, 11), weights[name][:, column])
        for name in ('norm/mean', 'norm/variance', 'shift/shifts'))
    with np.errstate(divide='ignore'):
      quantile = np.clip(np.log(budget / (1 - budget)) / 1.702, -1e6, 1e6)
    moved.append(4 * ((image - mean) / np.sqrt(variance + 1e-5) + quantile + shift))
  return np.stack(moved)


def gate(weights, features, paths, activation='tanh', tau=1.5, coarse=False, threshold=0.0,
         move=None):
  """Returns the gates of paths, given by number: `[batch, height, width, paths]`."""
  logits = reference.conv2d(features, weights['conv/kernel'], weights['conv/bias'])[..., paths]
  if coarse:
    logits = np.broadcast_to(logits.mean((1, 2), keepdims=True), logits.shape)
  gates = activate(logits if move is None else move(logits), activation, tau)
  return gates * (gates > threshold)


def group_norm(features, gamma, beta, mask=None, epsilon=1e-5):
  """Normalizes over the positions of the mask, each image and group by itself; 0 elsewhere."""
  channels = features.shape[-1]
  groups = max(number for number in range(1, 33) if channels % number == 0)
  members = channels // groups
  result = np.zeros_like(features)
  for image, group in np.ndindex(len(features), groups):
    here = slice(group * members, (group + 1) * members)
    active = np.ones(features.shape[1:3], bool) if mask is None else mask[image, ..., 0]
    values = features[image][active][:, here]
    if values.size:
      scaled = (values - values.mean()) / np.sqrt(values.var() + epsilon)
      result[image, ..., here][active] = scaled * gamma[here] + beta[here]
  return result


def dilated(values):
  """Returns the largest of the 3x3 values around each position; values outside the map are 0."""
  padded = np.pad(values, [(0, 0), (1, 1), (1, 1), (0, 0)])
  height, width = values.shape[1:3]
  return np.max([padded[:, row:row + height, column:column + width]
                 for row, column in np.ndindex(3, 3)], axis=0)


def neighbors(level, levels):
  index = levels.index(level)
  found = {}
  if index < len(levels) - 1:
    found['coarser'] = levels[index + 1]
  if index > 0:
    found['finer'] = levels[index - 1]
  return found


def scale_step(weights, features, gates=None):
  """Adds the messages of neighbors, times w_s if there are gates."""
  levels = list(features)
  share = 1.0 if gates is None else weights['neighbor_weight']
  outputs = {level: weights['own_weight'] * own for level, own in features.items()}
  for level in levels:
    for path, target in neighbors(level, levels).items():
      kernel = weights[f'{path}_kernel']
      # A depthwise convolution is one whose kernel mixes no channels.
      message = reference.conv2d(features[level], kernel * np.eye(len(kernel[0, 0]))) + weights[
          f'{path}_bias']
      message = group_norm(message, weights[f'{path}_gamma'], weights[f'{path}_beta'])
      if gates is not None:
        message = message * gates[path, level]
      outputs[target] += share * reference.resize_bilinear(message, features[target].shape[1:3])
  return outputs


def depth_step(weights, features, gate=None, norm_positions='active', update='add'):
  """Returns ReLU(x + gate * h), or ReLU((1 - gate) x + gate * h) if h replaces x.

  `norm_positions` are those over which norms take statistics.
  """
  masks = (None, None)
  if gate is None:
    gate = 1.0
  elif norm_positions == 'active':
    masks = (dilated(gate) > 0, gate > 0)
  hidden = features
  for number, mask in zip((1, 2), masks):
    hidden = reference.conv2d(hidden, weights[f'kernel{number}'])
    hidden = group_norm(hidden, weights[f'gamma{number}'], weights[f'beta{number}'], mask)
    hidden = np.maximum(hidden, 0) if number == 1 else hidden
  return np.maximum((1 - gate * (update == 'replace')) * features + gate * hidden, 0)


def block(weights, features, scale='gated', depth='gated', norm_positions='active',
          activation='tanh', budgets=None, depth_update='add', **gate_options):
  """Returns outputs and gates of a block; `budgets` has one for each image."""
  levels, gates = list(features), {}

  def decide(names, level, own):
    here = [name for name in names if name == 'depth' or name in neighbors(level, levels)]
    move = None
    if here and budgets is not None:
      has_gate = [i for i in levels if names == ['depth'] or names[0] in neighbors(i, levels)]
      move = functools.partial(
          at_budget, inner_weights(weights, f'{names[0]}_budget'),
          column=has_gate.index(level), budgets=budgets)
    if here:
      values = gate(inner_weights(weights, '_'.join(names) + '_gate'), own,
                    [names.index(name) for name in here], activation, move=move,
                    **gate_options)
      gates.update({(name, level): values[..., [i]] for i, name in enumerate(here)})

  first = ['coarser', 'finer'] if scale == 'gated' else []
  before = [[*first, 'depth']] if activation == 'softmax' else [[name] for name in first]
  for names in before:
    for level in levels:
      decide(names, level, features[level])
  if scale != 'absent':
    features = scale_step(
        inner_weights(weights, 'scale'), features, gates if scale == 'gated' else None)
  if depth == 'gated' and activation != 'softmax':
    for level in levels:
      decide(['depth'], level, features[level])
  if depth != 'absent':
    features = {level: depth_step(inner_weights(weights, 'depth'), own, gates.get(('depth', level)),
                                  norm_positions, depth_update) for level, own in features.items()}
  return features, gates


def tower(weights, features, num_blocks, **options):
  """Returns outputs, and the gates of each block."""
  decided = []
  for number in range(num_blocks):
    features, gates = block(inner_weights(weights, f'block_{number}'), features, **options)
    decided.append(gates)
  return features, decided


def cost(gates, sizes, channels):
  """Counts the multiply-adds of a tower of which both steps are gated.

  Args:
    gates: the gates of each block.
    sizes: level -> number of positions.
    channels: number of channels of the features.

  Returns:
    Executed multiply-adds `[batch]`, minimum, maximum, and the ratio of eq. 4 to its value with
    all gates at 1, `[batch]`.
  """
  small, large = 9 * channels, 9 * channels**2
  minimum = maximum = executed = soft = full = 0
  for decided in gates:
    for (path, level), values in decided.items():
      # The gate's own convolution, and the depthwise one of a message between levels.
      minimum += small * sizes[level] * (1 if path == 'depth' else 2)
      if path == 'depth':
        around = dilated(values)
        executed += large * ((values > 0).sum((1, 2, 3)) + (around > 0).sum((1, 2, 3)))
        maximum += 2 * large * sizes[level]
        soft += (large + channels) * (values + around).sum((1, 2, 3))
        full += 2 * (large + channels) * sizes[level]
      else:
        soft += (small + channels) * values.sum((1, 2, 3))
        full += (small + channels) * sizes[level]
  return executed + minimum, minimum, minimum + maximum, soft / full
