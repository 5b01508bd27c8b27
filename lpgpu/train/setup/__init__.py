"""What is trained, and with which options: recipes' parts, ranks, schedulers."""
