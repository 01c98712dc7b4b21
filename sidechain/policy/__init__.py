"""What a node keeps in its mempool, and how it makes a block. All pure, never consensus.

* `fees`: rates, the sizes they are asked for, and how amounts are written in reasons.
* `standardness`: forms of transactions and outputs that are relayed; dust.
* `inputs`: forms of spent outputs, redeem scripts and witnesses that are relayed.
* `pegouts`: authorised peg-outs.
* `pegins`: minimum of a peg-in and the burn that pays for its way back.
* `template`: the block a node would make.

Source: elements/transactions.md 7, elements/peg.md 3.4 and 5.
"""
