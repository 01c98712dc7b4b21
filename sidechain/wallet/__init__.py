"""The user's wallet: keys, transaction building (both pure), and the store of owned coins.

* `keys`: derivation of the account, receive, change and claim keys from one seed (pure).
* `selection`: which coins pay for an amount and its fee (pure).
* `builder`: payments, burns (peg-out) and peg-in claims, and their signatures (pure).
* `sealing`: the seed as it lies on disk, encrypted when there is a passphrase (pure).
* `records`: what the store keeps, as bytes (pure).
* `wallet`: one wallet's state, folded from final blocks and own transactions.
* `book`: all wallets of one process over one LevelDB.
"""
