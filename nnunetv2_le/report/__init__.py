"""Figures and pages for a person to look at."""
