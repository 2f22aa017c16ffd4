"""Networks that give several probabilistic predictions in one pass."""
