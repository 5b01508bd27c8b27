"""A run's folder: config, records, checkpoints."""
