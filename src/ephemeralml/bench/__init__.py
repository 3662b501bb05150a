"""How fast it is: measured in one run beside other engines, and written down with the machine it ran on."""
