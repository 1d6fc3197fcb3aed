"""Speed, measured side by side: one command each (make bench-cpu, bench-gpu, bench-data, bench-start)."""
