"""From images to files: members, sliding window, native grid, tables."""
