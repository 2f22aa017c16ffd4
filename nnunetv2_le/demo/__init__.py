"""Phantoms and image corruptions for the demo, tests and studies: no patient data."""
