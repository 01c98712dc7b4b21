"""Where scripts, outputs and assets occur: an index of a chain, with a folder of its own.

It follows the chain and can be rebuilt from it at any time; nothing else depends on it.

* `traces`: what one transaction leaves in the index. Pure.
* `rows`: how a block's traces are written, key by key. Pure.
* `store`: the rows on disk, one batch a block.
* `waiting`: the same for transactions that wait in the mempool, in memory.
* `follower`: brings the store to the chain's tip, without keeping the event loop waiting.
"""
