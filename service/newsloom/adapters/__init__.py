"""Adapters: one outside system each; none knows another."""
