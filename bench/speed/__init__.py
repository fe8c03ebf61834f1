"""What the work costs, beside a floor measured in the same run; and what does not cost: what is stored."""
