"""What a run will take, on paper: parameters, memory, communication, time. Pure arithmetic."""
