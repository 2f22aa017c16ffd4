"""Voxel maps, agreement and scores: pure functions of members, wherever they come from."""
