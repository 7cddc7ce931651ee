"""The others: programs of their own, in an environment of their own; see `bench.field`."""
