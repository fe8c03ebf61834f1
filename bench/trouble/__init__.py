"""What trouble costs: an endpoint that hangs or fails, a flood, somebody else on the same sender."""
