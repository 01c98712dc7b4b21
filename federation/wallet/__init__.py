"""The user's wallet process: what stands between wallets, running members and a bitcoind.

* `settings`: what the local runner wrote about ports and cookies; the chain's parameters.
* `links`: calls to whichever member answers, and to bitcoind's faucet wallet.
* `pegs`: peg-ins and peg-outs as durable records, and when a deposit may be claimed (pure).
* `peg_store`: those records in the wallet store, indexed.
* `deposits`: follows Bitcoin and finds deposits to own addresses.
* `chain`: follows the final chain of the federation; keyring of unlocked wallets.
* `worker`: sends, funds and claims; the only place that makes peg transactions by itself.
* `spending`: makes, records and sends what wallets pay; `asset_names`: labels of assets.
* `views`: the stages the user is shown.
* `methods`, `peg_methods`, `asset_methods`, `pset_methods`: the JSON-RPC methods; `arguments`: what
  these have in common.
* `parts`: all of it put together.
"""
