"""What a run is, whatever it trains: its directory, lock, resume and summary."""
