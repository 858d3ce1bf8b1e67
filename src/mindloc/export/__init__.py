"""Trained encoders as files for devices, each reloaded and compared before it counts."""
