"""Metrics: overlap, surface distance, calibration error, failure detection."""
