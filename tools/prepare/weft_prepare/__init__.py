"""`weft prepare`: a client's own data into the data folder that its daemon maps (training/data/shard.h)."""
