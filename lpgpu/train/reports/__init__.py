"""What people read and look at: summaries, plots, tables."""
