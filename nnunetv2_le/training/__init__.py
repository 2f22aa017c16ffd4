"""Trainers, and the losses and schedules they use."""
