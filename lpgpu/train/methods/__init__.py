"""What training may do besides plain steps of an optimizer."""
