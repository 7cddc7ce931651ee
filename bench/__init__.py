"""Measurements: quality against labelled data, throughput against peers."""
