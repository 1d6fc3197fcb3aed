"""To be imported, by servers that fork ranks: does all of tests.warm."""

from tests.warm import main

main()
