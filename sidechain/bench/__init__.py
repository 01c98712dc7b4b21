"""Measuring a node from outside, through its JSON-RPC interface.

* `load`: blocks and payments that follow from a seed, made before anything is measured.
* `hidden_payments`: payments that hide amounts and assets.
* `wire`: clients that cost little themselves.
* `daemon`: the process that is measured.
* `phases`: what is measured, one function each.
* `__main__`: the command.
"""
