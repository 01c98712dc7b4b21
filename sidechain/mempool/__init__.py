"""Transactions that wait for a block. All pure.

* `pool`: the owner of accepted transactions: relations, limits, replacement.
* `selection`: which of them go into a block, in which order.
* `admission`: whether a transaction is taken in.
"""
