"""Labels: what positions of axes live and die together, as a union-find."""

import numpy as np


class Labels:
    """Sets of labels, which are ints; some are pinned, with the reason why they cannot go."""

    def __init__(self) -> None:
        self._parents = np.zeros(1024, np.int64)
        self.count = 0
        self._reasons: dict[int, str] = {}

    def new(self, count: int) -> np.ndarray:
        """That many labels, each in a set of its own."""
        first, self.count = self.count, self.count + count
        if self.count > len(self._parents):
            grown = np.zeros(max(2 * len(self._parents), self.count), np.int64)
            grown[:first] = self._parents[:first]
            self._parents = grown
        made = np.arange(first, self.count)
        self._parents[made] = made
        return made

    def roots(self, labels: np.ndarray) -> np.ndarray:
        """For each of the `labels`, the label that stands for its set."""
        roots = self._parents[labels]
        while True:
            above = self._parents[roots]
            if np.array_equal(above, roots):
                break
            roots = above
        self._parents[labels] = roots
        return roots

    def unify(self, first: np.ndarray, second: np.ndarray) -> None:
        """Merges the sets of each pair of labels."""
        for a, b in zip(self.roots(first).tolist(), self.roots(second).tolist()):
            a, b = self._root(a), self._root(b)
            if a != b:
                low, high = min(a, b), max(a, b)
                self._parents[high] = low
                if high in self._reasons:
                    reason = self._reasons.pop(high)
                    self._reasons.setdefault(low, reason)

    def _root(self, label: int) -> int:
        parents = self._parents
        while parents[label] != label:
            parents[label] = parents[parents[label]]
            label = int(parents[label])
        return label

    def pin(self, labels: np.ndarray, reason: str) -> None:
        """Keeps the sets of these `labels`; the first reason given is the one that is told."""
        for root in np.unique(self.roots(labels)).tolist():
            self._reasons.setdefault(root, reason)

    def reason(self, root: int) -> str | None:
        """Why the set that `root` stands for is pinned; None if it is free."""
        return self._reasons.get(root)

    def are_pinned(self, labels: np.ndarray) -> np.ndarray:
        pinned = np.fromiter(self._reasons, np.int64, len(self._reasons))
        return np.isin(self.roots(labels), pinned)
