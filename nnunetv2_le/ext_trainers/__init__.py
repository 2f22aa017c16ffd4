"""The folder that ``nnUNet_extTrainer`` points at; nnU-Net searches the one module in it."""
