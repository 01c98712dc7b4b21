"""Transactions that wait for a block. All pure.

* `entry`: one transaction as the mempool keeps it.
* `relations`: its ancestors and descendants, and the limits on them.
* `pool`: the owner of accepted transactions: relations, conflicts, sums, size, expiry.
* `eviction`: what leaves a full mempool, and the fee rate that follows.
* `admission`: whether a transaction is taken in; `replacement`, `truc` and `ephemeral` are its
  rules about relatives and conflicts.
* `packages`: several transactions at once.
* `reorganisation`: what happens to it when blocks leave the chain, and when epochs end.
* `selection`: which transactions go into a block, in which order.
* `persistence`: the file that a node keeps it in while it does not run.
"""
