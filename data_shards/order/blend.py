"""The order of several data sets with weights.

An item is one data set. A lane is a row of blocks. A block has as many positions as the sum of the weights. In every
block each item has as many positions as its weight, in an order permuted by (seed, lane, block). So neither a step nor
a lane consists of one item.

Every item has an order of its own, with the same lanes. The item's positions in a lane, counted through the blocks, are
the positions of that order. So the sample at a position is found without counting before its block.

data.epoch=mixture: an epoch has the whole blocks that every item can fill. Then all items are permuted anew.
data.epoch=source: blocks never end. Each item begins anew, permuted, when its own lane ends.

    weights 2 and 1      block 0      block 1      block 2
    a lane               a0 b0 a1     b1 a2 a3     a4 a5 b2      a0 .. : positions of item a's own lane
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from data_shards.order.plain import Draw, Order, OrderConfig, PlainOrder, permuted_bins, random_words

_BLOCKS = 2**32  # second word of the counter, in which the orders of items have the item's number


class BlendedOrder:
    """The order of `config.blend`. counts: samples per shard, int64 [shards], item by item."""

    def __init__(self, counts: np.ndarray, config: OrderConfig) -> None:
        assert config.blend and sum(config.blend.items) == len(counts)
        self.config, self.weights = config, config.blend.weights
        parts = np.split(counts, np.cumsum(config.blend.items)[:-1])
        self.items = [PlainOrder(part, config, number) for number, part in enumerate(parts)]
        self.starts = np.cumsum([0] + [int(part.sum()) for part in parts])  # id of the first sample of each item
        self._drawn: tuple[tuple[int, bytes, int, int], Draw] | None = None

    @property
    def lane_length(self) -> int:
        """Positions of a lane, as `Order.lane_length`."""
        lengths = [item.lane_length for item in self.items]
        if self.config.endless:
            blocks = max(-(-length // weight) for length, weight in zip(lengths, self.weights, strict=True))
        else:
            blocks = min(length // weight for length, weight in zip(lengths, self.weights, strict=True))
        return blocks * sum(self.weights)

    def draw(self, epoch: int, lanes: np.ndarray, first: int, last: int) -> Draw:
        """Samples as `Order.draw`. The last drawn blocks are kept."""
        epoch, size = self._key_epoch(epoch), sum(self.weights)
        start, end = first // size, (last - 1) // size + 1
        key = (epoch, lanes.tobytes(), start, end)
        if self._drawn is None or self._drawn[0] != key:
            self._drawn = (key, self._draw_blocks(epoch, lanes, start, end))
        return Draw(*(array[:, first - start * size : last - start * size] for array in self._drawn[1]))

    def _key_epoch(self, epoch: int) -> int:
        return 0 if self.config.endless else epoch

    def _draw_blocks(self, epoch: int, lanes: np.ndarray, first: int, last: int) -> Draw:
        """Samples of the blocks `first .. last` (excluded) of the lanes."""
        items = self.items_of(epoch, lanes, first, last)
        drawn = Draw(np.empty(items.shape, np.int64), np.empty(items.shape, np.int64))
        for number, weight in enumerate(self.weights):
            own, here = self._draw_item(number, epoch, lanes, first * weight, last * weight), items == number
            drawn.samples[here] = self.starts[number] + own.samples.ravel()
            drawn.epochs[here] = own.epochs.ravel()
        return drawn

    def items_of(self, epoch: int, lanes: np.ndarray, first: int, last: int) -> np.ndarray:
        """Number of the item at each position of the blocks `first .. last` (excluded): int64 [lanes, positions]."""
        size = sum(self.weights)
        counters = -(-size // 4)  # per block; each counter gives four words
        count, epoch = (last - first) * counters * 4, self._key_epoch(epoch)
        starts = [(first * counters, _BLOCKS, lane, 0) for lane in lanes.tolist()]
        words = np.stack([random_words(self.config.seed, epoch, start, count) for start in starts])
        words = words.reshape(len(lanes), last - first, counters * 4)[:, :, :size]
        quota = np.repeat(np.arange(len(self.weights)), self.weights)
        return quota[np.argsort(words, axis=2, kind="stable")].reshape(len(lanes), -1)

    def _draw_item(self, number: int, epoch: int, lanes: np.ndarray, first: int, last: int) -> Draw:
        """Samples at the positions `first .. last` (excluded) of an item's own order, without the item's start.

        In an endless order the positions run on through the item's own epochs.
        """
        item = self.items[number]
        if not self.config.endless:
            return item.draw(epoch, lanes, first, last)
        length, parts = item.lane_length, []
        for own in range(first // length, (last - 1) // length + 1):
            start = own * length
            parts.append(item.draw(own, lanes, max(first - start, 0), min(last - start, length)))
        return Draw(*(np.concatenate(arrays, axis=1) for arrays in zip(*parts, strict=True)))

    def replacements(self, epoch: int, lane: int, position: int) -> Iterator[int]:
        """Yield samples of the same item, from the window of its own order, as `Order.replacements`."""
        block, place = divmod(position, sum(self.weights))
        items = self.items_of(epoch, np.array([lane]), block, block + 1)[0]
        number = int(items[place])
        own = block * self.weights[number] + int((items[:place] == number).sum())
        if self.config.endless:
            epoch, own = divmod(own, self.items[number].lane_length)
        for sample in self.items[number].replacements(epoch, lane, own):
            yield int(self.starts[number]) + sample

    def bin_order(self, epoch: int, window: int, count: int) -> np.ndarray:
        """Permutation as `Order.bin_order`."""
        return permuted_bins(self.config.seed, self._key_epoch(epoch), window, count)


def order_of(counts: np.ndarray, config: OrderConfig) -> Order:
    """The order of a data set or of a blend. counts: samples per shard, int64 [shards]."""
    return BlendedOrder(counts, config) if config.blend else PlainOrder(counts, config)
