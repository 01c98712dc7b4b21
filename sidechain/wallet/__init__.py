"""The user's wallet: keys, transaction building (both pure), and the store of owned coins.

* `keys`: derivation of the account, receive, change, claim and blinding keys from one seed (pure).
* `blinding`: hiding amounts and assets of outputs, opening those that are for us (pure).
* `selection`: which coins pay for an amount and its fee (pure).
* `builder`: payments and burns (peg-out), blinded where they should be, and signatures (pure).
* `claim`: peg-in claims, explicit or blinded (pure).
* `covenant`: claim scripts that anybody may satisfy for the user, and their claims (pure).
* `issuing`: issuing, reissuing and burning assets (pure).
* `descriptor`: the account as a descriptor, written and read (pure).
* `pset`: partially signed transactions, over libwally (pure).
* `sealing`: the seed as it lies on disk, encrypted when there is a passphrase (pure).
* `records`: what the store keeps, as bytes (pure).
* `wallet`: one wallet's state, folded from final blocks and own transactions.
* `book`: all wallets of one process over one LevelDB.
"""
