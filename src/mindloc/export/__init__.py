"""Export of trained encoders as files for devices, each reloaded and compared before it is published."""
