"""`sidechaind`: the chain alone as a daemon that takes elementsd's options and files.

* `options`: every option name of elementsd, and what it does here.
* `settings`: command line and `elements.conf` read into one set of values.
* `chain_options`: the parameters of a chain from those values.
* `node_options`: everything else a node is told at start.
* `datadir`, `process`, `entry`: the folder, the running node, the command.
"""
