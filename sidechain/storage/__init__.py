"""The chain on disk.

* `schema`: what is written, key by key (pure).
* `leveldb`: atomic synced batches, snapshots, checksums, the folder's lock.
* `chainstate`: blocks, coins, claims and indexes, moved one block at a time.
"""
