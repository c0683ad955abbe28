"""`millstream sessions`: create sessions, read them, change them, end them."""
