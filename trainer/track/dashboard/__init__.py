"""W&B dashboards as code: a specification is checked, built, and posted or written."""
