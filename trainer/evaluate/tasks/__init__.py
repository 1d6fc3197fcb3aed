"""Tasks: what a model is asked, what it answers, and how that is judged, as the field's harness does it."""
