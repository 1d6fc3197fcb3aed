"""`banyan serve COMMAND`: a file for each; one more is a row of the verb in launch/verbs.py."""
