"""`sweeps doctor`: looks, from every machine of a cluster, for what would spoil a sweep, before it costs anything."""
