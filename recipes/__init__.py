"""Applications, one command each: `recipes/NAME.sh` has the commands, NAME.py its data and its baseline."""
