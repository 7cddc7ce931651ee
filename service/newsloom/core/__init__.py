"""The core: values in, values out. No IO, clock, randomness, logging; import-linter checks."""
