"""Layer Ensembles inside nnU-Net v2: a segmentation, and how far to trust it."""
