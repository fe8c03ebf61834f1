"""`python -m dlqctl` is `dlqctl`."""

from dlqctl.cli import main

main()
