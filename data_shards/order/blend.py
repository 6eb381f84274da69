"""The order of several data sets with weights.

Every lane goes through blocks of as many positions as the sum of the weights; in every block each item has as many as
its weight, in an order permuted by (seed, lane, block), so that neither a step nor a lane is of one item. An item's own
positions in the lane, counted through its blocks, are those of an order of its own with the same lanes. So what is at a
position takes no counting before its block.

Epochs are of the mixture: as many whole blocks as the item that runs out first allows, and then all items are permuted
anew. Or they are of each source: blocks go on for ever, and an item begins anew, permuted, when its own lane ends.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from data_shards.order.plain import Draw, Order, OrderConfig, PlainOrder, permuted_bins, random_words

_BLOCKS = 2**32  # second word of the counter, where the orders of items have the item's number


class BlendedOrder:
    """The order of `config.blend`; `counts` int64 [shards]: samples of each shard, one item after another."""

    def __init__(self, counts: np.ndarray, config: OrderConfig) -> None:
        assert config.blend and sum(config.blend.items) == len(counts)
        self.config, self.weights = config, config.blend.weights
        parts = np.split(counts, np.cumsum(config.blend.items)[:-1])
        self.items = [PlainOrder(part, config, number) for number, part in enumerate(parts)]
        self.starts = np.cumsum([0] + [int(part.sum()) for part in parts])  # id of each item's first sample
        self._drawn: tuple[tuple[int, bytes, int, int], Draw] | None = None

    @property
    def lane_length(self) -> int:
        """As `Order.lane_length`."""
        lengths = [item.lane_length for item in self.items]
        if self.config.endless:
            blocks = max(-(-length // weight) for length, weight in zip(lengths, self.weights, strict=True))
        else:
            blocks = min(length // weight for length, weight in zip(lengths, self.weights, strict=True))
        return blocks * sum(self.weights)

    def draw(self, epoch: int, lanes: np.ndarray, first: int, last: int) -> Draw:
        """As `Order.draw`; the last whole blocks are kept."""
        epoch, size = self._key_epoch(epoch), sum(self.weights)
        start, end = first // size, (last - 1) // size + 1
        key = (epoch, lanes.tobytes(), start, end)
        if self._drawn is None or self._drawn[0] != key:
            self._drawn = (key, self._draw_blocks(epoch, lanes, start, end))
        return Draw(*(array[:, first - start * size : last - start * size] for array in self._drawn[1]))

    def _key_epoch(self, epoch: int) -> int:
        return 0 if self.config.endless else epoch

    def _draw_blocks(self, epoch: int, lanes: np.ndarray, first: int, last: int) -> Draw:
        """The blocks `first .. last` (excluded) of the lanes."""
        items = self.items_of(epoch, lanes, first, last)
        drawn = Draw(np.empty(items.shape, np.int64), np.empty(items.shape, np.int64))
        for number, weight in enumerate(self.weights):
            own, here = self._draw_item(number, epoch, lanes, first * weight, last * weight), items == number
            drawn.samples[here] = self.starts[number] + own.samples.ravel()
            drawn.epochs[here] = own.epochs.ravel()
        return drawn

    def items_of(self, epoch: int, lanes: np.ndarray, first: int, last: int) -> np.ndarray:
        """The item of each position of the blocks `first .. last` (excluded): int64 [lanes, positions]."""
        size = sum(self.weights)
        counters = -(-size // 4)  # of a block: each gives four words
        count, epoch = (last - first) * counters * 4, self._key_epoch(epoch)
        starts = [(first * counters, _BLOCKS, lane, 0) for lane in lanes.tolist()]
        words = np.stack([random_words(self.config.seed, epoch, start, count) for start in starts])
        words = words.reshape(len(lanes), last - first, counters * 4)[:, :, :size]
        quota = np.repeat(np.arange(len(self.weights)), self.weights)
        return quota[np.argsort(words, axis=2, kind="stable")].reshape(len(lanes), -1)

    def _draw_item(self, number: int, epoch: int, lanes: np.ndarray, first: int, last: int) -> Draw:
        """An item's own positions `first .. last` (excluded), through its epochs where they are its own."""
        item = self.items[number]
        if not self.config.endless:
            return item.draw(epoch, lanes, first, last)
        length, parts = item.lane_length, []
        for own in range(first // length, (last - 1) // length + 1):
            start = own * length
            parts.append(item.draw(own, lanes, max(first - start, 0), min(last - start, length)))
        return Draw(*(np.concatenate(arrays, axis=1) for arrays in zip(*parts, strict=True)))

    def replacements(self, epoch: int, lane: int, position: int) -> Iterator[int]:
        """As `Order.replacements`: of the same item, from its own window."""
        block, place = divmod(position, sum(self.weights))
        items = self.items_of(epoch, np.array([lane]), block, block + 1)[0]
        number = int(items[place])
        own = block * self.weights[number] + int((items[:place] == number).sum())
        if self.config.endless:
            epoch, own = divmod(own, self.items[number].lane_length)
        for sample in self.items[number].replacements(epoch, lane, own):
            yield int(self.starts[number]) + sample

    def bin_order(self, epoch: int, window: int, count: int) -> np.ndarray:
        """As `Order.bin_order`."""
        return permuted_bins(self.config.seed, self._key_epoch(epoch), window, count)


def order_of(counts: np.ndarray, config: OrderConfig) -> Order:
    """The order of shards of `counts` int64 [shards] samples."""
    return BlendedOrder(counts, config) if config.blend else PlainOrder(counts, config)
