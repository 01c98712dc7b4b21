"""The two-way peg: deposits watched and claimed, peg-outs paid from the federation's coins.

Pure, from the bottom up: `fedscript` (the script and its tweak), `parameters`, `records` and
`commitments` (what coinbases say), `limits` (burns and their release), `claims`, `lanes` (batch
bytes and the walk), `history` (the final sidechain), `parent_view` (the own best chain),
`parent_path` (the committed chain), `batches` (selection, ladder, template), `reserves` (the book),
`state` (all of it at one height), `signing`, `trial_spend`, `receipts`, `status` (as JSON),
`digests`, `burn_relay`.

With IO: `bitcoind` and `bitcoind_rpc`, `watcher`, `ledger` (keeps the state in step), `approvals`,
`voting` (proposing and judging), `claim_checks`, `sessions` (signing, journal first), `broadcasts`,
`reports`, `ports` (what the shell passes in) and `service`, which joins them for one member.
"""
