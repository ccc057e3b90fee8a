"""DRFPN's blocks in plain NumPy, written from the paper's equations.

`weights` maps the names of variables, such as `offset/kernel`, to arrays.
"""
import numpy as np

import reference


def weights_of(layer):
  """Returns the weights of a layer, named relative to the layer."""
  return weights_below(
      {v.name.removesuffix(':0'): v.numpy() for v in layer.variables}, layer.name)


def weights_below(weights, name):
  """Returns the weights of the inner layer `name`, named relative to it."""
  return {key.removeprefix(f'{name}/'): value for key, value in weights.items()
          if key.startswith(f'{name}/')}


def relu(values):
  return np.maximum(values, 0)


def conv(weights, name, features, function=reference.conv2d, **options):
  return function(features, weights[f'{name}/kernel'], weights[f'{name}/bias'], **options)


def _resampling_conv(weights, name, source, target, down):
  features = conv(weights, name, source,
                  reference.conv2d if down else reference.symmetric_conv2d)
  return reference.resize_bilinear(features, target.shape[1:3])


def _compressed_source(weights, source, size, down):
  features = conv(weights, 'compress_source', source)
  if not down:
    return reference.resize_bilinear(
        conv(weights, 'resample', features, reference.symmetric_conv2d), size)
  features = conv(weights, 'resample', features, reference.transposed_conv2d)
  small = np.array(source.shape[1:3])
  kept = np.where((np.array(size) + 1) // 2 == small, size, 2 * small)
  return reference.resize_bilinear(features[:, :kept[0], :kept[1]], size)


def srb(weights, source, target, direction='down', context='cat', use_offset=True,
        use_weight=True, activation=reference.sigmoid, padding='zeros', base=None):
  """Eqs. 1 to 4: conv_3(weight * sampled + resized + target)."""
  (h, w), (height, width) = source.shape[1:3], target.shape[1:3]
  maps = []
  if context != 'target':
    maps.append(_compressed_source(weights, source, (height, width), direction == 'down'))
  if context != 'source':
    maps.append(conv(weights, 'compress_target', target))
  z = sum(maps) if context == 'add' else np.concatenate(maps, -1)
  resized = sampled = reference.resize_bilinear(source, (height, width))
  if use_offset:
    delta = conv(weights, 'offset', relu(conv(weights, 'offset_hidden', z)))
    positions = np.zeros([len(source), height, width, 2])
    for i, j in np.ndindex(height, width):
      x = j * (w - 1) / max(width - 1, 1) + delta[:, i, j, 0] * (w - 1) / (height + width)
      y = i * (h - 1) / max(height - 1, 1) + delta[:, i, j, 1] * (h - 1) / (height + width)
      positions[:, i, j] = np.stack([y, x], -1)
    sampled = reference.sample_bilinear(source, positions, padding)
  if use_weight:
    sampled = sampled * activation(
        conv(weights, 'weight', relu(conv(weights, 'weight_hidden', z))))
  return conv(weights, 'output', sampled + resized + (target if base is None else base))


def channel_weights(weights, source, target, direction, context, activation):
  """Eq. 5."""
  features = {'source': source, 'target': target}.get(context)
  if features is None:
    moved = _resampling_conv(weights, 'context', source, target, direction == 'down')
    features = moved + target if context == 'add' else conv(
        weights, 'merge', np.concatenate([moved, target], -1))
  return activation(conv(weights, 'channels', features.mean((1, 2), keepdims=True)))


def crb(weights, source, target, direction='up', context='source',
        activation=reference.sigmoid):
  """Eq. 6; returns output and merged map."""
  alpha = channel_weights(
      weights_below(weights, 'weights'), source, target, direction, context, activation)
  merged = conv(weights, 'target', target) * alpha + _resampling_conv(
      weights, 'source', source, target, direction == 'down')
  return conv(weights, 'output', merged), merged


def srb_crb(weights, source, target, channel_context='source', activation=reference.sigmoid,
            **options):
  """Table 3, TD[SRB+CRB]: conv_5(target) * alpha takes the target's place in SRB."""
  alpha = channel_weights(weights_below(weights, 'weights'), source, target,
                          options.get('direction', 'down'), channel_context, activation)
  return srb(weights, source, target, activation=activation,
             base=conv(weights, 'target', target) * alpha, **options)


def adaptive_average_pool(features, bins):
  height, width = features.shape[1:3]
  result = np.zeros([len(features), bins, bins, features.shape[3]])
  for i, j in np.ndindex(bins, bins):
    rows = slice(int(np.floor(i * height / bins)), int(np.ceil((i + 1) * height / bins)))
    columns = slice(int(np.floor(j * width / bins)), int(np.ceil((j + 1) * width / bins)))
    result[:, i, j] = features[:, rows, columns].mean((1, 2))
  return result


def ppm(weights, features):
  pooled = [relu(conv(weights, f'bins_{bins}', adaptive_average_pool(features, bins)))
            for bins in (1, 2, 3, 6)]
  return np.concatenate(
      [features, *(reference.resize_bilinear(x, features.shape[1:3]) for x in pooled)], -1)


def non_local(weights, features):
  theta, phi, value = (conv(weights, name, features) for name in ('theta', 'phi', 'value'))
  mean = np.zeros(theta.shape)
  for b, i, j in np.ndindex(theta.shape[:3]):
    similarity = reference.softmax((phi[b] @ theta[b, i, j]).reshape(-1))
    mean[b, i, j] = similarity @ value[b].reshape(-1, value.shape[-1])
  return features + conv(weights, 'output', mean)


def dense_aspp(weights, features, rates=(3, 6, 12, 18, 24)):
  results = []
  for rate in rates:
    reduced = relu(conv(weights, f'reduce_{rate}', np.concatenate([features, *results], -1)))
    results.append(relu(conv(weights, f'dilated_{rate}', reduced, dilation=rate)))
  return np.concatenate(results, -1)
