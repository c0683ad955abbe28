"""What it costs that a run's steps stand on a journal, and how soon a long run goes on."""
