"""What is done with a trained run: see how exact its solves are, give its network away."""
