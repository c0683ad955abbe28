"""Views: counts per minute and in total, and sessions in Redis."""
