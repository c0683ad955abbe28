"""What an agent is: its template, the shape of its answer, its retries."""
