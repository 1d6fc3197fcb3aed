"""Applications, each one command: `recipes/NAME.sh`. The commands are in the script, its data and baseline in NAME.py."""
