"""CADDet's supernet in plain NumPy, with a dictionary of images for every part.

Nothing is masked: the dictionary `{image: [height, width, channels]}` of a part has only the
images that need the part.
"""
import collections

import numpy as np

import reference

SCALE_CHANGES = {'up': -1, 'keep': 0, 'down': 1}
THRESHOLD = 1e-4
EPSILON = 1e-5


def depthwise(features, kernel, stride=1):
  """Convolves every channel by itself, with zeros on all sides."""
  channels = [reference.symmetric_conv2d(features[None, ..., c:c + 1], kernel[:, :, c:c + 1], 0.0,
                                         stride)[0] for c in range(features.shape[-1])]
  return np.concatenate(channels, -1)


def resize_half_pixel(features, size):
  """Resizes bilinearly with half-pixel centers; borders repeat."""
  axes = [np.clip((np.arange(b) + 0.5) * a / b - 0.5, 0, a - 1)
          for a, b in zip(features.shape[:2], size)]
  grid = np.stack(np.meshgrid(*axes, indexing='ij'), -1)
  return reference.sample_bilinear(features[None], grid[None])[0]


def quarters(features):
  """Averages the four overlapping quarters (adaptive pooling to 2x2)."""
  height, width, channels = features.shape
  result = np.zeros([2, 2, channels])
  for row, column in np.ndindex(2, 2):
    top, bottom = row * height // 2, -(-(row + 1) * height // 2)
    left, right = column * width // 2, -(-(column + 1) * width // 2)
    result[row, column] = features[top:bottom, left:right].mean((0, 1))
  return result


def exists(layer, scale, path, num_layers, num_scales):
  """Returns whether a node has a path, after the paper's figure."""
  if path == 'keep':
    return True
  return layer < num_layers and 0 <= scale + SCALE_CHANGES[path] < num_scales


class Supernet:
  """The network of a layer's weights.

  `budgets` has the budget of each image, for a layer with `budget_input`.

  Attributes:
    cost: image -> multiply-adds without the stem.
    statistics: name of a norm -> the mean and variance that it used.
    gates: name -> `[batch]`, soft, 0 where shut or not present.
    dropped: (node, image) where the image is present and all gates are shut.
    absent: (node, image) where the image is not present.
  """

  def __init__(self, layer, training=False, budgets=None):
    config = layer.get_config()
    self.num_layers, self.channels = config['num_layers'], config['channels']
    self.hard = config['hard_gates'] and not training or budgets is not None
    self.weights = {v.name.split('/', 1)[1][:-2]: v.numpy().astype(np.float64)
                    for v in layer.variables}
    self.training = training
    self.cost, self.statistics = collections.Counter(), {}
    self.gates, self.dropped, self.absent = {}, [], []
    self.budgets = budgets

  def norm(self, maps, name):
    """Normalizes by the statistics of these images, or by the moving ones."""
    gamma, beta, mean, variance = (
        self.weights[f'{name}/{part}']
        for part in ('gamma', 'beta', 'moving_mean', 'moving_variance'))
    if self.training and maps:
      values = np.concatenate([x.reshape(-1, x.shape[-1]) for x in maps.values()])
      mean, variance = values.mean(0), values.var(0)
    self.statistics[name] = mean, variance
    return {i: gamma * (x - mean) / np.sqrt(variance + EPSILON) + beta for i, x in maps.items()}

  def pointwise(self, maps, name, stride=1):
    kernel = self.weights[f'{name}/pointwise_kernel']
    maps = {i: x[::stride, ::stride] @ kernel for i, x in maps.items()}
    for i, x in maps.items():
      self.cost[i] += x.size * len(kernel)
    return self.norm(maps, f'{name}/norm')

  def separable(self, maps, name, stride=1):
    kernel = self.weights[f'{name}/depthwise_kernel']
    maps = {i: depthwise(x, kernel, stride) for i, x in maps.items()}
    for i, x in maps.items():
      self.cost[i] += x.size * 9
    return self.pointwise(maps, name)

  def route(self, maps, name, paths):
    """Returns the soft gates of every image, before the threshold."""
    kernel = self.weights[f'{name}/router/hidden/pointwise_kernel']
    hidden = self.norm(
        {i: quarters(x) @ kernel for i, x in maps.items()}, f'{name}/router/hidden/norm')
    weights, bias = (self.weights[f'{name}/router/output/{part}'] for part in ('kernel', 'bias'))
    for i in maps:
      self.cost[i] += 4 * kernel.size + weights.size
    logits = {i: np.maximum(x, 0).mean((0, 1)) @ weights + bias for i, x in hidden.items()}
    if self.budgets is not None:
      logits = {i: self.at_budget(x, name, paths, self.budgets[i]) for i, x in logits.items()}
    return {i: np.maximum(0, np.tanh(x)) for i, x in logits.items()}

  def at_budget(self, logits, name, paths, budget):
    """Moves the logits of a node to the budget of an image."""
    layer, scale = name[:len('layer_00')], int(name[len('layer_00_scale_'):])
    columns = [3 * scale + list(SCALE_CHANGES).index(path) for path in paths]

    def at(values):
      return np.array([np.interp(budget, np.linspace(0, 1, 11), column) for column in values.T])

    mean, variance = (at(self.weights[f'budget/{layer}/{part}'])[columns]
                      for part in ('mean', 'variance'))
    with np.errstate(divide='ignore'):
      quantile = np.clip(np.log(budget / (1 - budget)) / 1.702, -1e6, 1e6)
    shift = at(self.weights['budget/shift/shifts'])
    everything = [self.head_start(layer, path) for layer in range(self.num_layers + 1)
                  for scale in range(min(layer + 1, len(self.channels))) for path in SCALE_CHANGES
                  if exists(layer, scale, path, self.num_layers, len(self.channels))]
    starts = np.array([self.head_start(int(layer[-2:]), path) for path in paths])
    spread = np.sqrt(1 + np.var(everything))
    return 2 * ((logits - mean) / np.sqrt(variance + 1e-5) + starts - np.mean(everything)
                + spread * (quantile + shift))

  def head_start(self, layer, path):
    return {'keep': 2, 'down': 0, 'up': -2}[path] - 2 * layer / self.num_layers

  def __call__(self, images, known=None):
    """Returns `[{image: map} per scale]`.

    Args:
      images: `[batch, height, width, 3]`.
      known: gates by name, `[batch]`, that replace computed gates where these are open, because
        a network of less precision computes slightly different ones.
    """
    everyone = range(len(images))
    maps = dict(enumerate(images.astype(np.float64)))
    for i in (1, 2, 3):
      maps = {j: np.maximum(x, 0) for j, x in self.separable(maps, f'stem_{i}', 2).items()}
    self.cost.clear()
    arrived = {0: maps}
    for layer in range(self.num_layers + 1):
      leaving = collections.defaultdict(dict)
      for scale in sorted(arrived):
        node = f'layer_{layer:02}_scale_{scale}'
        self.absent += [(node, i) for i in everyone if i not in arrived[scale]]
        outputs = self.node(node, layer, scale, arrived[scale], len(images), known)
        for path, results in outputs.items():
          target = scale + SCALE_CHANGES[path]
          if path == 'up':
            # The size of a scale is that of the stem's map, halved once per scale.
            results = {i: resize_half_pixel(x, self.size(maps[0], target))
                       for i, x in results.items()}
          for i, x in results.items():
            leaving[target][i] = leaving[target].get(i, 0) + x
      last = min(layer + 2, len(self.channels)) if layer < self.num_layers else 0
      arrived = {scale: leaving[scale] for scale in range(last)} or leaving
    return [arrived[scale] for scale in range(len(self.channels))]

  @staticmethod
  def size(finest, scale):
    return [-(-length // 2**scale) for length in finest.shape[:2]]

  def node(self, node, layer, scale, maps, batch, known):
    paths = [path for path in SCALE_CHANGES
             if exists(layer, scale, path, self.num_layers, len(self.channels))]
    gates = self.route(maps, node, paths)
    for column, path in enumerate(paths):
      name = f'layer_{layer:02}/scale_{scale}/{path}'
      soft = np.array([gates[i][column] if i in gates else 0 for i in range(batch)])
      self.gates[name] = np.where(soft >= THRESHOLD, soft, 0)
      for i in gates:
        gates[i][column] = (known or self.gates)[name][i] if self.gates[name][i] else 0
    running = {i: x for i, x in maps.items() if gates[i].any()}
    self.dropped += [(node, i) for i in maps if i not in running]
    hidden = self.separable(running, f'{node}/separable_1')
    hidden = self.separable({i: np.maximum(x, 0) for i, x in hidden.items()},
                            f'{node}/separable_2')
    cell = {i: np.maximum(x + maps[i], 0) for i, x in hidden.items()}
    outputs = {}
    for column, path in enumerate(paths):
      weight = {i: 1.0 if self.hard else gates[i][column] for i in cell if gates[i][column]}
      results = {i: cell[i] for i in weight}
      if path != 'keep':
        results = self.pointwise(results, f'{node}/{path}', 2 if path == 'down' else 1)
        results = {i: np.maximum(x, 0) for i, x in results.items()}
      outputs[path] = {i: weight[i] * x for i, x in results.items()}
    outputs['keep'].update({i: x for i, x in maps.items() if i not in running})
    return outputs
