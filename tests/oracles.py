"""The penalties as naive NumPy loops: slow, obvious, and none of tfreg's code."""

import itertools
import math

import numpy as np
import scipy.optimize


def total_variation(w, axis=None, order=1, isotropic=False):
    w = np.asarray(w, np.float64)
    if axis is None:
        w, axis = w.ravel(), 0
    axes = [a % w.ndim for a in np.atleast_1d(axis)]
    if isotropic:
        return sum(
            np.sqrt(sum(_step(w, index, a) ** 2 for a in axes)) for index in np.ndindex(w.shape)
        )
    return sum(np.abs(np.diff(w, n=order, axis=a)).sum() for a in axes if w.shape[a] > order)


def _step(w, index, axis):
    """The difference to the next entry along `axis`; 0 past its end."""
    following = list(index)
    following[axis] += 1
    return w[tuple(following)] - w[index] if following[axis] < w.shape[axis] else 0.0


def total_variation_prox(w, strength, axis=None):
    """By the dual problem, whose solution is a least squares fit within bounds."""
    w = np.asarray(w, np.float64)
    if axis is None:
        return total_variation_prox(w.ravel(), strength, 0).reshape(w.shape)
    return np.apply_along_axis(_smoothed, axis, w, strength)


def _smoothed(y, strength):
    if len(y) < 2 or strength == 0.0:
        return y
    transposed = np.diff(np.eye(len(y)), axis=0).T
    bounds = -strength, strength
    fit = scipy.optimize.lsq_linear(transposed, y, bounds, method="bvls", tol=1e-14)
    return y - transposed @ fit.x


def box(w, lower=-1.0, upper=1.0):
    penalty = 0.0
    for value in np.asarray(w, np.float64).ravel():
        if upper is not None and value > upper:
            penalty += (value - upper) ** 2
        elif lower is not None and value < lower:
            penalty += (value - lower) ** 2
        elif np.isnan(value):
            penalty += value
    return penalty


def mcp(w, threshold=1.0):
    """The integral of the slope `1 - t / threshold` from 0 to each magnitude, where positive."""
    penalty = 0.0
    for t in np.abs(np.asarray(w, np.float64)).ravel():
        penalty += threshold / 2 if t > threshold else t - t**2 / (2 * threshold)
    return penalty


def scad(w, knee=1.0, threshold=3.0):
    penalty = 0.0
    for t in np.abs(np.asarray(w, np.float64)).ravel():
        if t > threshold:
            penalty += (knee + threshold) / 2
        elif t > knee:
            rest = ((threshold - knee) ** 2 - (threshold - t) ** 2) / (2 * (threshold - knee))
            penalty += knee + rest
        else:
            penalty += t
    return penalty


def quadratic(w, center=0.0, precision=1.0):
    w = np.asarray(w, np.float64)
    centers, precisions = (np.broadcast_to(x, w.shape) for x in (center, precision))
    return sum(
        0.5 * p * (x - c) ** 2 for x, c, p in zip(w.ravel(), centers.ravel(), precisions.ravel())
    )


def groups(shape, axis, group_size=None):
    """The groups of a weight of `shape`: a dict from an identity to the indices of its entries."""
    rank = len(shape)
    if isinstance(axis, str):
        kept = {"output": [rank - 1], "input": [rank - 2], "shape": range(rank - 1), "all": []}
        if rank == 1 and axis == "input":
            kept["input"] = [0]
        runs = {a: None for a in range(rank) if a not in kept[axis]}
    else:
        axes = [a % rank for a in np.atleast_1d(axis)]
        sizes = [group_size] * len(axes) if not isinstance(group_size, tuple) else group_size
        runs = dict(zip(axes, sizes))
    members = {}
    for index in np.ndindex(*shape):
        identity = tuple(
            i if a not in runs else (0 if runs[a] is None else i // runs[a])
            for a, i in enumerate(index)
        )
        members.setdefault(identity, []).append(index)
    return members


def grouped_convolution(shape, axis, count):
    """`groups` on the kernel of a convolution in `count` groups, by what the layer reads."""
    *_, channels, filters = shape
    members = {}
    for index in np.ndindex(*shape):
        *position, channel, a_filter = index
        channel += a_filter // (filters // count) * channels
        identities = {
            "output": (a_filter,),
            "input": (channel,),
            "shape": (*position, channel),
            "all": (),
        }
        members.setdefault(identities[axis], []).append(index)
    return members


def recurrent_units(shape, gates):
    """The entries of a recurrent cell's weight of each unit, in all of its `gates`."""
    units = shape[-1] // gates
    members = {}
    for index in np.ndindex(*shape):
        members.setdefault(index[-1] % units, []).append(index)
    return members


def entries_along(shape, axis):
    """The entries of a weight at each place of one of its axes."""
    members = {}
    for index in np.ndindex(*shape):
        members.setdefault(index[axis], []).append(index)
    return members


def group_lasso(w, axis="output", group_size=None, size_weighted=True):
    w = np.asarray(w, np.float64)
    return sum_of_norms(w, groups(w.shape, axis, group_size), size_weighted)


def sum_of_norms(w, members, size_weighted=True):
    """The group lasso over the groups `members`, lists of indices by identity."""
    penalty = 0.0
    for indices in members.values():
        values = np.array([w[index] for index in indices])
        largest = np.abs(values).max()
        scale = largest if 0 < largest < np.inf else 1.0
        norm = scale * np.sqrt(sum((value / scale) ** 2 for value in values))
        penalty += norm * (np.sqrt(len(values)) if size_weighted else 1.0)
    return penalty


def group_mcp(w, threshold=1.0, axis="output", group_size=None, size_weighted=True):
    w = np.asarray(w, np.float64)
    penalty = 0.0
    for indices in groups(w.shape, axis, group_size).values():
        norm = sum_of_norms(w, {None: indices}, size_weighted=False)
        size = len(indices) if size_weighted else 1.0
        penalty += size * mcp(norm / np.sqrt(size), threshold)
    return penalty


def sparse_group_lasso(w, l1_ratio=0.5, axis="output", group_size=None, size_weighted=True):
    penalty = 0.0
    if l1_ratio > 0:  # or 0 times infinity would be NaN
        penalty += l1_ratio * np.abs(np.asarray(w, np.float64)).sum()
    if l1_ratio < 1:
        penalty += (1 - l1_ratio) * group_lasso(w, axis, group_size, size_weighted)
    return penalty


def joint_group_lasso(weights, axes, group_size=None, size_weighted=True):
    """The k-th groups of all weights as one; `axes` has an entry for each weight."""
    weights = [np.asarray(w, np.float64) for w in weights]
    members = [groups(w.shape, axis, group_size) for w, axis in zip(weights, axes)]
    return joint_sum_of_norms(weights, members, size_weighted)


def _tied(members):
    """The indices in each weight of the k-th groups, for each k."""
    in_order = [[indices for _, indices in sorted(each.items())] for each in members]
    return zip(*in_order, strict=True)


def joint_sum_of_norms(weights, members, size_weighted=True):
    """The joint group lasso over `members`, with the groups of each weight by identity."""
    penalty = 0.0
    for tied in _tied(members):
        values = [w[index] for w, indices in zip(weights, tied) for index in indices]
        weight = np.sqrt(len(values)) if size_weighted else 1.0
        penalty += weight * np.sqrt(sum(value**2 for value in values))
    return penalty


def group_prox_in_metric(w, metric, l1, l2):
    """`argmin_x 1/2 sum_i metric_i (x_i - w_i)^2 + l1 ||x||_1 + l2 ||x||_2`, by bisection."""
    w = np.sign(w) * np.maximum(np.abs(w) - l1 / metric, 0.0)
    if np.linalg.norm(metric * w) <= l2:
        return np.zeros_like(w)
    low, high = 0.0, np.linalg.norm(w)
    for _ in range(200):
        norm = 0.5 * (low + high)
        is_below = np.linalg.norm(metric * w / (metric * norm + l2)) > 1.0
        low, high = (norm, high) if is_below else (low, norm)
    return metric * w * norm / (metric * norm + l2)


def joint_prox(weights, members, l1, l2, size_weighted=True):
    """The proximal operator of `l1` times the L1 norm plus `l2` times `joint_sum_of_norms`."""
    weights = [np.sign(w) * np.maximum(np.abs(w) - l1, 0.0) for w in weights]

    def kept(norm, size):
        threshold = l2 * (np.sqrt(size) if size_weighted else 1.0)
        return 1.0 - threshold / norm if norm > threshold else 0.0

    return _scaled(weights, members, kept)


def _scaled(weights, members, kept):
    """The `weights` times `kept` of the norm and the size of each tied group."""
    weights = [w.copy() for w in weights]
    for tied in _tied(members):
        values = [w[index] for w, indices in zip(weights, tied) for index in indices]
        factor = kept(np.sqrt(sum(value**2 for value in values)), len(values))
        for w, indices in zip(weights, tied):
            for index in indices:
                w[index] *= factor
    return weights


def joint_mcp_of_norms(weights, members, threshold, size_weighted=True):
    """The joint group MCP over `members`, with the groups of each weight by identity."""
    penalty = 0.0
    for tied in _tied(members):
        values = [w[index] for w, indices in zip(weights, tied) for index in indices]
        size = len(values) if size_weighted else 1.0
        penalty += size * mcp(np.sqrt(sum(value**2 for value in values) / size), threshold)
    return penalty


def joint_mcp_prox(weights, members, strength, threshold, size_weighted=True):
    """The proximal operator of `strength` times `joint_mcp_of_norms`."""

    def kept(norm, size):
        w = norm / np.sqrt(size if size_weighted else 1.0)
        return _mcp_prox(w, strength, threshold) / w if w > 0.0 else 1.0

    return _scaled(weights, members, kept)


def _mcp_prox(w, strength, threshold):
    """Of a magnitude: the best of 0, itself, and where the slope below the threshold is 0."""
    candidates = [0.0, w]
    if strength < threshold:
        candidates.append(np.clip((w - strength) / (1.0 - strength / threshold), 0.0, threshold))
    return min(candidates, key=lambda x: 0.5 * (x - w) ** 2 + strength * mcp(x, threshold))


def joint_sparse_group_lasso(weights, l1_ratio, axes, **arguments):
    l1 = sum(np.abs(np.asarray(w, np.float64)).sum() for w in weights)
    return l1_ratio * l1 + (1 - l1_ratio) * joint_group_lasso(weights, axes, **arguments)


def joint_group_mcp(weights, threshold, axes, group_size=None, size_weighted=True):
    weights = [np.asarray(w, np.float64) for w in weights]
    members = [groups(w.shape, axis, group_size) for w, axis in zip(weights, axes)]
    return joint_mcp_of_norms(weights, members, threshold, size_weighted)


def joint_total_variation(weights, order=1):
    """The differences of one weight and the next, entry by entry."""
    weights = [np.asarray(w, np.float64) for w in weights]
    for _ in range(order):
        weights = [following - w for w, following in zip(weights, weights[1:])]
    return sum(abs(value) for w in weights for value in w.ravel())


def log_normal(x, loc, scale):
    return -0.5 * ((x - loc) / scale) ** 2 - np.log(scale * np.sqrt(2 * np.pi))


def log_laplace(x, loc, scale):
    return -abs(x - loc) / scale - np.log(2 * scale)


def log_generalized_normal(x, loc, scale, power):
    constant = np.log(power / (2 * scale * math.gamma(1 / power)))
    return constant - (abs(x - loc) / scale) ** power


def log_spike_and_slab(x, mixture_distribution, components_distribution):
    """Of two normals, by the arguments of TFP's mixture."""
    shares, scales = mixture_distribution["probs"], components_distribution["scale"]
    spike, slab = (
        np.log(share) + log_normal(x, components_distribution["loc"], scale)
        for share, scale in zip(shares, scales, strict=True)
    )
    return np.logaddexp(spike, slab)


def negative_log_density(w, log_density, **parameters):
    return -sum(log_density(x, **parameters) for x in np.asarray(w, np.float64).ravel())


def article_total_variation(w):
    flat = np.asarray(w, np.float64).ravel()
    return np.abs(flat[1:] - flat[:-1]).sum()


def article_range(w, lower, upper):
    w = np.asarray(w, np.float64)
    return np.square(w - np.clip(w, lower, upper)).sum()


def article_group_sparsity(w, k):
    w = np.asarray(w, np.float64)
    grouped = w.reshape(w.shape[0] // k, k, -1)
    return np.sqrt(np.square(grouped).sum(axis=1)).sum()


def finite_differences(function, w, step=1e-6):
    """The central differences of a scalar `function` of a float64 array."""
    gradient = np.zeros_like(w)
    for index in itertools.product(*map(range, w.shape)):
        ahead, behind = w.copy(), w.copy()
        ahead[index] += step
        behind[index] -= step
        gradient[index] = (function(ahead) - function(behind)) / (2 * step)
    return gradient
