"""JSON-RPC: what a node offers to programs on its own machine.

* `json_text`, `registry`, `arguments`: JSON with exact amounts, methods, their parameters.
* `http`, `client`: server and client with cookie authentication and limits.
* `script_json`, `transaction_json`, `block_json`, `spent_coins`: data as elementsd shows it.
* `rpc` and the other `rpc_*`: Elements' methods on one chain.
"""
