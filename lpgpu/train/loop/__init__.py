"""From the first batch to the last epoch."""
